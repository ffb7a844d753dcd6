"""Attention over the six planes of a scene, as diffusers attention processors."""

from torch import Tensor, nn

from prd_lightning.attention import attend
from prd_lightning.generator.adapters import PLANES


def _attend(attn: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    def heads(values: Tensor) -> Tensor:
        return values.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

    mixed = attend(heads(query), heads(key), heads(value), attn.scale)
    return mixed.transpose(1, 2).flatten(2)


class JointPlaneSelfAttention:
    """Self-attention in which the tokens of the six planes of a scene are one sequence."""

    def __call__(self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: None = None, **unused: object) -> Tensor:
        """[B * 6, tokens, width] to the same shape; projections are per plane, attention is joint."""
        batch, tokens, width = hidden_states.shape
        joint = (batch // PLANES, PLANES * tokens, -1)
        query, key, value = (project(hidden_states).reshape(joint) for project in (attn.to_q, attn.to_k, attn.to_v))
        return attn.to_out[0](_attend(attn, query, key, value).reshape(batch, tokens, -1))


class SharedTextCrossAttention:
    """Cross-attention of all planes of a scene with one text, whose keys and values are computed once per scene."""

    def __call__(self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor, **unused: object) -> Tensor:
        """[B * 6, tokens, width] pictures and [B, words, text width] to [B * 6, tokens, width]."""
        batch, tokens, _ = hidden_states.shape
        query = attn.to_q(hidden_states).reshape(batch // PLANES, PLANES * tokens, -1)
        mixed = _attend(attn, query, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states))
        return attn.to_out[0](mixed.reshape(batch, tokens, -1))
