"""From a field to a mesh: the surface as the mesh renderer sees it, colours of the field, normals from the SDF's gradient."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prd_lightning.errors import ConfigurationError, EmptyMeshError, NonFiniteError
from prd_lightning.field import PreparedPlanes, TriplaneField
from prd_lightning.isosurface import BOUNDARY_FLOOR, FieldGrid, deform, ends_of_edges, surface_of_signs, surface_vertices
from prd_lightning.mesh.mesh import Mesh

RESOLUTION_RANGE = (8, 512)
POINTS_AT_ONCE = 16_384
REMEDY = "try another seed, or weights that were trained longer"
SMALLEST_DISTANCE = 1e-12
"""Distances in float32 keep at least this size, with the sign of the grid point, so that every edge has one zero."""


def check_resolution(resolution: int) -> None:
    """Raises ConfigurationError if a mesh cannot be extracted on a grid of ``resolution`` cells along each axis."""
    low, high = RESOLUTION_RANGE
    if not low <= resolution <= high:
        raise ConfigurationError(f"the resolution of a mesh must lie between {low} and {high} cells, got {resolution}")


@torch.no_grad()
def extract_mesh(field: TriplaneField, prepared: PreparedPlanes, resolution: int = 128, dense: bool = False) -> Mesh:
    """The zero level of one scene; where the box [-1, 1]^3 cuts it, it is closed.

    Args:
        field: networks over the planes.
        prepared: the planes of ONE scene, see ``PreparedPlanes.item``.
        resolution: cells of the grid along each axis.
        dense: evaluate every point of the grid. The mesh is the same, see docs/surface.md.

    Raises:
        ConfigurationError: ``prepared`` holds more than one scene, or the resolution is out of range.
        NonFiniteError: planes, networks or signed distances are not finite.
        EmptyMeshError: the field has no surface in the box: it is empty, or the object fills all of it.
    """
    if prepared.batch != 1:
        raise ConfigurationError(f"a mesh is extracted from one scene, got planes of {prepared.batch}; use prepared.item(i)")
    check_resolution(resolution)
    vertices, faces = extract_surface(field, prepared, resolution, dense)
    parts = [_attributes(field, prepared, points) for points in vertices.split(POINTS_AT_ONCE)]
    colors, normals = (torch.cat(values) for values in zip(*parts))
    return Mesh.create(vertices, faces, colors, normals)


@torch.no_grad()
def extract_surface(
    field: TriplaneField, prepared: PreparedPlanes, resolution: int, dense: bool = False
) -> tuple[Float[Tensor, "vertices 3"], Int[Tensor, "faces 3"]]:
    """Vertices and faces of ``extract_mesh``, without colours; it raises the same errors of the field."""
    if not all(bool(table.abs().max().isfinite()) for table in (prepared.geometry, prepared.texture)):
        raise NonFiniteError(f"the generator's planes are not finite; {REMEDY}")
    grid = FieldGrid(field, prepared, resolution)
    signs = grid.dense_signs() if dense else grid.sparse_signs()
    inside = _closed(signs.inside, resolution)
    surface = surface_of_signs(inside)
    needed, ends = ends_of_edges(surface.edges, grid.side**3)
    parts = [_moved(grid, chunk, inside.view(-1)[chunk]) for chunk in needed.split(POINTS_AT_ONCE)]
    distances, points = (torch.cat(values) for values in zip(*parts))
    return surface_vertices(distances[ends], points[ends]), surface.faces


def _closed(inside: Bool[Tensor, "side side side"], resolution: int) -> Bool[Tensor, "side side side"]:
    """The signs with the faces of the box outside."""
    if not inside.any():
        raise EmptyMeshError(
            f"the field is empty: no point of the {resolution}^3 grid is inside an object; {REMEDY}, "
            "or a finer resolution for thin objects"
        )
    if inside.all():
        raise EmptyMeshError(
            f"the field is full: every point of the {resolution}^3 grid is inside the object, so there is no surface; {REMEDY}"
        )
    closed = torch.zeros_like(inside)
    closed[1:-1, 1:-1, 1:-1] = inside[1:-1, 1:-1, 1:-1]
    if not closed.any():
        raise EmptyMeshError(f"the object only touches the walls of the box, it has no surface in it; {REMEDY}")
    return closed


def _moved(
    grid: FieldGrid, points: Int[Tensor, " points"], inside: Bool[Tensor, " points"]
) -> tuple[Float[Tensor, " points"], Float[Tensor, "points 3"]]:
    """Signed distances and places of grid points at the ends of cut edges."""
    distance, raw = grid.distances_and_deformation(points)
    indices = torch.stack(grid.coordinates(points), dim=-1)
    wall = ((indices == 0) | (indices == grid.resolution)).any(dim=-1)
    distance = torch.where(wall, distance.clamp_min(BOUNDARY_FLOOR), distance)
    distance = torch.where(inside, distance.clamp_max(-SMALLEST_DISTANCE), distance.clamp_min(SMALLEST_DISTANCE))
    return distance, deform(grid.axis[indices], raw, grid.resolution)


def _attributes(field: TriplaneField, prepared: PreparedPlanes, points: Float[Tensor, "points 3"]) -> tuple[Tensor, Tensor]:
    """Colours and unnormalised normals at surface points."""
    colors = field.color(prepared, points[None])[0]
    return colors, field.sdf_and_gradient(prepared, points[None])[1][0]
