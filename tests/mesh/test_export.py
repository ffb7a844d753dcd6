"""Files read back with trimesh: axes, size, colours, normals, metadata; names; and what cannot be written."""

import json
import struct

import numpy
import pytest
import trimesh

from prd_lightning.errors import ConfigurationError, OutputExistsError, OutputNotWritableError
from prd_lightning.mesh import FORMATS, file_stem, save_mesh
from prd_lightning.mesh.glb import linear_to_srgb, srgb_to_linear

METADATA = {"prompt": "a red\nwedge \u00e9", "seed": 3, "versions": {"prd_lightning": "0"}}
Y_UP = ("glb", "obj")


def read(path) -> trimesh.Trimesh:
    loaded = trimesh.load(path, process=False)
    return next(iter(loaded.geometry.values())) if isinstance(loaded, trimesh.Scene) else loaded


def tree_of(path) -> dict:
    """The JSON of a GLB, by the container's specification."""
    data = path.read_bytes()
    magic, version, length, chunk, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    return json.loads(data[20 : 20 + chunk])


@pytest.mark.parametrize("suffix", FORMATS)
def test_axes_and_size(wedge, tmp_path, suffix):
    shape = read(save_mesh(wedge, tmp_path / f"mesh.{suffix}"))
    shape.apply_scale(0.001 if suffix == "stl" else 1)  # programs that slice read STL as millimetres
    # z up and front +x in the world; y up and front +z, a rotation, in the others: right is +y and +x.
    up, front, right = (1, 2, 0) if suffix in Y_UP else (2, 0, 1)
    assert len(shape.faces) == len(wedge.faces) and shape.is_winding_consistent
    before = trimesh.Trimesh(wedge.vertices, wedge.faces, process=False)
    assert shape.volume == pytest.approx(before.volume, rel=1e-4)  # positive: no mirror image
    numpy.testing.assert_allclose(shape.bounds[:, [front, right, up]], before.bounds, atol=1e-5)
    # The wedge is low in front and high at the back.
    points = shape.vertices.view(numpy.ndarray)
    assert points[points[:, front] > 0.3, up].max() < 0 < points[points[:, front] < -0.3, up].max()
    if suffix != "stl":  # whose triangles have vertices of their own
        numpy.testing.assert_allclose(points[:, [front, right, up]], wedge.vertices, atol=1e-5)


@pytest.mark.parametrize("suffix", ["obj", "ply"])
def test_display_colours_and_normals_of_obj_and_ply(wedge, tmp_path, suffix):
    shape = read(save_mesh(wedge, tmp_path / f"mesh.{suffix}"))
    numpy.testing.assert_allclose(shape.visual.vertex_colors[:, :3] / 255, wedge.colors, atol=0.5 / 255 + 1e-6)
    order = [1, 2, 0] if suffix in Y_UP else [0, 1, 2]
    numpy.testing.assert_allclose(shape.vertex_normals, wedge.normals[:, order], atol=1e-5)


def test_glb_colours_are_linear_and_come_back(wedge, tmp_path):
    shape = read(save_mesh(wedge, tmp_path / "mesh.glb"))
    stored = shape.visual.vertex_attributes["color"]
    assert stored.dtype == numpy.float32
    numpy.testing.assert_allclose(linear_to_srgb(stored), wedge.colors, atol=1e-5)
    # Half gray on the display is about a fifth of the light (IEC 61966-2-1), and dark colours are not lost.
    assert srgb_to_linear(numpy.array([0.5]))[0] == pytest.approx(0.2140, abs=1e-4)
    assert srgb_to_linear(numpy.array([0.0, 0.04, 1.0])) == pytest.approx([0, 0.04 / 12.92, 1])
    assert abs(stored - wedge.colors).max() > 0.1
    numpy.testing.assert_allclose(shape.vertex_normals, wedge.normals[:, [1, 2, 0]], atol=1e-6)


def test_glb_header_material_and_extras(wedge, tmp_path):
    path = save_mesh(wedge, tmp_path / "mesh.glb", metadata=METADATA)
    tree = tree_of(path)
    assert tree["asset"]["version"] == "2.0" and tree["asset"]["extras"] == METADATA
    primitive = tree["meshes"][0]["primitives"][0]
    assert set(primitive["attributes"]) == {"POSITION", "NORMAL", "COLOR_0"}
    surface = tree["materials"][primitive["material"]]["pbrMetallicRoughness"]
    assert surface["metallicFactor"] == 0 and surface["roughnessFactor"] >= 0.9 and surface["baseColorFactor"] == [1, 1, 1, 1]
    color = tree["accessors"][primitive["attributes"]["COLOR_0"]]
    assert (color["componentType"], color["type"], color["count"]) == (5126, "VEC3", len(wedge.vertices))
    views = tree["bufferViews"]
    assert all(view["byteOffset"] % 4 == 0 for view in views)
    assert views[-1]["byteOffset"] + views[-1]["byteLength"] == tree["buffers"][0]["byteLength"]
    low, high = (tree["accessors"][0][name] for name in ("min", "max"))
    numpy.testing.assert_allclose([low, high], [wedge.vertices[:, [1, 2, 0]].min(0), wedge.vertices[:, [1, 2, 0]].max(0)])


def test_obj_comments_stay_comments(wedge, tmp_path):
    text = save_mesh(wedge, tmp_path / "mesh.obj", metadata=METADATA).read_text()
    assert "\n# seed: 3\n" in text and '\n# prompt: "a red\\nwedge' in text
    assert all(line.split(" ")[0] in ("#", "v", "vn", "f", "") for line in text.splitlines())


def test_stl_has_every_triangle(wedge, tmp_path):
    data = save_mesh(wedge, tmp_path / "mesh.stl").read_bytes()
    assert len(data) == 84 + 50 * len(wedge.faces)


def test_upper_case_suffix(wedge, tmp_path):
    assert tree_of(save_mesh(wedge, tmp_path / "mesh.GLB"))


@pytest.mark.parametrize("name", ["mesh.fbx", "mesh", "mesh.glb.zip"])
def test_unknown_suffix_names_the_four(wedge, tmp_path, name):
    with pytest.raises(ConfigurationError, match=r"\.glb, \.obj, \.ply, \.stl"):
        save_mesh(wedge, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", FORMATS)
def test_existing_files_stay_unless_overwriting_is_asked_for(wedge, tmp_path, suffix):
    path = tmp_path / f"mesh.{suffix}"
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        save_mesh(wedge, path)
    assert path.read_text() == "mine"
    save_mesh(wedge, path, overwrite=True)
    assert len(read(path).faces) == len(wedge.faces)
    assert list(tmp_path.iterdir()) == [path]  # nothing temporary is left


def test_a_folder_that_cannot_be_made(wedge, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritableError, match="cannot write into"):
        save_mesh(wedge, tmp_path / "file" / "mesh.glb")


def test_metadata_that_is_not_json_leaves_nothing_behind(wedge, tmp_path):
    with pytest.raises(TypeError):
        save_mesh(wedge, tmp_path / "mesh.glb", metadata={"seed": object()})
    assert not list(tmp_path.iterdir())


def test_file_names():
    assert file_stem("a red cone", 0) == "a_red_cone_seed0"
    names = [
        file_stem(prompt, seed)
        for prompt in ("a red cone", "A red cone", "a red, cone", "a red  cone", "../../etc", "\u00e9", "x" * 200, "x" * 201)
        for seed in (0, 1)
    ]
    assert len(set(names)) == len(names)
    assert all(name.isascii() and not set(name) & set("/\\. ") and len(name) < 90 for name in names)
    assert file_stem("A red cone", 0) == file_stem("A red cone", 0)
