"""The rasterizer in PyTorch: views in a second, forward alone and with the backward pass; nvdiffrast beside it where it runs."""

import importlib.util
import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from benchmarks.measuring import Result, Settings, make_cases, measure
from prd_lightning.cameras import turntable_cameras
from prd_lightning.rendering import make_rasterizer
from prd_lightning.rendering.rasterizers import Rasterizer


def round_mesh(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Vertices and the 2 * rows * columns faces of a sphere of radius 0.6 (a few at the poles have no area)."""
    polar = torch.linspace(0.0, math.pi, rows + 1)[:, None]
    around = torch.arange(columns) * (2 * math.pi / columns)
    vertices = torch.stack([polar.sin() * around.cos(), polar.sin() * around.sin(), polar.cos().expand(-1, columns)], dim=-1)
    number = torch.arange((rows + 1) * columns).view(rows + 1, columns)
    corner, right = number[:-1], number[:-1].roll(-1, dims=1)
    below, opposite = number[1:], number[1:].roll(-1, dims=1)
    faces = torch.stack([torch.stack([corner, below, opposite], -1), torch.stack([corner, opposite, right], -1)])
    return 0.6 * vertices.reshape(-1, 3), faces.reshape(-1, 3)


def draw(rasterizer: Rasterizer, vertices: Tensor, faces: Tensor, projection: Tensor, size: int) -> Tensor:
    """[V, H, W, 3] pictures whose colours are positions: rasterize, interpolate, antialias."""
    clip = torch.einsum("vij,nj->vni", projection, functional.pad(vertices, (0, 1), value=1.0))
    raster = rasterizer.rasterize(clip, faces, (size, size))
    return rasterizer.antialias(rasterizer.interpolate(vertices[None], raster, faces), raster, clip, faces)


def build(settings: Settings) -> Result:
    """60 000 triangles in four views of 256 x 256 pixels."""
    rows, columns, size, views = (4, 6, 16, 2) if settings.smallest else (150, 200, 256, 4)
    vertices, faces = (part.to(settings.device) for part in round_mesh(rows, columns))
    vertices.requires_grad_()
    projection = turntable_cameras(views).to(settings.device).model_view_projection()
    names = ["torch"]
    if settings.device.type == "cuda" and importlib.util.find_spec("nvdiffrast"):
        names.append("nvdiffrast")
    cases = {}
    for name in names:
        backend = make_rasterizer(name, settings.device)

        def forward(backend: Rasterizer = backend) -> None:
            with torch.no_grad():
                draw(backend, vertices, faces, projection, size)

        def both(backend: Rasterizer = backend) -> None:
            draw(backend, vertices, faces, projection, size).square().sum().backward()

        cases |= {f"{name}, forward": forward, f"{name}, forward and backward": both}
    sizes = {"triangles": len(faces), "views": views, "image_size": size}
    made = make_cases(measure(cases, settings), "torch, forward", work=views)
    return Result("views of a mesh (per second: views)", sizes, made)
