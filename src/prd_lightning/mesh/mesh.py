"""The mesh type: triangles with a colour and a normal at each vertex.

Axes are the world's: right-handed, z up, x towards the camera at azimuth 0, the object in [-1, 1]^3 (design section 3). Faces are
counter-clockwise seen from outside. Colours are display colours (sRGB), the values that a PNG would hold.
"""

from dataclasses import dataclass

import numpy
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from prd_lightning.errors import ConfigurationError, EmptyMeshError, NonFiniteError

UP = (0.0, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Mesh:
    """N vertices and F triangles; ``Mesh.create`` checks what it is given.

    Attributes:
        vertices: [N, 3] positions in the world.
        faces: [F, 3] vertices of each triangle, counter-clockwise seen from outside.
        colors: [N, 3] sRGB in [0, 1].
        normals: [N, 3] unit vectors that point outwards.
    """

    vertices: Float[ndarray, "vertices 3"]
    faces: Int[ndarray, "faces 3"]
    colors: Float[ndarray, "vertices 3"]
    normals: Float[ndarray, "vertices 3"]

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
            if not numpy.isfinite(value).all():
                raise NonFiniteError(f"{int((~numpy.isfinite(value)).any(axis=1).sum())} of {len(value)} {name} are not finite")
        length = numpy.linalg.norm(arrays["normals"], axis=1, keepdims=True)
        unit = numpy.where(length > 1e-12, arrays["normals"] / numpy.maximum(length, 1e-12), UP)
        return cls(arrays["vertices"], corners, arrays["colors"].clip(0, 1), unit.astype(numpy.float32))


def _as_array(values: ndarray | Tensor, kind: type = numpy.float32) -> ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else numpy.asarray(values)
    return numpy.ascontiguousarray(array, dtype=kind)
