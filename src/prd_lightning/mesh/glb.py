"""Binary glTF 2.0 with vertex colours.

glTF is +Y up and its models face +Z; the world here is z up and faces +x, so (x, y, z) becomes (y, z, x), a rotation. glTF
multiplies the base colour by COLOR_0 in *linear* light, while a field's colours are sRGB, so they are converted; linear values
need more than the 8 bits that common exporters write (a dark sRGB 0.05 would become 1 of 255), so floats are written.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy
from jaxtyping import Float
from numpy import ndarray

from prd_lightning import __version__
from prd_lightning.mesh.mesh import Mesh

MAGIC, VERSION, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
FLOAT, UNSIGNED_INT = 5126, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER, TRIANGLES = 34962, 34963, 4


def to_y_up(vectors: Float[ndarray, "vectors 3"]) -> Float[ndarray, "vectors 3"]:
    """From z up with the front at +x to y up with the front at +z: (x, y, z) becomes (y, z, x)."""
    return numpy.ascontiguousarray(vectors[:, [1, 2, 0]])


def srgb_to_linear(colors: Float[ndarray, "*colors"]) -> Float[ndarray, "*colors"]:
    """Display values in [0, 1] to linear light (IEC 61966-2-1)."""
    return numpy.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4).astype(colors.dtype)


def linear_to_srgb(colors: Float[ndarray, "*colors"]) -> Float[ndarray, "*colors"]:
    """Linear light in [0, 1] to display values; inverse of ``srgb_to_linear``."""
    return numpy.where(colors <= 0.0031308, colors * 12.92, 1.055 * colors ** (1 / 2.4) - 0.055).astype(colors.dtype)


def glb_bytes(mesh: Mesh, extras: Mapping[str, Any] | None = None) -> bytes:
    """The file's content; ``extras`` are JSON values that end in ``asset.extras``."""
    positions = to_y_up(mesh.vertices)
    blocks = [  # array, component type, element type, target
        (positions, FLOAT, "VEC3", ARRAY_BUFFER),
        (to_y_up(mesh.normals), FLOAT, "VEC3", ARRAY_BUFFER),
        (srgb_to_linear(mesh.colors), FLOAT, "VEC3", ARRAY_BUFFER),
        (mesh.faces.astype(numpy.uint32).reshape(-1), UNSIGNED_INT, "SCALAR", ELEMENT_ARRAY_BUFFER),
    ]
    accessors, views, start = [], [], 0
    for index, (array, component, kind, target) in enumerate(blocks):
        views.append({"buffer": 0, "byteOffset": start, "byteLength": array.nbytes, "target": target})
        accessors.append({"bufferView": index, "componentType": component, "count": len(array), "type": kind})
        start += array.nbytes  # every block is a multiple of four bytes long
    accessors[0] |= {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
    tree = _tree(accessors, views, start, dict(extras or {}))
    return _container(tree, b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array, *_ in blocks))


def _tree(accessors: list, views: list, length: int, extras: dict[str, Any]) -> dict[str, Any]:
    attributes = {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}
    surface = {"baseColorFactor": [1.0, 1.0, 1.0, 1.0], "metallicFactor": 0.0, "roughnessFactor": 0.9}
    return {
        "asset": {"version": "2.0", "generator": f"prd_lightning {__version__}", "extras": extras},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "object"}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 3, "material": 0, "mode": TRIANGLES}]}],
        "materials": [{"name": "vertex_colors", "pbrMetallicRoughness": surface}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": length}],
    }


def _container(tree: dict[str, Any], binary: bytes) -> bytes:
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    header = struct.pack("<III", MAGIC, VERSION, 12 + 8 + len(text) + 8 + len(binary))
    return header + struct.pack("<II", len(text), JSON_CHUNK) + text + struct.pack("<II", len(binary), BINARY_CHUNK) + binary
