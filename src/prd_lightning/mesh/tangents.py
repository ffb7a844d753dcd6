"""Tangent frames of glTF 2.0: the tangent points along growing u, the bitangent ``sign * cross(normal, tangent)`` up in the
picture (towards smaller v), the normal outwards.

A vertex's tangent is the mean of its triangles' du directions, weighted by their angles at the vertex and made orthogonal to its
normal, as in Mikkelsen's method (MikkTSpace), the default of glTF. The tangents are written into the file, so a viewer need not
compute them.
"""

import numpy
import torch
import torch.nn.functional as functional
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from prd_lightning.mesh.atlas import Atlas
from prd_lightning.mesh.mesh import Mesh

TINY = 1e-20


def vertex_tangents(mesh: Mesh, atlas: Atlas) -> Float[ndarray, "corners 4"]:
    """Unit tangents and signs of the bitangents of an atlas's vertices."""
    points = mesh.vertices[atlas.vertex].astype(numpy.float64)
    normals = mesh.normals[atlas.vertex].astype(numpy.float64)
    along, upwards = _face_directions(points[atlas.faces], atlas.coordinates[atlas.faces].astype(numpy.float64))
    angles = _corner_angles(points[atlas.faces])
    tangent, bitangent = numpy.zeros_like(points), numpy.zeros_like(points)
    for total, direction in ((tangent, along), (bitangent, upwards)):
        numpy.add.at(total, atlas.faces.reshape(-1), (angles[..., None] * direction[:, None]).reshape(-1, 3))
    tangent -= normals * (normals * tangent).sum(axis=1, keepdims=True)
    length = numpy.linalg.norm(tangent, axis=1, keepdims=True)
    tangent = numpy.where(length > 1e-9, tangent / numpy.maximum(length, 1e-9), _any_perpendicular(normals))
    sign = numpy.where((numpy.cross(normals, tangent) * bitangent).sum(axis=1) < 0, -1.0, 1.0)
    return numpy.concatenate([tangent, sign[:, None]], axis=1).astype(numpy.float32)


def _face_directions(
    corners: Float[ndarray, "faces 3 3"], coordinates: Float[ndarray, "faces 3 2"]
) -> tuple[Float[ndarray, "faces 3"], Float[ndarray, "faces 3"]]:
    """Unit directions of growing u and of shrinking v on each triangle, zero where it has no area in the picture."""
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    (u1, v1), (u2, v2) = ((coordinates[:, corner] - coordinates[:, 0]).T[..., None] for corner in (1, 2))
    side = numpy.sign(u1 * v2 - u2 * v1)
    directions = side * (v2 * first - v1 * second), side * (u2 * first - u1 * second)  # d/du and -d/dv, times the area
    return tuple(each / numpy.maximum(numpy.linalg.norm(each, axis=1, keepdims=True), TINY) for each in directions)


def _corner_angles(corners: Float[ndarray, "faces 3 3"]) -> Float[ndarray, "faces 3"]:
    ahead, behind = numpy.roll(corners, -1, axis=1) - corners, numpy.roll(corners, 1, axis=1) - corners
    cross = numpy.linalg.norm(numpy.cross(ahead, behind), axis=-1)
    return numpy.arctan2(cross, (ahead * behind).sum(axis=-1))


def _any_perpendicular(normals: Float[ndarray, "vertices 3"]) -> Float[ndarray, "vertices 3"]:
    axis = numpy.eye(3)[abs(normals).argmin(axis=1)]
    perpendicular = numpy.cross(normals, axis)
    return perpendicular / numpy.linalg.norm(perpendicular, axis=1, keepdims=True)


def tangent_frames(normals: Float[Tensor, "texels 3"], tangents: Float[Tensor, "texels 4"]) -> Float[Tensor, "texels 3 3"]:
    """Matrices with the columns tangent, bitangent, normal, as a viewer rebuilds them from interpolated values."""
    normal, tangent = functional.normalize(normals, dim=-1), functional.normalize(tangents[:, :3], dim=-1)
    sign = torch.where(tangents[:, 3:] < 0, -1.0, 1.0)
    bitangent = functional.normalize(sign * torch.linalg.cross(normal, tangent), dim=-1)
    return torch.stack([tangent, bitangent, normal], dim=-1)
