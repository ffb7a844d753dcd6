"""The way from a surface to a file: clean-up, atlas, baking, health report, and writing a mesh of five million faces."""

import tempfile
from pathlib import Path

import numpy
import torch

from benchmarks.measuring import Result, Settings, make_cases, measure
from prd_lightning.field import TriplaneField
from prd_lightning.mesh import Mesh, clean_mesh, extract_mesh, mesh_health, save_mesh
from prd_lightning.mesh.atlas import make_atlas
from prd_lightning.mesh.baking import bake_texture

CLEAN, TIMEOUT = "clean-up and decimation", 600.0


def sheet(cells: int) -> Mesh:
    """A wavy surface of ``2 * cells^2`` faces."""
    axis = numpy.linspace(-0.9, 0.9, cells + 1, dtype=numpy.float32)
    x, y = numpy.meshgrid(axis, axis, indexing="ij")
    vertices = numpy.stack([x, y, 0.1 * numpy.sin(5 * x)], axis=-1).reshape(-1, 3)
    number = numpy.arange(len(vertices)).reshape(x.shape)
    a, b, c, d = (part.reshape(-1) for part in (number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]))
    faces = numpy.concatenate([numpy.stack([a, b, c], axis=1), numpy.stack([a, c, d], axis=1)])
    return Mesh.create(vertices, faces, (vertices + 1) / 2, numpy.tile([0.0, 0, 1], (len(vertices), 1)))


def build(settings: Settings) -> Result:
    """Each step on its own, at the sizes of ``prd generate``'s defaults and planes as large as the real ones."""
    resolution, wished, size, cells = (12, 100, 512, 20) if settings.smallest else (128, 20_000, 1024, 1582)
    torch.manual_seed(0)
    field = TriplaneField(32).to(settings.device).requires_grad_(False)
    planes = field.prepare(torch.randn(1, 6, 32, *((8, 8) if settings.smallest else (256, 256)), device=settings.device) * 0.05)
    surface = extract_mesh(field, planes, resolution)
    mesh, _ = clean_mesh(surface, wished)
    atlas, large = make_atlas(mesh, size, TIMEOUT), sheet(cells)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.glb"
        rounds = measure(
            {
                CLEAN: lambda: clean_mesh(surface, wished),
                "atlas": lambda: make_atlas(mesh, size, TIMEOUT),
                "baking colours": lambda: bake_texture(field, planes, mesh, atlas, size),
                "baking colours and normals": lambda: bake_texture(field, planes, mesh, atlas, size, normal_map=True),
                "health report": lambda: mesh_health(mesh),
                "writing a large GLB": lambda: save_mesh(large, path, overwrite=True),
            },
            settings,
        )
    sizes = {"surface_faces": len(surface.faces), "faces": len(mesh.faces), "texture": size, "large_faces": len(large.faces)}
    return Result("from a surface to a file", sizes, make_cases(rounds, CLEAN))
