"""Meshes in clip space, for tests of rasterizers."""

import torch

from prd_lightning.cameras import orbit_cameras
from prd_lightning.isosurface import extract_isosurface, grid_points


def from_screen(points, size, w=None, z=None):
    """Clip-space positions [1, N, 4] of pixel coordinates [N, 2] on a square picture, with given w and z / w."""
    w = torch.ones_like(points[:, :1]) if w is None else w[:, None]
    z = torch.zeros_like(points[:, :1]) if z is None else z[:, None]
    plane = (points + 0.5) * 2 / size - 1
    return torch.cat([plane * w, z * w, w], dim=-1)[None]


def covering_mesh(size, cells=6, seed=0):
    """A triangulated grid with jittered inner points, larger than the picture: [N, 2] pixel coordinates and faces."""
    axis = torch.linspace(-2.0, size + 1.0, cells + 1)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([columns, rows], dim=-1)
    jitter = torch.rand(points.shape, generator=torch.Generator().manual_seed(seed)) - 0.5
    points[1:-1, 1:-1] += jitter[1:-1, 1:-1] * 0.7 * (axis[1] - axis[0])
    index = torch.arange((cells + 1) ** 2).view(cells + 1, cells + 1)
    a, b, c, d = (part.flatten() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    return points.flatten(0, 1), torch.cat([torch.stack([a, b, d], dim=1), torch.stack([a, d, c], dim=1)])


def sphere_mesh(resolution=10, dtype=torch.float64):
    """Off the grid's centre, so that no vertex of the grid lies on the surface and no triangle is without area."""
    center = torch.tensor([0.013, 0.021, -0.017], dtype=dtype)
    vertices, faces = extract_isosurface((grid_points(resolution).to(dtype) - center).norm(dim=-1) - 0.583, resolution)
    return vertices - center, faces


def clip_positions(vertices, views=2):
    ones = torch.ones(views, dtype=vertices.dtype)
    cameras = orbit_cameras(20 * ones, torch.arange(views) * 100.0 + 10 * ones, 2.2 * ones, 45 * ones)
    homogeneous = torch.nn.functional.pad(vertices, (0, 1), value=1.0)
    return cameras, torch.einsum("vij,nj->vni", cameras.model_view_projection(), homogeneous)
