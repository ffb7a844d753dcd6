"""Clean-up of meshes with MeshLab's filters: small loose parts go, and the number of faces comes down to a wish.

Decimation collapses edges by quadric error (Garland and Heckbert 1997); colours are carried over from the nearest point of the
surface as it was.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy
import torch

from prd_lightning.errors import BackendUnavailableError, ConfigurationError, EmptyMeshError
from prd_lightning.mesh.mesh import Mesh
from prd_lightning.rendering import vertex_normals

FEWEST_FACES = 4


@dataclass(frozen=True)
class CleanUpReport:
    """What was asked for and what was reached.

    Attributes:
        faces_before: faces of the mesh that came in.
        faces_after: faces of the mesh that came out.
        target_faces: faces that were asked for, None if any number was right.
        components_removed: loose parts that were dropped.
    """

    faces_before: int
    faces_after: int
    target_faces: int | None
    components_removed: int


def check_target_faces(target_faces: int | None) -> None:
    """Raises ConfigurationError if no closed mesh can have so few faces."""
    if target_faces is not None and target_faces < FEWEST_FACES:
        raise ConfigurationError(f"target_faces must be at least {FEWEST_FACES}, got {target_faces}")


def clean_mesh(mesh: Mesh, target_faces: int | None = None, smallest_component: float = 0.02) -> tuple[Mesh, CleanUpReport]:
    """Drops small loose parts, then decimates. A mesh that needs neither comes back as it is.

    Args:
        mesh: is not changed.
        target_faces: largest number of faces wished for; a closed surface may stop short of it.
        smallest_component: parts with fewer faces than this share of the largest part are dropped; 0 keeps all.

    Raises:
        ConfigurationError: an argument is out of range.
        BackendUnavailableError: pymeshlab is not installed.
        EmptyMeshError: nothing is left.
    """
    check_target_faces(target_faces)
    if not 0 <= smallest_component <= 1:
        raise ConfigurationError(f"smallest_component is a share between 0 and 1, got {smallest_component}")
    pymeshlab = _import_pymeshlab()
    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(_to_pymeshlab(pymeshlab, mesh), "original")
    meshes.add_mesh(_to_pymeshlab(pymeshlab, mesh), "cleaned")
    removed = _drop_small_components(meshes, smallest_component)
    current = meshes.current_mesh()
    too_many = target_faces is not None and current.face_number() > target_faces
    if too_many:
        _decimate(meshes, target_faces)
    report = CleanUpReport(len(mesh.faces), current.face_number(), target_faces, removed)
    if not (removed or too_many):
        return mesh, report
    if not current.face_number():
        raise EmptyMeshError("no face is left after the clean-up; ask for more faces")
    if too_many:
        meshes.transfer_attributes_per_vertex(
            sourcemesh=0, targetmesh=1, colortransfer=True, upperbound=pymeshlab.PercentageValue(100)
        )
    return _from_pymeshlab(meshes.current_mesh()), report


def _import_pymeshlab() -> ModuleType:
    try:
        import pymeshlab
    except ImportError as error:
        raise BackendUnavailableError(
            f"the clean-up of meshes needs pymeshlab, which does not import here ({error}): pip install pymeshlab"
        ) from error
    return pymeshlab


def _drop_small_components(meshes: Any, smallest: float) -> int:
    """Removes small parts of the current mesh; returns how many."""
    if smallest == 0:
        return 0
    before = meshes.get_topological_measures()["connected_components_number"]
    if before == 1:
        return 0
    meshes.compute_selection_by_small_disconnected_components_per_face(nbfaceratio=smallest)
    if not meshes.current_mesh().selected_face_number():
        return 0
    meshes.meshing_remove_selected_faces()
    meshes.meshing_remove_unreferenced_vertices()
    return before - meshes.get_topological_measures()["connected_components_number"]


def _decimate(meshes: Any, target_faces: int) -> None:
    meshes.meshing_decimation_quadric_edge_collapse(
        targetfacenum=target_faces,
        qualitythr=0.3,
        preserveboundary=True,
        preservenormal=True,
        preservetopology=True,
        planarquadric=True,
    )


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
