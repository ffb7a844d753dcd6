"""Fields and broken meshes for the tests of the mesh path."""

import numpy
import torch
import trimesh
from places import place_colors

from prd_lightning.field import PreparedPlanes, TriplaneField
from prd_lightning.mesh import Mesh


def bumpy_field(seed: int = 0, contrast: float = 6.0) -> tuple[TriplaneField, PreparedPlanes]:
    """A ball with dents, in colours that vary strongly from place to place."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    field = TriplaneField(channels=4, hidden=16)
    planes = torch.randn(1, 6, 4, 8, 8, generator=generator)
    planes[:, 3:] *= contrast
    return field, field.prepare(planes)


def to_mesh(shape: trimesh.Trimesh) -> Mesh:
    """The same triangles, in colours that tell the place."""
    return Mesh.create(shape.vertices, shape.faces, place_colors(shape.vertices), shape.vertex_normals)


def ball(subdivisions: int = 2, radius: float = 0.5) -> trimesh.Trimesh:
    """20 * 4^n faces."""
    return trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)


def torus(sections: int = 24) -> trimesh.Trimesh:
    """One handle."""
    return trimesh.creation.torus(0.5, 0.2, major_sections=sections, minor_sections=sections)


def without_faces(shape: trimesh.Trimesh, count: int) -> trimesh.Trimesh:
    """With so many holes of three edges that do not touch."""
    keep, used = numpy.ones(len(shape.faces), dtype=bool), set()
    for number, face in enumerate(shape.faces.tolist()):
        if keep.sum() > len(keep) - count and not used & set(face):
            keep[number] = False
            used |= set(face)
    return trimesh.Trimesh(shape.vertices, shape.faces[keep], process=False)


def triangle() -> Mesh:
    """One triangle."""
    return Mesh.create(numpy.eye(3), [[0, 1, 2]], numpy.eye(3), numpy.ones((3, 3)))
