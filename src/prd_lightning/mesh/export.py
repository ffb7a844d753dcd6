"""Mesh files. A file is complete under its name, or not there.

| format | up  | front | unit | colours                                                                       |
|--------|-----|-------|------|-------------------------------------------------------------------------------|
| glb    | +Y  | +Z    | m    | texture, or COLOR_0, linear as glTF 2.0 demands (see ``glb``)                  |
| obj    | +Y  | +Z    | m    | texture (NAME.mtl, NAME_color.png), or sRGB behind the coordinates            |
| ply    | +Z  | +X    | m    | sRGB of the vertices, 8 bits                                                  |
| stl    | +Z  | +X    | mm   | none, the format has no place for them                                        |

GLB prescribes its axes and OBJ readers assume the same; PLY and STL readers (and printers) take z as up, which is how the
world here stands. ``Placement`` changes axes and size. STL is for printing, so an open surface is refused.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import trimesh

from prd_lightning.errors import ConfigurationError, NotWatertightError
from prd_lightning.files import atomic_write_all
from prd_lightning.mesh.axes import Placement, place_mesh
from prd_lightning.mesh.glb import glb_bytes
from prd_lightning.mesh.mesh import Mesh
from prd_lightning.mesh.obj import obj_bytes, obj_companions
from prd_lightning.mesh.topology import count_edges, welded

FORMATS = ("glb", "obj", "ply", "stl")
TEXTURED_FORMATS = ("glb", "obj")
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


def mesh_files(path: str | Path, texture: bool = False, normal_map: bool = False) -> list[Path]:
    """Every file that ``save_mesh`` writes: the mesh, and what an OBJ with a texture needs beside it."""
    path = Path(path)
    companions = obj_companions(path, normal_map).values() if texture and format_of(path) == "obj" else ()
    return [path, *companions]


def save_mesh(
    mesh: Mesh,
    path: str | Path,
    overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None,
    placement: Placement | None = None,
) -> Path:
    """Writes a mesh in the format that the suffix names.

    Args:
        mesh: what to write.
        path: ``.glb``, ``.obj``, ``.ply`` or ``.stl``; the folder is made if needed.
        overwrite: replace files of those names.
        metadata: JSON values such as prompt, seed and versions; GLB keeps them in ``asset.extras``, OBJ in comments.
        placement: axes and size, where they shall not be the format's own.

    Raises:
        ConfigurationError: unknown suffix, or axes that do not fit together.
        NonFiniteError: a vertex, colour or normal is NaN or infinite.
        NotWatertightError: an open surface shall be written as STL.
        OutputExistsError, OutputNotWritableError: see ``files.atomic_write``; either all files are written or none.
    """
    path = Path(path)
    kind = format_of(path)
    mesh.check_finite()
    placed = place_mesh(mesh, kind, placement)
    contents = _encoded(placed, path, kind, dict(metadata or {}))
    with atomic_write_all(contents, overwrite) as temporaries:
        for place, content in contents.items():
            temporaries[place].write_bytes(content)
    return path


def check_printable(mesh: Mesh) -> None:
    """Raises NotWatertightError if the mesh encloses no volume; the message says what is open and what helps."""
    edges = count_edges(welded(mesh.vertices, mesh.faces)[1])
    if not edges.watertight:
        raise NotWatertightError(
            f"the mesh is not watertight, so it cannot be printed: {edges.open} of its {edges.edges} edges have one face, "
            f"{edges.crowded} have more than two, at {edges.turned} inside and outside change; close its holes (--fill-holes) or "
            "write another format"
        )


def _encoded(mesh: Mesh, path: Path, kind: str, metadata: dict[str, Any]) -> dict[Path, bytes]:
    """Content of each file, the mesh last."""
    if kind == "glb":
        return {path: glb_bytes(mesh, metadata)}
    if kind == "obj":
        return obj_bytes(mesh, path, metadata)
    if kind == "stl":
        check_printable(mesh)
        return {path: _to_trimesh(mesh).export(file_type="stl")}
    return {path: _to_trimesh(mesh).export(file_type="ply", vertex_normal=True)}


def _to_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    """The same arrays; ``process=False`` keeps trimesh from merging or reordering vertices."""
    colors = numpy.rint(mesh.colors * 255).astype(numpy.uint8)
    return trimesh.Trimesh(
        vertices=mesh.vertices, faces=mesh.faces, vertex_normals=mesh.normals, vertex_colors=colors, process=False
    )
