"""Wavefront OBJ, with a material file and pictures where the mesh has a texture.

Without a texture, colours stand behind the coordinates (``v x y z r g b``, sRGB), which Blender, MeshLab and others read. With
one, ``NAME.mtl`` names ``NAME_color.png`` and ``NAME_normal.png``; its extended keywords (``Pr``, ``Pm``, ``norm``) are those
that Blender and three.js know. Coordinates of pictures count from below in OBJ.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
from numpy import ndarray

from prd_lightning.mesh.glb import ROUGHNESS, png_bytes
from prd_lightning.mesh.mesh import Mesh, Texture

MATERIAL = "object"
COLOR_SUFFIX, NORMAL_SUFFIX = "_color.png", "_normal.png"


def obj_companions(path: Path, normal_map: bool) -> dict[str, Path]:
    """Files that belong to a textured OBJ: the material and its pictures."""
    places = {"material": path.with_suffix(".mtl"), "color": path.with_name(path.stem + COLOR_SUFFIX)}
    return places | ({"normal": path.with_name(path.stem + NORMAL_SUFFIX)} if normal_map else {})


def obj_bytes(mesh: Mesh, path: Path, metadata: Mapping[str, Any]) -> dict[Path, bytes]:
    """Contents of the OBJ and of the files that it needs; it comes last."""
    texture = mesh.texture
    lines = ["# prd_lightning", *(f"# {key}: {json.dumps(value)}" for key, value in metadata.items())]
    if texture is None:
        geometry = [_rows("v", numpy.concatenate([mesh.vertices, mesh.colors], axis=1)), _rows("vn", mesh.normals)]
        faces = mesh.faces + 1
        return {path: _joined([*lines, *geometry, _faces("{0}//{0}", faces)])}
    places = obj_companions(path, texture.normal is not None)
    upwards = numpy.stack([texture.coordinates[:, 0], 1 - texture.coordinates[:, 1]], axis=1)
    geometry = [_rows("v", mesh.vertices), _rows("vt", upwards), _rows("vn", mesh.normals)]
    corners = numpy.stack([mesh.faces, texture.faces], axis=-1).reshape(len(mesh.faces), 6) + 1
    triangles = "f {0}/{1}/{0} {2}/{3}/{2} {4}/{5}/{4}"
    body = "\n".join(triangles.format(*row) for row in corners.tolist())
    library = [f"mtllib {places['material'].name}", f"o {MATERIAL}", *geometry, f"usemtl {MATERIAL}", body]
    contents = {places["color"]: png_bytes(texture.color)}
    if texture.normal is not None:
        contents[places["normal"]] = png_bytes(texture.normal)
    contents[places["material"]] = _joined(_material_lines(texture, places))
    return contents | {path: _joined([*lines, *library])}


def _material_lines(texture: Texture, places: dict[str, Path]) -> list[str]:
    lines = [f"newmtl {MATERIAL}", "Ka 1 1 1", "Kd 1 1 1", "Ks 0 0 0", f"Pr {ROUGHNESS}", "Pm 0", "d 1", "illum 1"]
    lines.append(f"map_Kd {places['color'].name}")
    return lines + ([f"norm {places['normal'].name}"] if texture.normal is not None else [])


def _rows(keyword: str, values: ndarray) -> str:
    pattern = " ".join([keyword, *["%.7g"] * values.shape[1]])
    return "\n".join(pattern % tuple(row) for row in values.tolist())


def _faces(pattern: str, faces: ndarray) -> str:
    line = "f " + " ".join(pattern.replace("{0}", f"{{{corner}}}") for corner in range(3))
    return "\n".join(line.format(*row) for row in faces.tolist())


def _joined(parts: list[str]) -> bytes:
    return ("\n".join(parts) + "\n").encode()
