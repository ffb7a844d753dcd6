"""What both renderers return: named maps, [V, H, W, C], row 0 at the top.

``disparity`` is ``(far - depth) / (far - near)`` with near and far = camera distance -/+ sqrt(3); ``normal_camera`` is the
normal in the camera's axes with x flipped, mapped to [0, 1], on the background (0.5, 0.5, 1.0) (design section 4).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor

from prd_lightning.cameras import Cameras

NORMAL_BACKGROUND = (0.5, 0.5, 1.0)
WHITE_BACKGROUND = (1.0, 1.0, 1.0)

Background = Callable[[Float[Tensor, "views height width 3"]], Float[Tensor, "views height width 3"]]


@dataclass(frozen=True)
class RenderedMaps:
    """Pictures of V views.

    Attributes:
        rgb: [V, H, W, 3] colour over the background.
        opacity: [V, H, W, 1] in [0, 1].
        depth: [V, H, W, 1] distance along the ray times opacity.
        disparity: [V, H, W, 1] in [0, 1], 0 where nothing is.
        normal_world: [V, H, W, 3] unit normals, zero where nothing is.
        normal_camera: [V, H, W, 3] in [0, 1].
        depth_variance: [V, H, W, 1] spread of the weight along each ray, of renderers that have it.
        sdf_gradient: [B, M, 3] gradients of the field at sampled points, for the eikonal loss.
        sdf_counted: [B, M] bool: which of them count, since not every scene has equally many; None for all.
        empty_mesh_count: scenes that had no surface.
    """

    rgb: Float[Tensor, "views height width 3"]
    opacity: Float[Tensor, "views height width 1"]
    depth: Float[Tensor, "views height width 1"]
    disparity: Float[Tensor, "views height width 1"]
    normal_world: Float[Tensor, "views height width 3"]
    normal_camera: Float[Tensor, "views height width 3"]
    depth_variance: Float[Tensor, "views height width 1"] | None = None
    sdf_gradient: Float[Tensor, "scenes samples 3"] | None = None
    sdf_counted: Bool[Tensor, "scenes samples"] | None = None
    empty_mesh_count: int = 0


def scale_gradient(value: Tensor, factor: float) -> Tensor:
    """The same value, with its gradient multiplied by ``factor``."""
    return value * factor + value.detach() * (1 - factor) if factor != 1 else value


def disparity_from_depth(
    depth: Float[Tensor, "views height width 1"],
    opacity: Float[Tensor, "views height width 1"],
    camera_distance: Float[Tensor, " views"],
) -> Float[Tensor, "views height width 1"]:
    """Disparity of a depth map; where opacity is below 1, the far plane shows through."""
    distance = camera_distance[:, None, None, None]
    far, span = distance + math.sqrt(3), 2 * math.sqrt(3)
    return ((far - (depth * opacity + (1 - opacity) * far)) / span).clamp(0, 1)


def normal_to_camera(
    normal_world: Float[Tensor, "views height width 3"],
    opacity: Float[Tensor, "views height width 1"],
    cameras: Cameras,
    background: tuple[float, float, float] = NORMAL_BACKGROUND,
) -> Float[Tensor, "views height width 3"]:
    """Unit normals of the world to the [0, 1] map that normal teachers know; ``WHITE_BACKGROUND`` is for looking at it."""
    rotation = cameras.world_to_camera()[:, :3, :3]
    local = torch.einsum("vij,vhwj->vhwi", rotation, normal_world) * normal_world.new_tensor([-1.0, 1.0, 1.0])
    return (local + 1) / 2 * opacity + (1 - opacity) * normal_world.new_tensor(background)


def resize_map(picture: Float[Tensor, "views height width channels"], size: int) -> Float[Tensor, "views size size channels"]:
    """A square map at another size: averaged when it shrinks, bilinear when it grows."""
    if picture.shape[1] == size:
        return picture
    first = picture.permute(0, 3, 1, 2)
    if picture.shape[1] > size:
        resized = functional.adaptive_avg_pool2d(first, size)
    else:
        resized = functional.interpolate(first, (size, size), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)
