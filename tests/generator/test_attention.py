"""Attention of the generator against a loop over scenes, planes and heads that is written out."""

import math

import pytest
import torch
from diffusers.models.attention_processor import Attention

from prd_lightning.generator.adapters import PLANES
from prd_lightning.generator.attention import JointPlaneSelfAttention, SharedTextCrossAttention

HEADS, HEAD_WIDTH, WIDTH, TEXT_WIDTH = 2, 3, 6, 5


@pytest.fixture
def self_attention() -> Attention:
    torch.manual_seed(0)
    return Attention(WIDTH, heads=HEADS, dim_head=HEAD_WIDTH, processor=JointPlaneSelfAttention()).double()


@pytest.fixture
def cross_attention() -> Attention:
    torch.manual_seed(1)
    return Attention(WIDTH, TEXT_WIDTH, heads=HEADS, dim_head=HEAD_WIDTH, processor=SharedTextCrossAttention()).double()


def attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """One token's attention, head by head."""
    mixed = []
    for head in range(HEADS):
        part = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
        weights = torch.softmax(keys[:, part] @ query[part] / math.sqrt(HEAD_WIDTH), dim=0)
        mixed.append(weights @ values[:, part])
    return torch.cat(mixed)


def test_self_attention_sees_the_tokens_of_all_six_planes_of_its_scene(self_attention: Attention):
    hidden = torch.randn(2 * PLANES, 4, WIDTH, dtype=torch.float64)
    actual = self_attention(hidden)
    for scene in range(2):
        tokens = hidden[scene * PLANES : (scene + 1) * PLANES].reshape(-1, WIDTH)
        keys, values = self_attention.to_k(tokens), self_attention.to_v(tokens)
        expected = torch.stack([attend(query, keys, values) for query in self_attention.to_q(tokens)])
        expected = self_attention.to_out[0](expected).view(PLANES, 4, WIDTH)
        torch.testing.assert_close(actual[scene * PLANES : (scene + 1) * PLANES], expected, rtol=1e-10, atol=1e-12)


def test_self_attention_does_not_mix_scenes(self_attention: Attention):
    hidden = torch.randn(2 * PLANES, 4, WIDTH, dtype=torch.float64)
    before = self_attention(hidden)
    hidden[PLANES] += 1.0
    after = self_attention(hidden)
    assert torch.equal(before[:PLANES], after[:PLANES])
    assert ((before[PLANES:] - after[PLANES:]).abs().flatten(1).amax(dim=1) > 1e-6).all(), "every plane sees the changed plane"


def test_cross_attention_is_per_plane_with_the_scene_s_text(cross_attention: Attention):
    hidden = torch.randn(2 * PLANES, 4, WIDTH, dtype=torch.float64)
    text = torch.randn(2, 7, TEXT_WIDTH, dtype=torch.float64)
    actual = cross_attention(hidden, text)
    for index in range(2 * PLANES):
        keys, values = cross_attention.to_k(text[index // PLANES]), cross_attention.to_v(text[index // PLANES])
        expected = torch.stack([attend(query, keys, values) for query in cross_attention.to_q(hidden[index])])
        torch.testing.assert_close(actual[index], cross_attention.to_out[0](expected), rtol=1e-10, atol=1e-12)
