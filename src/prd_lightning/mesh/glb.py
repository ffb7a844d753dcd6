"""Binary glTF 2.0: one mesh with one material, whose base colour is a texture or the vertices' colours.

glTF is +Y up, its models face +Z and its unit is the metre (see ``axes``). It multiplies the base colour by COLOR_0 in *linear*
light, while a field's colours are sRGB, so they are converted; linear values need more than the 8 bits that common exporters
write (a dark sRGB 0.05 would become 1 of 255), so floats are written. Textures of the base colour are sRGB by definition and
stay as they are. Pictures are embedded as PNG. With a normal map the file has tangents as well.
"""

import io
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from prd_lightning import __version__
from prd_lightning.errors import OutputNotWritableError
from prd_lightning.mesh.mesh import Mesh

MAGIC, VERSION, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
FLOAT, UNSIGNED_INT = 5126, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER, TRIANGLES = 34962, 34963, 4
LINEAR, LINEAR_MIPMAP_LINEAR, CLAMP_TO_EDGE = 9729, 9987, 33071
ROUGHNESS = 0.9
LARGEST_FILE = 2**32 - 1


def srgb_to_linear(colors: Float[ndarray, "*colors"]) -> Float[ndarray, "*colors"]:
    """Display values in [0, 1] to linear light (IEC 61966-2-1)."""
    return numpy.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4).astype(colors.dtype)


def linear_to_srgb(colors: Float[ndarray, "*colors"]) -> Float[ndarray, "*colors"]:
    """Linear light in [0, 1] to display values; inverse of ``srgb_to_linear``."""
    return numpy.where(colors <= 0.0031308, colors * 12.92, 1.055 * colors ** (1 / 2.4) - 0.055).astype(colors.dtype)


def png_bytes(picture: UInt8[ndarray, "rows columns 3"]) -> bytes:
    """The content of a PNG file."""
    output = io.BytesIO()
    Image.fromarray(picture).save(output, format="PNG")
    return output.getvalue()


class _Binary:
    """The binary chunk as it grows, with the accessors and views into it."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        self.length = 0
        self.accessors: list[dict[str, Any]] = []
        self.views: list[dict[str, Any]] = []

    def _view(self, data: bytes, **properties: int) -> int:
        self.views.append({"buffer": 0, "byteOffset": self.length, "byteLength": len(data)} | properties)
        padded = data + b"\0" * (-len(data) % 4)
        self.blocks.append(padded)
        self.length += len(padded)
        return len(self.views) - 1

    def vectors(self, values: Float[ndarray, "rows columns"], limits: bool = False) -> int:
        """Adds an attribute of the vertices; returns its accessor."""
        values = numpy.ascontiguousarray(values, dtype="<f4")
        view = self._view(values.tobytes(), target=ARRAY_BUFFER)
        kind = f"VEC{values.shape[1]}"
        accessor = {"bufferView": view, "componentType": FLOAT, "count": len(values), "type": kind}
        if limits:
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def indices(self, faces: ndarray) -> int:
        """Adds the triangles; returns their accessor."""
        view = self._view(faces.astype("<u4").tobytes(), target=ELEMENT_ARRAY_BUFFER)
        self.accessors.append({"bufferView": view, "componentType": UNSIGNED_INT, "count": faces.size, "type": "SCALAR"})
        return len(self.accessors) - 1

    def picture(self, picture: UInt8[ndarray, "rows columns 3"]) -> dict[str, Any]:
        """Adds a PNG; returns the image."""
        return {"bufferView": self._view(png_bytes(picture)), "mimeType": "image/png"}


def glb_bytes(mesh: Mesh, extras: Mapping[str, Any] | None = None) -> bytes:
    """The file's content; ``mesh`` stands as it shall stand in the file, ``extras`` are JSON values for ``asset.extras``.

    Raises:
        OutputNotWritableError: the file would be larger than the 4 GiB that the format can hold.
    """
    binary, texture = _Binary(), mesh.texture
    corners = slice(None) if texture is None else texture.vertex
    attributes = {"POSITION": binary.vectors(mesh.vertices[corners], limits=True)}
    attributes["NORMAL"] = binary.vectors(mesh.normals[corners])
    if texture is None:
        attributes["COLOR_0"] = binary.vectors(srgb_to_linear(mesh.colors))
    else:
        attributes["TEXCOORD_0"] = binary.vectors(texture.coordinates)
        if texture.tangents is not None:
            attributes["TANGENT"] = binary.vectors(texture.tangents)
    indices = binary.indices(mesh.faces if texture is None else texture.faces)
    primitive = {"attributes": attributes, "indices": indices, "material": 0, "mode": TRIANGLES}
    tree = {
        "asset": {"version": "2.0", "generator": f"prd_lightning {__version__}", "extras": dict(extras or {})},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "object"}],
        "meshes": [{"name": "object", "primitives": [primitive]}],
        **_material(mesh, binary),
        "accessors": binary.accessors,
        "bufferViews": binary.views,
        "buffers": [{"byteLength": binary.length}],
    }
    return _container(tree, b"".join(binary.blocks))


def _material(mesh: Mesh, binary: _Binary) -> dict[str, Any]:
    """The single material, with its textures where there are any."""
    surface: dict[str, Any] = {"baseColorFactor": [1.0, 1.0, 1.0, 1.0], "metallicFactor": 0.0, "roughnessFactor": ROUGHNESS}
    material: dict[str, Any] = {"name": "object", "pbrMetallicRoughness": surface}
    if mesh.texture is None:
        return {"materials": [material]}
    images = [binary.picture(mesh.texture.color) | {"name": "color"}]
    surface["baseColorTexture"] = {"index": 0}
    if mesh.texture.normal is not None:
        images.append(binary.picture(mesh.texture.normal) | {"name": "normal"})
        material["normalTexture"] = {"index": 1}
    sampler = {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": CLAMP_TO_EDGE, "wrapT": CLAMP_TO_EDGE}
    textures = [{"sampler": 0, "source": index} for index in range(len(images))]
    return {"materials": [material], "textures": textures, "images": images, "samplers": [sampler]}


def _container(tree: dict[str, Any], binary: bytes) -> bytes:
    text = json.dumps(tree, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    length = 12 + 8 + len(text) + 8 + len(binary)
    if length > LARGEST_FILE:
        raise OutputNotWritableError(f"a GLB file holds at most 4 GiB, this one would have {length} bytes; ask for fewer faces")
    header = struct.pack("<III", MAGIC, VERSION, length)
    return header + struct.pack("<II", len(text), JSON_CHUNK) + text + struct.pack("<II", len(binary), BINARY_CHUNK) + binary
