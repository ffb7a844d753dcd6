"""The health of a mesh: what a printer, a game engine or a simulation will complain of, as numbers.

Vertices at exactly the same place count once, so that a file and the mesh it was made from have the same report: textured files
repeat vertices along seams, STL repeats them at every triangle. With V vertices, E edges, F faces and C parts, a closed manifold
surface has the genus ``C - (V - E + F) / 2`` (handles, summed over its parts).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy
from jaxtyping import Float, Int
from numpy import ndarray

from prd_lightning.mesh.cleanup import import_pymeshlab
from prd_lightning.mesh.mesh import Mesh
from prd_lightning.mesh.topology import count_edges, degenerate_faces, double_area_vectors, enclosed_volume, welded


@dataclass(frozen=True)
class TextureFacts:
    """What the density of texels is computed from.

    Attributes:
        coordinates: [T, 2] texture coordinates.
        faces: [F, 3] rows of ``coordinates``.
        size: height and width of the picture in pixels.
    """

    coordinates: Float[ndarray, "corners 2"]
    faces: Int[ndarray, "faces 3"]
    size: tuple[int, int]


@dataclass(frozen=True)
class MeshHealth:
    """Numbers of one mesh, lengths in its own unit.

    Attributes:
        faces, vertices: vertices at different places.
        components: parts that hang together.
        watertight: every edge has two faces that agree on what is outside.
        manifold: no edge has more than two faces, and surfaces touch in no single vertex.
        genus: handles, None unless the surface is watertight and manifold.
        open_edges: edges with one face.
        crowded_edges: edges with more than two faces.
        degenerate_faces: faces without area.
        self_intersections: faces that cut through others.
        area: of the surface.
        volume: enclosed, None unless watertight.
        bounds: smallest and largest coordinates.
        size: lengths of the sides of the box around it.
        texture_size: height and width of the picture, None without one.
        texel_density: texels along a unit of length, on average over the surface.
        texture_coverage: share of the picture that the surface uses.
        unit: of lengths.
    """

    faces: int
    vertices: int
    components: int
    watertight: bool
    manifold: bool
    genus: int | None
    open_edges: int
    crowded_edges: int
    degenerate_faces: int
    self_intersections: int
    area: float
    volume: float | None
    bounds: list[list[float]]
    size: list[float]
    texture_size: list[int] | None
    texel_density: float | None
    texture_coverage: float | None
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def mesh_health(mesh: Mesh, unit: str = "m") -> MeshHealth:
    """The report of a mesh.

    Raises:
        NonFiniteError: a vertex is NaN or infinite.
        BackendUnavailableError: pymeshlab is not installed.
    """
    mesh.check_finite()
    texture = mesh.texture
    facts = TextureFacts(texture.coordinates, texture.faces, texture.color.shape[:2]) if texture else None
    return triangle_health(mesh.vertices, mesh.faces, facts, unit)


def triangle_health(
    vertices: Float[ndarray, "vertices 3"],
    faces: Int[ndarray, "faces 3"],
    texture: TextureFacts | None = None,
    unit: str = "m",
) -> MeshHealth:
    """The report of triangles; vertices must be finite, and there must be a face."""
    points, corners = welded(vertices, faces)
    edges = count_edges(corners)
    measures, crossing = _meshlab_measures(points, corners)
    manifold = measures["non_two_manifold_edges"] == 0 and measures["non_two_manifold_vertices"] == 0
    used, components = numpy.unique(corners), measures["connected_components_number"]
    euler = len(used) - edges.edges + len(corners)
    area = float(numpy.linalg.norm(double_area_vectors(points, corners), axis=1).sum() / 2)
    low, high = (getattr(points[used], kind)(axis=0).astype(float) for kind in ("min", "max"))
    density, coverage = _texel_density(texture, area) if texture else (None, None)
    return MeshHealth(
        faces=len(corners),
        vertices=len(used),
        components=components,
        watertight=edges.watertight,
        manifold=manifold,
        genus=components - euler // 2 if edges.watertight and manifold else None,
        open_edges=edges.open,
        crowded_edges=edges.crowded,
        degenerate_faces=int(degenerate_faces(points, corners).sum()),
        self_intersections=crossing,
        area=_rounded(area),
        volume=_rounded(enclosed_volume(points, corners)) if edges.watertight else None,
        bounds=[[_rounded(value) for value in row] for row in (low, high)],
        size=[_rounded(value) for value in high - low],
        texture_size=list(texture.size) if texture else None,
        texel_density=density,
        texture_coverage=coverage,
        unit=unit,
    )


def _rounded(value: float) -> float:
    """Six significant digits: what a 32-bit file holds."""
    return float(f"{value:.6g}")


def _meshlab_measures(vertices: ndarray, faces: ndarray) -> tuple[dict[str, Any], int]:
    """MeshLab's topological measures, and the number of faces that cut through others."""
    pymeshlab = import_pymeshlab()
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(vertices.astype(numpy.float64), faces.astype(numpy.int32)))
    measures = meshes.get_topological_measures()
    meshes.compute_selection_by_self_intersections_per_face()
    return measures, meshes.current_mesh().selected_face_number()


def _texel_density(texture: TextureFacts, area: float) -> tuple[float | None, float]:
    """Texels along a unit of length, and the share of the picture that is used."""
    a, b, c = (texture.coordinates[texture.faces[:, corner]].astype(numpy.float64) for corner in range(3))
    first, second = b - a, c - a
    used = float(abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]).sum() / 2)
    texels = used * texture.size[0] * texture.size[1]
    return (_rounded((texels / area) ** 0.5) if area > 0 else None), _rounded(used)
