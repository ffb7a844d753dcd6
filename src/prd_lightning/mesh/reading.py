"""Mesh files of any origin, read for their health report.

GLB, OBJ, PLY, STL (and what else trimesh reads). Parts of a scene are put in their places and joined.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy
import trimesh
from jaxtyping import Float, Int
from numpy import ndarray

from prd_lightning.errors import MeshFileError, NonFiniteError
from prd_lightning.mesh.health import MeshHealth, TextureFacts, triangle_health

MILLIMETRE_FORMATS = (".stl",)


@dataclass(frozen=True)
class MeshFile:
    """What a file holds.

    Attributes:
        vertices: [N, 3] as they stand in the file.
        faces: [F, 3].
        texture: coordinates and size of the picture, None if there is no picture or more than one.
    """

    vertices: Float[ndarray, "vertices 3"]
    faces: Int[ndarray, "faces 3"]
    texture: TextureFacts | None


def read_mesh_file(path: str | Path) -> MeshFile:
    """Triangles of a mesh file.

    Raises:
        MeshFileError: the file is missing, of an unknown kind, damaged, or holds no triangles.
        NonFiniteError: a vertex is NaN or infinite.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise MeshFileError(f"there is no mesh file {path}")
    if path.suffix.lower().removeprefix(".") not in trimesh.available_formats():
        raise MeshFileError(f"{path} is of no known kind of mesh file; known are glb, obj, ply, stl, gltf, off, 3mf and others")
    try:
        parts = _parts(trimesh.load_scene(path, process=False))
    except Exception as error:  # trimesh's readers raise whatever a damaged file leads them to
        raise MeshFileError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if not parts:
        raise MeshFileError(f"{path} holds no triangles")
    offsets = numpy.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    vertices = numpy.concatenate([part.vertices.view(ndarray) for part in parts]).astype(numpy.float64)
    faces = numpy.concatenate([part.faces.view(ndarray) + offset for part, offset in zip(parts, offsets)]).astype(numpy.int64)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise MeshFileError(f"{path} is damaged: its triangles name vertices up to {faces.max()}, but it has {len(vertices)}")
    if not numpy.isfinite(vertices).all():
        count = int((~numpy.isfinite(vertices)).any(axis=1).sum())
        raise NonFiniteError(f"{count} of {len(vertices)} vertices in {path} are not finite")
    return MeshFile(vertices, faces, _texture(parts[0]) if len(parts) == 1 else None)


def _parts(scene: trimesh.Scene) -> list[trimesh.Trimesh]:
    """The meshes of a scene, each in its place."""
    parts = [part for part in scene.dump(concatenate=False) if isinstance(part, trimesh.Trimesh)]
    return [part for part in parts if len(part.faces)]


def _texture(part: trimesh.Trimesh) -> TextureFacts | None:
    coordinates = getattr(part.visual, "uv", None)
    material = getattr(part.visual, "material", None)
    picture = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if coordinates is None or picture is None or len(coordinates) != len(part.vertices):
        return None
    return TextureFacts(numpy.asarray(coordinates), part.faces.view(ndarray), (picture.height, picture.width))


def file_health(path: str | Path) -> MeshHealth:
    """The health report of a mesh file, in the unit of its format (STL has millimetres, others metres).

    Raises:
        MeshFileError, NonFiniteError: see ``read_mesh_file``.
        BackendUnavailableError: pymeshlab is not installed.
    """
    held = read_mesh_file(path)
    unit = "mm" if Path(path).suffix.lower() in MILLIMETRE_FORMATS else "m"
    return triangle_health(held.vertices, held.faces, held.texture, unit)
