"""Mesh files of any system as triangles with colours, brought to one place, size and orientation so that they can be compared.

Colours come from the file's textures, from colours at its vertices or faces, or from its materials, in that order; a file without
any is gray. Files stand in the world's axes here: z up, front at +x. Their size does not matter: every object is moved and
scaled so that the box around it is centred and its longest side has the same length.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy
import trimesh
from jaxtyping import Float, Int
from numpy import ndarray
from PIL import Image

from prd_lightning.errors import ConfigurationError, MeshFileError
from prd_lightning.mesh.glb import linear_to_srgb

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
Y_UP_SUFFIXES = (".glb", ".gltf", ".obj")
GRAY = (0.7, 0.7, 0.7)
LONGEST_SIDE = 1.6
"""Of the box around an object: it stays within the picture from all around."""

UpAxis = Literal["auto", "x", "y", "z", "-x", "-y", "-z"]
UP_AXES = ("auto", "x", "y", "z", "-x", "-y", "-z")
# Rows: world's x (front), y, z (up) in the axes of the file.
_ROTATIONS = {
    "z": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "y": ((0, 0, 1), (1, 0, 0), (0, 1, 0)),
    "x": ((0, 1, 0), (0, 0, 1), (1, 0, 0)),
    "-z": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "-y": ((0, 0, 1), (-1, 0, 0), (0, -1, 0)),
    "-x": ((0, 1, 0), (0, 0, -1), (-1, 0, 0)),
}


@dataclass(frozen=True, eq=False)
class FileObject:
    """All triangles of a file.

    Attributes:
        vertices: [N, 3] in the world's axes.
        faces: [F, 3].
        colors: [N, 3] sRGB in [0, 1] at the vertices: white where a texture has the colour.
        coordinates: [N, 2] of textures, (0, 0) is the upper left corner.
        material: [F] number of the texture of each face, -1 where colours are at the vertices.
        textures: [H, W, 3] pictures in [0, 1].
    """

    vertices: Float[ndarray, "vertices 3"]
    faces: Int[ndarray, "faces 3"]
    colors: Float[ndarray, "vertices 3"]
    coordinates: Float[ndarray, "vertices 2"]
    material: Int[ndarray, " faces"]
    textures: list[Float[ndarray, "height width 3"]]

    def normalized(self) -> ndarray:
        """Vertices moved and scaled to the common box."""
        used = self.vertices[numpy.unique(self.faces)]
        low, high = used.min(axis=0), used.max(axis=0)
        return (self.vertices - (low + high) / 2) * (LONGEST_SIDE / max(float((high - low).max()), 1e-12))


def load_file(path: Path, up: UpAxis = "auto", linear_colors: bool = True) -> FileObject:
    """Reads a mesh file.

    Args:
        path: of one of ``SUFFIXES``.
        up: axis that points up in the file; ``auto``: y for GLB, glTF and OBJ, z for the others.
        linear_colors: colours at the vertices of GLB and glTF files are linear, as glTF prescribes. Many exporters write display
            colours there: False takes them as they are.

    Raises:
        MeshFileError: the file is missing, cannot be read, holds no triangle, or a vertex of it is not finite.
    """
    if up not in UP_AXES:
        raise ConfigurationError(f"unknown up axis {up!r}; known: {', '.join(UP_AXES)}")
    if not path.is_file():
        raise MeshFileError(f"there is no mesh file {path}")
    parts = [_part(geometry) for geometry in _geometries(path)]
    if not parts:
        raise MeshFileError(f"{path} holds no triangle")
    is_gltf = path.suffix.lower() in (".glb", ".gltf")
    axis = up if up != "auto" else "y" if path.suffix.lower() in Y_UP_SUFFIXES else "z"
    merged = _merge(parts, numpy.array(_ROTATIONS[axis], dtype=numpy.float64), linear_colors and is_gltf)
    if not numpy.isfinite(merged.vertices).all():
        raise MeshFileError(f"{path} has vertices that are not finite")
    return merged


def _geometries(path: Path) -> list[trimesh.Trimesh]:
    """The file's triangle meshes in the scene's coordinates."""
    try:
        scene = trimesh.load_scene(path, process=False)
        meshes = [mesh for mesh in scene.dump() if isinstance(mesh, trimesh.Trimesh) and len(mesh.faces)]
        if path.suffix.lower() in (".glb", ".gltf") and all(_picture(mesh) is None for mesh in meshes):
            # With a material trimesh leaves the colours at the vertices out.
            bare = trimesh.load_scene(path, process=False, skip_materials=True)
            plain = [mesh for mesh in bare.dump() if isinstance(mesh, trimesh.Trimesh) and len(mesh.faces)]
            meshes = [second if second.visual.kind == "vertex" else first for first, second in zip(meshes, plain)]
    except MemoryError:
        raise
    except Exception as error:  # trimesh and its readers raise whatever they run into
        raise MeshFileError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    return meshes


def _picture(mesh: trimesh.Trimesh) -> Image.Image | None:
    """The picture of the base colour, None without one or without coordinates."""
    material = getattr(mesh.visual, "material", None)
    if material is None or getattr(mesh.visual, "uv", None) is None:
        return None
    return getattr(material, "baseColorTexture", None) or getattr(material, "image", None)


@dataclass(frozen=True)
class _Part:
    vertices: ndarray
    faces: ndarray
    colors: ndarray
    coordinates: ndarray
    texture: ndarray | None
    colors_at_vertices: bool


def _part(mesh: trimesh.Trimesh) -> _Part:
    vertices, faces = numpy.asarray(mesh.vertices, numpy.float64), numpy.asarray(mesh.faces, numpy.int64)
    coordinates, texture, at_vertices = numpy.zeros((len(vertices), 2)), None, False
    colors = numpy.tile(numpy.array(GRAY), (len(vertices), 1))
    picture = _picture(mesh)
    if picture is not None:
        texture = numpy.asarray(picture.convert("RGB"), numpy.float32) / 255 * _factor(mesh.visual.material)
        coordinates = numpy.asarray(mesh.visual.uv, numpy.float64) * (1, -1) + (0, 1)  # trimesh counts from the lower left corner
        colors = numpy.ones((len(vertices), 3))
    elif mesh.visual.kind == "face":
        vertices, faces = vertices[faces].reshape(-1, 3), numpy.arange(3 * len(faces)).reshape(-1, 3)
        coordinates, colors = numpy.zeros((len(vertices), 2)), numpy.repeat(mesh.visual.face_colors[:, :3] / 255, 3, axis=0)
    elif mesh.visual.kind == "vertex":
        colors, at_vertices = mesh.visual.vertex_colors[:, :3] / 255, True
    elif getattr(mesh.visual, "material", None) is not None and _has_color(mesh.visual.material):
        colors = numpy.tile(_factor(mesh.visual.material), (len(vertices), 1))
    return _Part(vertices, faces, colors.astype(numpy.float32), coordinates, texture, at_vertices)


def _has_color(material: Any) -> bool:
    return getattr(material, "baseColorFactor", None) is not None or hasattr(material, "diffuse")


def _factor(material: Any) -> ndarray:
    """sRGB of a material's own colour; a picture is multiplied by it."""
    linear = getattr(material, "baseColorFactor", None)
    if linear is not None:
        values = numpy.asarray(linear, numpy.float64)[:3]
        return linear_to_srgb(values / 255 if values.max() > 1 else values).astype(numpy.float32)
    if getattr(material, "image", None) is None and hasattr(material, "diffuse"):
        return numpy.asarray(material.diffuse, numpy.float32)[:3] / 255
    return numpy.ones(3, numpy.float32)


def _merge(parts: list[_Part], rotation: ndarray, linear_colors: bool) -> FileObject:
    start, faces, material, textures, colors = 0, [], [], [], []
    for part in parts:
        faces.append(part.faces + start)
        start += len(part.vertices)
        if part.texture is not None:
            textures.append(part.texture.astype(numpy.float32))
        material.append(numpy.full(len(part.faces), len(textures) - 1 if part.texture is not None else -1))
        colors.append(linear_to_srgb(part.colors) if linear_colors and part.colors_at_vertices else part.colors)
    vertices = numpy.concatenate([part.vertices for part in parts]) @ rotation.T
    return FileObject(
        vertices.astype(numpy.float32),
        numpy.concatenate(faces),
        numpy.concatenate(colors).astype(numpy.float32),
        numpy.concatenate([part.coordinates for part in parts]).astype(numpy.float32),
        numpy.concatenate(material),
        textures,
    )
