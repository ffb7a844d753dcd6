"""From a field to a mesh: the surface as the mesh renderer sees it, colours of the field, normals from the SDF's gradient."""

import torch
from jaxtyping import Float
from torch import Tensor

from prd_lightning.errors import ConfigurationError, EmptyMeshError, NonFiniteError
from prd_lightning.field import PreparedPlanes, TriplaneField
from prd_lightning.mesh.mesh import Mesh
from prd_lightning.rendering import MeshRenderer

RESOLUTION_RANGE = (8, 512)
POINTS_AT_ONCE = 65_536
REMEDY = "try another seed, or weights that were trained longer"


def check_resolution(resolution: int) -> None:
    """Raises ConfigurationError if a mesh cannot be extracted on a grid of ``resolution`` cells along each axis."""
    low, high = RESOLUTION_RANGE
    if not low <= resolution <= high:
        raise ConfigurationError(f"the resolution of a mesh must lie between {low} and {high} cells, got {resolution}")


@torch.no_grad()
def extract_mesh(field: TriplaneField, prepared: PreparedPlanes, resolution: int = 128) -> Mesh:
    """The zero level of one scene; where the box [-1, 1]^3 cuts it, it is closed.

    Args:
        field: networks over the planes.
        prepared: the planes of ONE scene, see ``PreparedPlanes.item``.
        resolution: cells of the grid along each axis.

    Raises:
        ConfigurationError: ``prepared`` holds more than one scene, or the resolution is out of range.
        NonFiniteError: planes, field or vertices are not finite.
        EmptyMeshError: the field has no surface in the box: it is empty, or the object fills all of it.
    """
    if prepared.batch != 1:
        raise ConfigurationError(f"a mesh is extracted from one scene, got planes of {prepared.batch}; use prepared.item(i)")
    check_resolution(resolution)
    if not (prepared.geometry.isfinite().all() and prepared.texture.isfinite().all()):
        raise NonFiniteError(f"the generator's planes are not finite; {REMEDY}")
    sdf = field.grid_sdf(prepared, resolution)
    _check_surface(sdf[0], resolution)
    renderer = MeshRenderer(resolution, image_size=1).to(sdf.device)
    vertices, faces = renderer.extract(field, prepared, sdf)[0]
    if not len(faces):
        raise EmptyMeshError(f"the object only touches the walls of the box, it has no surface in it; {REMEDY}")
    parts = [_attributes(field, prepared, points) for points in vertices.split(POINTS_AT_ONCE)]
    colors, normals = (torch.cat(values) for values in zip(*parts))
    return Mesh.create(vertices, faces, colors, normals)


def _check_surface(sdf: Float[Tensor, " points"], resolution: int) -> None:
    if not sdf.isfinite().all():
        raise NonFiniteError(f"{int((~sdf.isfinite()).sum())} of {len(sdf)} signed distances are not finite; {REMEDY}")
    inside = int((sdf < 0).sum())
    if inside == 0:
        raise EmptyMeshError(
            f"the field is empty: no point of the {resolution}^3 grid is inside an object; {REMEDY}, "
            "or a finer resolution for thin objects"
        )
    if inside == len(sdf):
        raise EmptyMeshError(
            f"the field is full: every point of the {resolution}^3 grid is inside the object, so there is no surface; {REMEDY}"
        )


def _attributes(field: TriplaneField, prepared: PreparedPlanes, points: Float[Tensor, "points 3"]) -> tuple[Tensor, Tensor]:
    """Colours and unnormalised normals at surface points."""
    colors = field.color(prepared, points[None])[0]
    return colors, field.sdf_and_gradient(prepared, points[None])[1][0]
