"""The mesh type: triangles with a colour and a normal at each vertex, and optionally pictures on them.

Axes are the world's: right-handed, z up, x towards the camera at azimuth 0, the object in [-1, 1]^3 (design section 3). Faces are
counter-clockwise seen from outside. Colours are display colours (sRGB), the values that a PNG would hold.
"""

from dataclasses import dataclass, replace

import numpy
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from prd_lightning.errors import ConfigurationError, EmptyMeshError, NonFiniteError

UP = (0.0, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Texture:
    """Pictures on a mesh. The mesh stays whole; along seams of the atlas one of its vertices has several texture vertices.

    Coordinates are glTF's: (0, 0) is the upper left corner of the picture, (1, 1) the lower right one.

    Attributes:
        vertex: [T] vertex of the mesh that each texture vertex belongs to.
        faces: [F, 3] texture vertices of each triangle, in the order of the mesh's faces.
        coordinates: [T, 2] in [0, 1].
        color: [R, R, 3] sRGB.
        normal: [R, R, 3] normals in the tangent space of glTF (red along the tangent, green up in the picture), or None.
        tangents: [T, 4] unit tangents and the sign of the bitangent (``sign * cross(normal, tangent)``); with ``normal`` only.
    """

    vertex: Int[ndarray, " corners"]
    faces: Int[ndarray, "faces 3"]
    coordinates: Float[ndarray, "corners 2"]
    color: UInt8[ndarray, "size size 3"]
    normal: UInt8[ndarray, "size size 3"] | None = None
    tangents: Float[ndarray, "corners 4"] | None = None

    @property
    def size(self) -> int:
        """Height and width of the pictures."""
        return self.color.shape[0]


@dataclass(frozen=True, eq=False)
class Mesh:
    """N vertices and F triangles; ``Mesh.create`` checks what it is given.

    Attributes:
        vertices: [N, 3] positions in the world.
        faces: [F, 3] vertices of each triangle, counter-clockwise seen from outside.
        colors: [N, 3] sRGB in [0, 1].
        normals: [N, 3] unit vectors that point outwards.
        texture: pictures that take the place of ``colors`` where a format or a renderer can show them.
    """

    vertices: Float[ndarray, "vertices 3"]
    faces: Int[ndarray, "faces 3"]
    colors: Float[ndarray, "vertices 3"]
    normals: Float[ndarray, "vertices 3"]
    texture: Texture | None = None

    @classmethod
    def create(
        cls, vertices: ndarray | Tensor, faces: ndarray | Tensor, colors: ndarray | Tensor, normals: ndarray | Tensor
    ) -> "Mesh":
        """A mesh of float32 and int64 arrays; colours are clamped to [0, 1], normals made unit vectors (0 becomes z).

        Raises:
            ConfigurationError: a shape is wrong, or a face names a vertex that is not there.
            EmptyMeshError: there is no face.
            NonFiniteError: a position, colour or normal is NaN or infinite.
        """
        arrays = {name: _as_array(value) for name, value in (("vertices", vertices), ("colors", colors), ("normals", normals))}
        corners = _as_array(faces, numpy.int64)
        for name, value in arrays.items():
            if value.ndim != 2 or value.shape != (len(arrays["vertices"]), 3):
                raise ConfigurationError(f"{name} must have the shape [{len(arrays['vertices'])}, 3], got {list(value.shape)}")
        if corners.ndim != 2 or corners.shape[1] != 3:
            raise ConfigurationError(f"faces must have the shape [F, 3], got {list(corners.shape)}")
        if not len(corners):
            raise EmptyMeshError("the mesh has no faces")
        if corners.min() < 0 or corners.max() >= len(arrays["vertices"]):
            raise ConfigurationError(
                f"faces name the vertices {corners.min()} to {corners.max()}, but there are {len(arrays['vertices'])} vertices"
            )
        for name, value in arrays.items():
            _check_finite(name, value)
        length = numpy.linalg.norm(arrays["normals"], axis=1, keepdims=True)
        unit = numpy.where(length > 1e-12, arrays["normals"] / numpy.maximum(length, 1e-12), UP)
        return cls(arrays["vertices"], corners, arrays["colors"].clip(0, 1), unit.astype(numpy.float32))

    def check_finite(self) -> None:
        """Raises NonFiniteError if a position, colour or normal is NaN or infinite: a mesh need not come from ``create``."""
        for name in ("vertices", "colors", "normals"):
            _check_finite(name, getattr(self, name))

    def with_texture(self, texture: Texture) -> "Mesh":
        """The same mesh with pictures on it.

        Raises:
            ConfigurationError: the texture belongs to another mesh.
        """
        if texture.faces.shape != self.faces.shape or not (texture.vertex[texture.faces] == self.faces).all():
            raise ConfigurationError("the texture's triangles are not those of the mesh")
        return replace(self, texture=texture)


def _check_finite(name: str, values: ndarray) -> None:
    bad = ~numpy.isfinite(values)
    if bad.any():
        raise NonFiniteError(f"{int(bad.any(axis=1).sum())} of {len(values)} {name} are not finite")


def _as_array(values: ndarray | Tensor, kind: type = numpy.float32) -> ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else numpy.asarray(values)
    return numpy.ascontiguousarray(array, dtype=kind)
