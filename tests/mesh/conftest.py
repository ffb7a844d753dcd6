"""Meshes that several tests share: a coloured wedge, low at the front (+x), and a ball with a texture."""

import fields
import pytest
from places import place_colors

from prd_lightning.isosurface import extract_isosurface, grid_points
from prd_lightning.mesh import Mesh, MeshOptions, make_mesh
from prd_lightning.pipeline import TextToMeshPipeline
from prd_lightning.rendering import vertex_normals
from prd_lightning.tinyworld.shapes import PRIMITIVES

RESOLUTION = 34


@pytest.fixture(scope="session")
def wedge() -> Mesh:
    """About 6000 faces, closed."""
    vertices, faces = extract_isosurface(PRIMITIVES["wedge"](grid_points(RESOLUTION)), RESOLUTION)
    return Mesh.create(vertices, faces, place_colors(vertices.numpy()), vertex_normals(vertices, faces))


@pytest.fixture(scope="session")
def tiny() -> TextToMeshPipeline:
    """The generator that ships with the package."""
    return TextToMeshPipeline.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="session")
def textured() -> Mesh:
    """A dented ball with a texture and a normal map."""
    field, planes = fields.bumpy_field()
    options = MeshOptions(resolution=20, target_faces=400, texture=True, texture_size=512, normal_map=True)
    return make_mesh(field, planes, options)[0]
