"""How triangles hang together, and how large they are: what clean-up, health report and printing ask.

A surface is watertight if every edge has exactly two faces that run along it in opposite directions.
"""

from dataclasses import dataclass

import numpy
from jaxtyping import Bool, Float, Int
from numpy import ndarray

SMALLEST_SHARE = 1e-12
"""A triangle whose area is below this share of the squared diagonal of the object's box is degenerate."""


@dataclass(frozen=True)
class EdgeCounts:
    """Edges by what is wrong with them; all zero for a watertight surface.

    Attributes:
        edges: different edges.
        open: have one face.
        crowded: have more than two.
        turned: have two, but these run along it in the same direction.
    """

    edges: int
    open: int
    crowded: int
    turned: int

    @property
    def watertight(self) -> bool:
        """Whether every edge has two faces, oppositely directed."""
        return not (self.open or self.crowded or self.turned)


def count_edges(faces: Int[ndarray, "faces 3"]) -> EdgeCounts:
    """Edges of the triangles; faces that name a vertex twice count as they stand."""
    start, end = faces.reshape(-1), numpy.roll(faces, -1, axis=1).reshape(-1)
    base = int(faces.max(initial=0)) + 1
    key = numpy.minimum(start, end) * base + numpy.maximum(start, end)
    order = numpy.argsort(key, kind="stable")
    first = numpy.flatnonzero(numpy.diff(key[order], prepend=-1))
    number = numpy.diff(first, append=len(order))
    direction = numpy.add.reduceat(numpy.where(start < end, 1, -1)[order], first) if len(first) else number
    return EdgeCounts(
        edges=len(first),
        open=int((number == 1).sum()),
        crowded=int((number > 2).sum()),
        turned=int(((number == 2) & (direction != 0)).sum()),
    )


def double_area_vectors(vertices: Float[ndarray, "vertices 3"], faces: Int[ndarray, "faces 3"]) -> Float[ndarray, "faces 3"]:
    """Twice the area of each triangle along its normal, in double precision."""
    a, b, c = (vertices[faces[:, corner]].astype(numpy.float64) for corner in range(3))
    return numpy.cross(b - a, c - a)


def enclosed_volume(vertices: Float[ndarray, "vertices 3"], faces: Int[ndarray, "faces 3"]) -> float:
    """Signed volume of a closed surface (divergence theorem); positive if its faces point outwards."""
    center = vertices.mean(axis=0, dtype=numpy.float64)
    corner = vertices[faces[:, 0]].astype(numpy.float64) - center
    return float((corner * double_area_vectors(vertices, faces)).sum() / 6)


def degenerate_faces(vertices: Float[ndarray, "vertices 3"], faces: Int[ndarray, "faces 3"]) -> Bool[ndarray, " faces"]:
    """Triangles without an area."""
    extent = (vertices.max(axis=0) - vertices.min(axis=0)).astype(numpy.float64)
    smallest = 2 * SMALLEST_SHARE * float((extent**2).sum())
    return numpy.linalg.norm(double_area_vectors(vertices, faces), axis=1) <= smallest


def welded(
    vertices: Float[ndarray, "vertices 3"], faces: Int[ndarray, "faces 3"]
) -> tuple[Float[ndarray, "welded 3"], Int[ndarray, "faces 3"]]:
    """Vertices at exactly the same place made one: files repeat them along the seams of textures, STL at every triangle."""
    points = numpy.ascontiguousarray(vertices, dtype=numpy.float32) + numpy.float32(0)  # -0 becomes 0
    order = numpy.lexsort(points.T)
    fresh = numpy.concatenate([[True], (numpy.diff(points[order], axis=0) != 0).any(axis=1)])
    place = numpy.empty(len(points), dtype=numpy.int64)
    place[order] = numpy.cumsum(fresh) - 1
    return points[order[fresh]], place[faces]
