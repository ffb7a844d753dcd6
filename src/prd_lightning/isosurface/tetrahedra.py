"""Differentiable iso-surfaces: marching tetrahedra on a regular grid over [-1, 1]^3 (Doi and Koide 1991).

Every cube is cut into the six tetrahedra around its main diagonal (Kuhn's subdivision), which meet face to face, so the surface
is closed and manifold by construction. A vertex lies on a grid edge (a, b) whose ends differ in sign, at

    v = p_a + s_a / (s_a - s_b) (p_b - p_a),    p = grid point + tanh(deformation) * half a cell

so it is differentiable in the signed distances and in the deformation. Which edges are cut depends on signs only;
``find_surface`` tells that without gradients, and the costly differentiable look-ups are then needed at the ends of cut edges
alone.
"""

from dataclasses import dataclass
from itertools import permutations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prd_lightning.errors import ConfigurationError

BOUNDARY_FLOOR = 1e-3
"""Smallest signed distance on the faces of the box when surfaces are closed there."""


@dataclass(frozen=True)
class SurfaceTopology:
    """What the signs of a grid determine.

    Attributes:
        edges: [V, 2] grid points at the two ends of each cut edge; one surface vertex each.
        faces: [F, 3] surface vertices, counter-clockwise seen from outside.
    """

    edges: Int[Tensor, "vertices 2"]
    faces: Int[Tensor, "faces 3"]


def grid_points(resolution: int, device: torch.device | str = "cpu") -> Float[Tensor, "points 3"]:
    """The (resolution + 1)^3 grid points over [-1, 1]^3, x slowest.

    Raises:
        ConfigurationError: ``resolution`` is below 2.
    """
    if resolution < 2:
        raise ConfigurationError(f"the iso-surface grid needs a resolution of at least 2 cells, got {resolution}")
    axis = torch.linspace(-1.0, 1.0, resolution + 1, device=device)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


def close_boundary(sdf: Float[Tensor, " points"], resolution: int) -> Float[Tensor, " points"]:
    """The signed distances with the faces of the box outside, so that every surface is closed."""
    side = resolution + 1
    outer = torch.ones(side, side, side, dtype=torch.bool, device=sdf.device)
    outer[1:-1, 1:-1, 1:-1] = False
    return torch.where(outer.reshape(-1), sdf.clamp_min(BOUNDARY_FLOOR), sdf)


def _tetrahedra() -> Tensor:
    """[6, 4] corners (bits: 4 for x, 2 for y, 1 for z) of the tetrahedra of a cube, all with positive volume."""
    cells = []
    for first, second, third in permutations((4, 2, 1)):
        corners = [0, first, first | second, first | second | third]
        points = torch.tensor([[corner >> 2 & 1, corner >> 1 & 1, corner & 1] for corner in corners], dtype=torch.float64)
        if torch.linalg.det(points[1:] - points[0]) < 0:
            corners[1], corners[2] = corners[2], corners[1]
        cells.append(corners)
    return torch.tensor(cells)


def _triangles_of_case(case: int) -> list[tuple[int, int, int, int, int, int]]:
    """Triangles of a positive tetrahedron whose corner i is inside where bit i of ``case`` is set, as three corner pairs each."""
    inside = [corner for corner in range(4) if case >> corner & 1]
    outside = [corner for corner in range(4) if not case >> corner & 1]
    if len(inside) in (0, 4):
        return []
    if len(inside) == 2:
        (a, b), (c, d) = inside, outside
        polygon = [(a, c), (a, d), (b, d), (b, c)]
        triangles = [polygon[:3], [polygon[0], *polygon[2:]]]
    else:
        apex, base = (inside[0], outside) if len(inside) == 1 else (outside[0], inside)
        triangles = [[(apex, corner) for corner in base]]
    points = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    outward = points[outside].mean(dim=0) - points[inside].mean(dim=0)
    result = []
    for triangle in triangles:
        middles = [(points[first] + points[second]) / 2 for first, second in triangle]
        normal = torch.linalg.cross(middles[1] - middles[0], middles[2] - middles[0])
        ordered = triangle if normal @ outward > 0 else [triangle[0], triangle[2], triangle[1]]
        result.append(tuple(corner for pair in ordered for corner in pair))
    return result


def _cell_tables() -> tuple[Tensor, Tensor, Tensor]:
    """Triangles of a cube for each of its 256 cases (bit i: corner i is inside), one after the other.

    Returns:
        count [256] triangles and first [256] row of each case; rows [T, 3, 2]: the corner at which each cut edge begins, and its
        direction (the bits that its other end has more).
    """
    tetrahedra, cases = _tetrahedra().tolist(), [_triangles_of_case(case) for case in range(16)]
    counts, rows = [], []
    for cube in range(256):
        before = len(rows)
        for corners in tetrahedra:
            case = sum((cube >> corner & 1) << place for place, corner in enumerate(corners))
            for triangle in cases[case]:
                ends = [corners[place] for place in triangle]
                # Corners of a tetrahedron lie on a chain 0 < ... < 7 of bit sets, so one end's bits contain the other's.
                rows.append([[a & b, a ^ b] for a, b in zip(ends[::2], ends[1::2])])
        counts.append(len(rows) - before)
    count = torch.tensor(counts)
    return count, count.cumsum(0) - count, torch.tensor(rows)


COUNT, FIRST, ROWS = _cell_tables()


def crossed_cells(inside: Bool[Tensor, "side side side"]) -> Int[Tensor, "cells 3"]:
    """Cells whose eight corners do not agree, in order."""
    some, every = inside, inside
    for axis in range(3):
        length = inside.shape[axis] - 1
        some = some.narrow(axis, 0, length) | some.narrow(axis, 1, length)
        every = every.narrow(axis, 0, length) & every.narrow(axis, 1, length)
    return (some & ~every).nonzero()


def surface_of_signs(inside: Bool[Tensor, "side side side"]) -> SurfaceTopology:
    """Edges and faces of the surface around the grid points that are inside; both empty where there is no surface."""
    side, device = inside.shape[0], inside.device
    strides = torch.tensor([side * side, side, 1], device=device)
    bits = torch.tensor([[corner >> 2 & 1, corner >> 1 & 1, corner & 1] for corner in range(8)], device=device)
    steps = bits @ strides
    base = crossed_cells(inside) @ strides
    corners = base[:, None] + steps
    flat = inside.reshape(-1)
    case = (flat[corners].long() << torch.arange(8, device=device)).sum(dim=1)
    count, first, rows = (table.to(device) for table in (COUNT, FIRST, ROWS))
    triangles = count[case]
    cell = torch.arange(len(base), device=device).repeat_interleave(triangles)
    number = torch.arange(len(cell), device=device) - (triangles.cumsum(0) - triangles - first[case])[cell]
    begin, direction = rows[number].unbind(dim=-1)
    # Points of crossed cells are numbered in order, and an edge is its first point and its direction: no sorting is needed.
    points = torch.zeros_like(flat).index_fill_(0, corners.flatten(), True).nonzero().squeeze(1)
    rank = torch.empty(len(flat), dtype=torch.int32, device=device)
    rank[points] = torch.arange(len(points), dtype=torch.int32, device=device)
    key = rank[corners].long()[cell[:, None], begin] * 8 + direction
    cut = torch.zeros(8 * len(points), dtype=torch.bool, device=device).index_fill_(0, key.flatten(), True)
    vertex = cut.cumsum(0) - 1
    chosen = cut.nonzero().squeeze(1)
    start = points[chosen // 8]
    return SurfaceTopology(torch.stack([start, start + steps[chosen % 8]], dim=1), vertex[key])


def find_surface(sdf: Float[Tensor, " points"], resolution: int) -> SurfaceTopology:
    """Edges and faces of the surface between negative and non-negative grid points; both empty where there is no surface."""
    side = resolution + 1
    return surface_of_signs((sdf.detach() < 0).view(side, side, side))


def ends_of_edges(edges: Int[Tensor, "vertices 2"], count: int) -> tuple[Int[Tensor, " ends"], Int[Tensor, "vertices 2"]]:
    """The different grid points (of ``count``) at the ends of cut edges, in order, and where among them each end is."""
    needed = torch.zeros(count, dtype=torch.bool, device=edges.device).index_fill_(0, edges.flatten(), True).nonzero().squeeze(1)
    rank = torch.empty(count, dtype=torch.int32, device=edges.device)
    rank[needed] = torch.arange(len(needed), dtype=torch.int32, device=edges.device)
    return needed, rank[edges].long()


def surface_vertices(sdf: Float[Tensor, "vertices 2"], positions: Float[Tensor, "vertices 2 3"]) -> Float[Tensor, "vertices 3"]:
    """The zero on each cut edge, from the values and positions at its two ends."""
    first, second = sdf.unbind(dim=1)
    share = first / (first - second)
    return torch.lerp(positions[:, 0], positions[:, 1], share[:, None])


def deform(
    points: Float[Tensor, "*points 3"], deformation: Float[Tensor, "*points 3"] | None, resolution: int
) -> Float[Tensor, "*points 3"]:
    """Grid points moved by at most half a cell along each axis."""
    return points if deformation is None else points + torch.tanh(deformation) * (1.0 / resolution)


def extract_isosurface(
    sdf: Float[Tensor, " points"],
    resolution: int,
    deformation: Float[Tensor, "points 3"] | None = None,
    closed: bool = True,
) -> tuple[Float[Tensor, "vertices 3"], Int[Tensor, "faces 3"]]:
    """Vertices in [-1, 1]^3 and outward faces of the zero level of a grid.

    Args:
        sdf: values at ``grid_points(resolution)``, negative inside.
        resolution: cells along each axis.
        deformation: raw offsets of the grid points.
        closed: whether a surface that leaves the box is closed at its faces.

    Returns:
        Vertices and faces, both empty if nothing is inside.
    """
    sdf = close_boundary(sdf, resolution) if closed else sdf
    surface = find_surface(sdf, resolution)
    moved = deform(grid_points(resolution, sdf.device).to(sdf), deformation, resolution)
    return surface_vertices(sdf[surface.edges], moved[surface.edges]), surface.faces
