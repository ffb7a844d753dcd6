"""Joint attention over the views of one prompt, and the camera numbers that multi-view teachers are conditioned on.

A multi-view teacher (MVDream, arXiv 2308.16512; RichDreamer, arXiv 2311.16918) is a plain diffusers ``UNet2DConditionModel``
with ``class_embed_type="projection"``: a two-layer MLP turns 16 camera numbers into a vector that is added to the time
embedding. Its self-attention sees the tokens of all views of one prompt as one sequence; cross-attention stays per view.
"""

import math

from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from prd_lightning.attention import attend
from prd_lightning.cameras import Cameras
from prd_lightning.errors import ConfigurationError


class JointViewAttention:
    """A diffusers attention processor that joins ``views`` adjacent batch items into one sequence for self-attention."""

    def __init__(self, views: int) -> None:
        self.views = views

    def __call__(
        self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **unused: object
    ) -> Tensor:
        """Attention of [B * views, tokens, width]; joint over views unless there are ``encoder_hidden_states``."""
        batch, tokens, width = hidden_states.shape
        is_self = encoder_hidden_states is None
        if is_self:
            if batch % self.views:
                raise ConfigurationError(f"a batch of {batch} pictures is not a multiple of {self.views} views")
            hidden_states = hidden_states.reshape(batch // self.views, self.views * tokens, width)
        context = hidden_states if is_self else encoder_hidden_states

        def heads(values: Tensor) -> Tensor:
            return values.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        mixed = attend(heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context)), attn.scale)
        output = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        return output.reshape(batch, tokens, width)


def install_joint_view_attention(unet: UNet2DConditionModel, views: int) -> None:
    """Makes every self-attention of ``unet`` joint over ``views`` adjacent batch items (in place)."""
    if views < 1:
        raise ConfigurationError(f"a multi-view teacher needs at least one view, got {views}")
    unet.set_attn_processor(JointViewAttention(views))


def unit_sphere_camera_condition(
    camera_to_world: Float[Tensor, "views 4 4"],
) -> Float[Tensor, "views 16"]:
    """MVDream's camera numbers: row-major camera-to-world matrices whose positions are scaled to the unit sphere."""
    normalized = camera_to_world.clone()
    position = camera_to_world[:, :3, 3]
    normalized[:, :3, 3] = position / (position.norm(dim=-1, keepdim=True) + 1e-8)
    return normalized.flatten(1)


def rotated_camera_condition(
    camera_to_world: Float[Tensor, "views 4 4"], distances: Float[Tensor, " views"]
) -> Float[Tensor, "views 16"]:
    """RichDreamer's camera numbers: unit-sphere positions, a turn of -90 degrees about z, then positions times ``distances``."""
    angle = -0.5 * math.pi
    turn = camera_to_world.new_tensor(
        [
            [math.cos(angle), -math.sin(angle), 0.0, 0.0],
            [math.sin(angle), math.cos(angle), 0.0, 0.0],
            [0.0, 0.0, 1.0, 0.0],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
    turned = turn @ unit_sphere_camera_condition(camera_to_world).unflatten(-1, (4, 4))
    turned[:, :3, 3] *= distances[:, None]
    return turned.flatten(1)


def mvdream_camera_condition(cameras: Cameras) -> Float[Tensor, "views 16"]:
    """Camera numbers as MVDream was trained on them."""
    return unit_sphere_camera_condition(cameras.camera_to_world)


def richdreamer_camera_condition(cameras: Cameras) -> Float[Tensor, "views 16"]:
    """Camera numbers as RichDreamer's normal-depth model was trained on them: twice the relative distance."""
    return rotated_camera_condition(cameras.camera_to_world, 2.0 * cameras.relative_distance)
