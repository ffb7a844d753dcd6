"""Signed distances on the iso-surface's grid: the look-up that knows the grid's axes against one look-up for each point."""

import torch
import torch.nn.functional as functional
from torch import Tensor

from benchmarks.measuring import Result, Settings, make_cases, measure
from prd_lightning.field import PLANE_AXES, TriplaneField, orient_planes
from prd_lightning.isosurface import grid_points

POINTS_AT_ONCE = 200_000


@torch.no_grad()
def dense_distances(field: TriplaneField, planes: Tensor, resolution: int) -> Tensor:
    """[1, (resolution + 1)^3] distances of [1, 6, C, H, W] planes by ``grid_sample`` at every grid point."""
    oriented, distances = orient_planes(planes)[:, :3], []
    for points in grid_points(resolution, planes.device).split(POINTS_AT_ONCE):
        features = sum(
            functional.grid_sample(oriented[:, index], points[None, None, :, list(axes)], align_corners=False)
            for index, axes in enumerate(PLANE_AXES)
        )
        value = field.sdf_network(features[:, :, 0].transpose(1, 2)).squeeze(-1)
        distances.append(value + points.norm(dim=-1) - field.sphere_radius)
    return torch.cat(distances, dim=1)


def build(settings: Settings) -> Result:
    """Both at several resolutions, with planes as large as the real ones."""
    size, channels, resolutions = (8, 4, (4, 6)) if settings.smallest else (256, 32, (64, 128, 160))
    torch.manual_seed(0)
    field = TriplaneField(channels).to(settings.device)
    planes = torch.randn(1, 6, channels, size, size, device=settings.device) * 0.1
    prepared = field.prepare(planes)
    cases, baselines = {}, {}
    for resolution in resolutions:
        quick, plain = f"along the axes, {resolution}", f"every point, {resolution}"
        cases[quick] = lambda resolution=resolution: field.grid_sdf(prepared, resolution)
        cases[plain] = lambda resolution=resolution: dense_distances(field, planes, resolution)
        baselines |= {quick: quick, plain: quick}
    sizes = {"plane_size": size, "channels": channels}
    return Result("distances on a regular grid", sizes, make_cases(measure(cases, settings), baselines))
