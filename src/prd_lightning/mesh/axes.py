"""Where up and front are in a file, and how large the object is there.

The world here is z up and its objects face +x, in a box of 2 units. A placement is a rotation (never a mirror image) and a scale.
"""

import math
from dataclasses import dataclass, replace

import numpy
from jaxtyping import Float
from numpy import ndarray

from prd_lightning.errors import ConfigurationError
from prd_lightning.mesh.mesh import Mesh

AXES = ("x", "-x", "y", "-y", "z", "-z")
DEFAULT_AXES = {"glb": ("y", "z"), "obj": ("y", "z"), "ply": ("z", "x"), "stl": ("z", "x")}
"""Up and front of each format."""
UNITS = {"glb": ("m", 1.0), "obj": ("m", 1.0), "ply": ("m", 1.0), "stl": ("mm", 1000.0)}
"""Unit of each format, and how many of it are a metre: programs that slice for printing read STL as millimetres."""


@dataclass(frozen=True)
class Placement:
    """How an object stands in a file. Checked when it is made.

    Attributes:
        size: length of the longest side of the box around the object, in metres; None keeps one world unit a metre, so that
            an object is at most 2 m large.
        up: axis of the file that points up, such as ``y`` or ``-z``; None is the format's own.
        front: axis of the file that the object faces; None is the format's own.

    Raises:
        ConfigurationError: an axis is unknown, up and front lie on one axis, or the size is not positive.
    """

    size: float | None = None
    up: str | None = None
    front: str | None = None

    def __post_init__(self) -> None:
        for name in ("up", "front"):
            value = getattr(self, name)
            if value is not None and value.lower().removeprefix("+") not in AXES:
                raise ConfigurationError(f"{name} must be one of {', '.join(AXES)}, got {value!r}")
        if self.up is not None and self.front is not None:
            self.axes("glb")
        if self.size is not None and not (math.isfinite(self.size) and self.size > 0):
            raise ConfigurationError(f"the scale must be a positive number of metres, got {self.size}")

    def axes(self, kind: str) -> tuple[str, str]:
        """Up and front in a file of that format. Where only one is given and the format's other one lies on the same axis, the
        first free one of +x, +y, +z takes its place.

        Raises:
            ConfigurationError: both are given and lie on one axis.
        """
        up, front = (value.lower().removeprefix("+") if value else None for value in (self.up, self.front))
        own_up, own_front = DEFAULT_AXES[kind]
        if up and front and up[-1] == front[-1]:
            raise ConfigurationError(f"up ({up}) and front ({front}) must lie on different axes")
        if up and not front:
            front = own_front if own_front[-1] != up[-1] else next(axis for axis in "xyz" if axis != up[-1])
        elif front and not up:
            up = own_up if own_up[-1] != front[-1] else next(axis for axis in "zyx" if axis != front[-1])
        return up or own_up, front or own_front

    def rotation(self, kind: str) -> Float[ndarray, "3 3"]:
        """From the world to a file of that format."""
        up, front = (_unit(axis) for axis in self.axes(kind))
        return numpy.stack([front, numpy.cross(up, front), up], axis=1)  # columns: where x, y and z go

    def scale(self, mesh: Mesh, kind: str) -> float:
        """Units of a file of that format to one world unit."""
        factor = UNITS[kind][1]
        if self.size is None:
            return factor
        return factor * self.size / float((mesh.vertices.max(axis=0) - mesh.vertices.min(axis=0)).max())


def _unit(axis: str) -> Float[ndarray, " 3"]:
    return numpy.eye(3)["xyz".index(axis[-1])] * (-1.0 if axis.startswith("-") else 1.0)


def place_mesh(mesh: Mesh, kind: str, placement: Placement | None = None) -> Mesh:
    """The mesh as a file of that format holds it."""
    placement = placement or Placement()
    rotation, scale = placement.rotation(kind).astype(numpy.float32), placement.scale(mesh, kind)
    texture = mesh.texture
    if texture is not None and texture.tangents is not None:
        turned = numpy.concatenate([texture.tangents[:, :3] @ rotation.T, texture.tangents[:, 3:]], axis=1)
        texture = replace(texture, tangents=turned)
    vertices = (mesh.vertices.astype(numpy.float64) * scale).astype(numpy.float32) @ rotation.T
    return replace(mesh, vertices=vertices, normals=mesh.normals @ rotation.T, texture=texture)
