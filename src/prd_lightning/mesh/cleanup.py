"""Clean-up of meshes with MeshLab's filters, in this order:

1. small loose parts go;
2. what is broken is mended: faces that are there twice or have no area, edges with more than two faces, surfaces that touch in a
   single vertex; holes are closed on demand;
3. isotropic remeshing (Botsch and Kobbelt 2004) on demand: nearly equilateral triangles of one size;
4. Taubin's smoothing (1995) on demand: noise goes, the volume stays;
5. the number of faces comes down to a wish, by collapsing edges of least quadric error (Garland and Heckbert 1997).

Where vertices moved, colours are carried over from the nearest point of the surface as it was. A mesh that needs nothing comes
back as it is. pymeshlab is under the GPL-3.0.
"""

from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy
import torch

from prd_lightning.errors import BackendUnavailableError, EmptyMeshError
from prd_lightning.mesh.mesh import Mesh
from prd_lightning.mesh.options import MeshOptions, check_target_faces
from prd_lightning.mesh.topology import count_edges, degenerate_faces
from prd_lightning.rendering import vertex_normals

REPAIR_ROUNDS = 3
COINCIDENT = 1e-7
"""Vertices of faces without area are merged if they are closer than this share of the diagonal of the object's box."""


@dataclass(frozen=True)
class CleanUpReport:
    """What was asked for and what was reached.

    Attributes:
        faces_before: faces of the mesh that came in.
        faces_after: faces of the mesh that came out.
        target_faces: faces that were asked for, None if any number was right. A mesh that has fewer is kept; a closed surface
            may stop short of very few.
        components_removed: loose parts that were dropped.
        degenerate_removed: faces without area, or there twice, that were mended or dropped.
        non_manifold_repaired: edges with more than two faces, and vertices in which surfaces touched, that were mended.
        holes_closed: holes that were closed.
        smoothing_steps: of Taubin's smoothing.
        remeshed: whether the surface was divided anew.
    """

    faces_before: int
    faces_after: int
    target_faces: int | None
    components_removed: int
    degenerate_removed: int = 0
    non_manifold_repaired: int = 0
    holes_closed: int = 0
    smoothing_steps: int = 0
    remeshed: bool = False

    @property
    def reached(self) -> bool:
        """Whether the mesh has no more faces than were asked for."""
        return self.target_faces is None or self.faces_after <= self.target_faces

    @property
    def kept(self) -> bool:
        """Whether more faces were asked for than there are."""
        return self.target_faces is not None and self.faces_after < self.target_faces and self.faces_before <= self.target_faces


def clean_mesh(
    mesh: Mesh,
    target_faces: int | None = None,
    smallest_component: float = 0.02,
    fill_holes: int = 0,
    smooth: int = 0,
    remesh: float | None = None,
) -> tuple[Mesh, CleanUpReport]:
    """Mends a mesh. One that needs nothing comes back as it is; a changed one has lost its texture.

    Args:
        mesh: is not changed.
        target_faces, smallest_component, fill_holes, smooth, remesh: see ``MeshOptions``.

    Raises:
        ConfigurationError: an argument is out of range.
        NonFiniteError: a vertex, colour or normal is NaN or infinite.
        BackendUnavailableError: pymeshlab is not installed.
        EmptyMeshError: nothing is left.
    """
    check_target_faces(target_faces)
    MeshOptions(smallest_component=smallest_component, fill_holes=fill_holes, smooth=smooth, remesh=remesh)
    mesh.check_finite()
    cleaning = _Cleaning(mesh)
    cleaning.drop_small_components(smallest_component)
    cleaning.repair()
    cleaning.close_holes(fill_holes)
    cleaning.remesh(remesh)
    cleaning.smooth(smooth)
    cleaning.decimate(target_faces)
    return cleaning.result()


class _Cleaning:
    """A mesh in MeshLab's hands, and what was done to it."""

    def __init__(self, mesh: Mesh) -> None:
        self.pymeshlab, self.mesh = import_pymeshlab(), mesh
        self.meshes = self.pymeshlab.MeshSet()
        for name in ("original", "cleaned"):
            self.meshes.add_mesh(_to_pymeshlab(self.pymeshlab, mesh), name)
        self.report = CleanUpReport(len(mesh.faces), len(mesh.faces), None, 0)
        self.changed = self.moved = False

    @property
    def face_count(self) -> int:
        return self.meshes.current_mesh().face_number()

    def measures(self) -> dict[str, Any]:
        return self.meshes.get_topological_measures()

    def note(self, **values: Any) -> None:
        self.report, self.changed = replace(self.report, **values), True

    def drop_small_components(self, smallest: float) -> None:
        """Removes loose parts with fewer faces than that share of the largest part."""
        before = self.measures()["connected_components_number"]
        if smallest == 0 or before == 1:
            return
        self.meshes.compute_selection_by_small_disconnected_components_per_face(nbfaceratio=smallest)
        if self.meshes.current_mesh().selected_face_number():
            self.meshes.meshing_remove_selected_faces()
            self.meshes.meshing_remove_unreferenced_vertices()
            self.note(components_removed=before - self.measures()["connected_components_number"])

    def repair(self) -> None:
        """Mends degenerate and doubled faces, then what is not manifold; mending one can bring about the other."""
        if self._has_degenerate():
            before = self.face_count
            self.meshes.meshing_merge_close_vertices(threshold=self.pymeshlab.PercentageValue(100 * COINCIDENT))
            self.meshes.meshing_remove_duplicate_faces()
            if self._has_degenerate():
                self.meshes.meshing_remove_t_vertices(method="Edge Flip")
            self.meshes.meshing_remove_null_faces()
            self.meshes.meshing_remove_unreferenced_vertices()
            self.note(degenerate_removed=before - self.face_count)
            self.moved = True
        elif self._has_twins():
            before = self.face_count
            self.meshes.meshing_remove_duplicate_faces()
            self.note(degenerate_removed=before - self.face_count)
        repaired = 0
        for _ in range(REPAIR_ROUNDS):
            found = self.measures()
            edges, vertices = found["non_two_manifold_edges"], found["non_two_manifold_vertices"]
            if not (edges or vertices):
                break
            if edges:
                self.meshes.meshing_repair_non_manifold_edges(method="Split Vertices")
            else:
                self.meshes.meshing_repair_non_manifold_vertices(vertdispratio=0)
            self.meshes.meshing_remove_unreferenced_vertices()
            repaired += edges or vertices
        if repaired:
            self.note(non_manifold_repaired=repaired)

    def _arrays(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        current = self.meshes.current_mesh()
        return current.vertex_matrix(), current.face_matrix().astype(numpy.int64)

    def _has_degenerate(self) -> bool:
        vertices, faces = self._arrays()
        return len(faces) > 0 and bool(degenerate_faces(vertices, faces).any())

    def _has_twins(self) -> bool:
        faces = numpy.sort(self._arrays()[1], axis=1)
        return count_edges(faces).crowded > 0 and len(numpy.unique(faces, axis=0)) < len(faces)

    def close_holes(self, largest: int) -> None:
        """Closes holes of at most ``largest`` edges."""
        found = self.measures()
        if not largest or found["number_holes"] < 1:  # -1: not manifold
            return
        self.meshes.meshing_close_holes(maxholesize=largest, selfintersection=False)
        closed = found["number_holes"] - self.measures()["number_holes"]
        if closed:
            self.note(holes_closed=closed)

    def remesh(self, percent: float | None) -> None:
        """Divides the surface into nearly equilateral triangles."""
        if percent is not None:
            length = self.pymeshlab.PercentageValue(percent)
            self.meshes.meshing_isotropic_explicit_remeshing(targetlen=length, iterations=6, checksurfdist=False)
            self.note(remeshed=True)
            self.moved = True

    def smooth(self, steps: int) -> None:
        """Taubin's smoothing; colours stay on their vertices."""
        if steps:
            self.meshes.apply_coord_taubin_smoothing(stepsmoothnum=steps)
            self.note(smoothing_steps=steps)

    def decimate(self, target_faces: int | None) -> None:
        """Collapses edges until there are at most so many faces."""
        self.report = replace(self.report, target_faces=target_faces)
        if target_faces is None or self.face_count <= target_faces:
            return
        self.meshes.meshing_decimation_quadric_edge_collapse(
            targetfacenum=target_faces,
            qualitythr=0.3,
            preserveboundary=True,
            preservenormal=True,
            preservetopology=True,
            planarquadric=True,
        )
        self.changed = self.moved = True

    def result(self) -> tuple[Mesh, CleanUpReport]:
        """The mesh as it is now."""
        report = replace(self.report, faces_after=self.face_count)
        if not self.changed:
            return self.mesh, report
        if not self.face_count:
            raise EmptyMeshError("no face is left after the clean-up; ask for more faces")
        if self.moved:
            self.meshes.transfer_attributes_per_vertex(
                sourcemesh=0, targetmesh=1, colortransfer=True, upperbound=self.pymeshlab.PercentageValue(100)
            )
        return _from_pymeshlab(self.meshes.current_mesh()), report


def import_pymeshlab() -> ModuleType:
    """The module, or BackendUnavailableError if it does not import."""
    try:
        import pymeshlab
    except ImportError as error:
        raise BackendUnavailableError(
            f"clean-up and health report of meshes need pymeshlab, which does not import here ({error}): pip install pymeshlab"
        ) from error
    return pymeshlab


def _to_pymeshlab(pymeshlab: ModuleType, mesh: Mesh) -> Any:
    # MeshLab keeps 8 bits and rounds down.
    colors = (numpy.rint(mesh.colors.astype(numpy.float64) * 255) + 0.25) / 255
    opaque = numpy.ones((len(mesh.vertices), 1))
    return pymeshlab.Mesh(
        vertex_matrix=mesh.vertices.astype(numpy.float64),
        face_matrix=mesh.faces.astype(numpy.int32),
        v_color_matrix=numpy.concatenate([colors.clip(0, 1), opaque], axis=1),
    )


def _from_pymeshlab(cleaned: Any) -> Mesh:
    vertices = torch.from_numpy(cleaned.vertex_matrix().astype(numpy.float32))
    faces = torch.from_numpy(cleaned.face_matrix().astype(numpy.int64))
    return Mesh.create(vertices, faces, cleaned.vertex_color_matrix()[:, :3], vertex_normals(vertices, faces))
