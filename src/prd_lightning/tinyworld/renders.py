"""True pictures of scenes by sphere tracing: what the tiny teachers are trained on, and what an exact teacher shows.

Maps follow the renderers' contract: white background for colour, camera-space normals with x flipped and mapped to [0, 1] on
(0.5, 0.5, 1.0), disparity ``(far - depth) / (far - near)`` with near and far = camera distance -/+ sqrt(3).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from prd_lightning.cameras import Cameras
from prd_lightning.tinyworld.shapes import Scene, scene_color, scene_distance, scene_normal

BOUNDING_RADIUS = 0.95
TRACE_STEPS = 200
HIT_TOLERANCE = 1e-4
"""A ray that comes this near counts as a hit: objects look larger by as much, so it must be far below a pixel's size."""


@dataclass(frozen=True)
class SceneMaps:
    """True maps of one scene from V cameras, each [V, H, W, C]: ``rgb`` and ``normal_camera`` have 3 channels, the rest 1."""

    rgb: Float[Tensor, "views height width 3"]
    opacity: Float[Tensor, "views height width 1"]
    disparity: Float[Tensor, "views height width 1"]
    normal_camera: Float[Tensor, "views height width 3"]


def trace(scene: Scene, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Distance along each ray ([N]) and whether it hits ([N] bool), by sphere tracing within the bounding ball."""
    closest = -(origins * directions).sum(-1)
    miss_squared = (origins**2).sum(-1) - closest**2
    half_chord = (BOUNDING_RADIUS**2 - miss_squared).clamp_min(0).sqrt()
    active = (miss_squared < BOUNDING_RADIUS**2).nonzero().squeeze(-1)
    distance, hit = closest - half_chord, torch.zeros_like(closest, dtype=torch.bool)
    exit_distance = closest + half_chord
    for _ in range(TRACE_STEPS):
        step = scene_distance(scene, origins[active] + distance[active, None] * directions[active])
        arrived = step < HIT_TOLERANCE
        hit[active[arrived]] = True
        distance[active] += step * (~arrived)
        active = active[~arrived & (distance[active] < exit_distance[active])]
        if not len(active):
            break
    return distance, hit


@torch.no_grad()
def render_scene(scene: Scene, cameras: Cameras, size: int, supersampling: int = 2) -> SceneMaps:
    """Maps of ``scene`` at ``size`` x ``size``, each pixel the mean of ``supersampling`` squared rays."""
    fine = size * supersampling
    origins, directions = cameras.rays(fine, fine)
    views, flat_origins, flat_directions = len(cameras), origins.reshape(-1, 3), directions.reshape(-1, 3)
    distance, hit = trace(scene, flat_origins, flat_directions)
    points = flat_origins[hit] + distance[hit, None] * flat_directions[hit]
    normals = scene_normal(scene, points)
    rgb = torch.ones_like(flat_origins)
    rgb[hit] = scene_color(scene, points, normals)

    camera_of_ray = torch.arange(views, device=points.device).repeat_interleave(fine * fine)[hit]
    rotation = cameras.world_to_camera()[camera_of_ray, :3, :3]
    camera_normals = torch.einsum("nij,nj->ni", rotation, normals) * normals.new_tensor([-1.0, 1.0, 1.0])
    normal_map = rgb.new_tensor([0.5, 0.5, 1.0]).expand_as(rgb).clone()
    normal_map[hit] = 0.5 + 0.5 * camera_normals

    disparity = torch.zeros_like(distance)
    reach = cameras.distance[camera_of_ray]
    disparity[hit] = ((reach + math.sqrt(3) - distance[hit]) / (2 * math.sqrt(3))).clamp(0, 1)

    def image(values: Tensor) -> Tensor:
        grid = values.reshape(views, size, supersampling, size, supersampling, -1)
        return grid.mean(dim=(2, 4))

    return SceneMaps(
        rgb=image(rgb), opacity=image(hit.to(rgb.dtype)), disparity=image(disparity), normal_camera=image(normal_map)
    )
