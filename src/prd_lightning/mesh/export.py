"""Mesh files. A file is complete under its name, or not there.

| format | up  | front | colours                                                            |
|--------|-----|-------|--------------------------------------------------------------------|
| glb    | +Y  | +Z    | COLOR_0, linear as glTF 2.0 demands, floats (see ``glb``)          |
| obj    | +Y  | +Z    | sRGB behind the coordinates (``v x y z r g b``)                    |
| ply    | +Z  | +X    | sRGB, 8 bits                                                       |
| stl    | +Z  | +X    | none, the format has no place for them                             |

GLB prescribes its axes and OBJ readers assume the same; PLY and STL readers (and printers) take z as up, which is how the
world here stands. The object keeps its size in all four: it fills [-1, 1]^3.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import trimesh
from numpy import ndarray

from prd_lightning.errors import ConfigurationError
from prd_lightning.files import atomic_write
from prd_lightning.mesh.glb import glb_bytes, to_y_up
from prd_lightning.mesh.mesh import Mesh

FORMATS = ("glb", "obj", "ply", "stl")
LONGEST_STEM = 60


def format_of(path: str | Path) -> str:
    """The format that a file's suffix names.

    Raises:
        ConfigurationError: it names none of the four.
    """
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise ConfigurationError(f"{path} does not name a mesh format by its suffix; known: {known}")
    return suffix


def file_stem(prompt: str, seed: int) -> str:
    """A file name without suffix, the same for the same prompt and seed and different for any others.

    ``a red cone`` and seed 0 give ``a_red_cone_seed0``; where the prompt cannot be read back from its name (capitals, signs,
    long texts), eight digits of its hash are added.
    """
    name = re.sub(r"[^a-z0-9]+", "_", prompt.lower()).strip("_")[:LONGEST_STEM].rstrip("_")
    if name.replace("_", " ") != prompt:
        name = f"{name}_{hashlib.sha256(prompt.encode()).hexdigest()[:8]}".lstrip("_")
    return f"{name}_seed{seed}"


def save_mesh(mesh: Mesh, path: str | Path, overwrite: bool = False, metadata: Mapping[str, Any] | None = None) -> Path:
    """Writes a mesh in the format that the suffix names.

    Args:
        mesh: what to write.
        path: ``.glb``, ``.obj``, ``.ply`` or ``.stl``; the folder is made if needed.
        overwrite: replace a file of that name.
        metadata: JSON values such as prompt, seed and versions; GLB keeps them in ``asset.extras``, OBJ in comments.

    Raises:
        ConfigurationError: unknown suffix.
        OutputExistsError, OutputNotWritableError: see ``files.atomic_write``.
    """
    path = Path(path)
    kind = format_of(path)
    with atomic_write(path, overwrite) as temporary:
        temporary.write_bytes(_encoded(mesh, kind, dict(metadata or {})))
    return path


def _encoded(mesh: Mesh, kind: str, metadata: dict[str, Any]) -> bytes:
    if kind == "glb":
        return glb_bytes(mesh, metadata)
    if kind == "obj":
        comments = ["prd_lightning", *(f"{key}: {json.dumps(value)}" for key, value in metadata.items())]
        shape = _to_trimesh(mesh, to_y_up(mesh.vertices), to_y_up(mesh.normals))
        return shape.export(file_type="obj", include_normals=True, header="\n# ".join(comments)).encode()
    shape = _to_trimesh(mesh, mesh.vertices, mesh.normals)
    return shape.export(file_type="stl") if kind == "stl" else shape.export(file_type="ply", vertex_normal=True)


def _to_trimesh(mesh: Mesh, vertices: ndarray, normals: ndarray) -> trimesh.Trimesh:
    """The same arrays; ``process=False`` keeps trimesh from merging or reordering vertices."""
    colors = numpy.rint(mesh.colors * 255).astype(numpy.uint8)
    return trimesh.Trimesh(vertices=vertices, faces=mesh.faces, vertex_normals=normals, vertex_colors=colors, process=False)
