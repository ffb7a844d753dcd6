"""Mesh files read back."""

import json
import struct

import trimesh


def read(path) -> trimesh.Trimesh:
    loaded = trimesh.load(path, process=False)
    return next(iter(loaded.geometry.values())) if isinstance(loaded, trimesh.Scene) else loaded


def tree_of(path) -> dict:
    """The JSON of a GLB, by the container's specification."""
    data = path.read_bytes()
    magic, version, length, chunk, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    return json.loads(data[20 : 20 + chunk])
