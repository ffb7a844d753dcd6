"""Files read back with trimesh: axes, size, colours, normals, metadata, names. What cannot be written: test_export_refused.py."""

import dataclasses
import struct

import fields
import numpy
import pytest
import trimesh
from PIL import Image
from reading import read, tree_of

from benchmarks.validate import find_validator, validate
from prd_lightning.errors import (
    BackendUnavailableError,
    ConfigurationError,
    OutputNotWritableError,
)
from prd_lightning.mesh import (
    FORMATS,
    Mesh,
    Placement,
    file_stem,
    mesh_files,
    place_mesh,
    save_mesh,
)
from prd_lightning.mesh.glb import linear_to_srgb, srgb_to_linear

METADATA = {"prompt": "a red\nwedge \u00e9", "seed": 3, "versions": {"prd_lightning": "0"}}
Y_UP = ("glb", "obj")


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


def test_a_glb_larger_than_the_format_allows_is_refused(wedge, tmp_path, monkeypatch):
    monkeypatch.setattr("prd_lightning.mesh.glb.LARGEST_FILE", 1000)
    with pytest.raises(OutputNotWritableError, match="at most 4 GiB.*fewer faces"):
        save_mesh(wedge, tmp_path / "mesh.glb")
    assert not list(tmp_path.iterdir())


def test_obj_comments_stay_comments(wedge, tmp_path):
    text = save_mesh(wedge, tmp_path / "mesh.obj", metadata=METADATA).read_text()
    assert "\n# seed: 3\n" in text and '\n# prompt: "a red\\nwedge' in text
    assert all(line.split(" ")[0] in ("#", "v", "vn", "f", "") for line in text.splitlines())


def test_stl_has_every_triangle(wedge, tmp_path):
    data = save_mesh(wedge, tmp_path / "mesh.stl").read_bytes()
    assert len(data) == 84 + 50 * len(wedge.faces)


def test_upper_case_suffix(wedge, tmp_path):
    assert tree_of(save_mesh(wedge, tmp_path / "mesh.GLB"))


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


# ------------------------------------------------------------------------------------------- textures in GLB and OBJ


def samples(mesh: Mesh) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Centres of the triangles in the world, and the texture's colours there."""
    centers = mesh.texture.coordinates[mesh.texture.faces].mean(axis=1)
    columns, rows = (centers * mesh.texture.size).astype(int).T
    return mesh.vertices[mesh.faces].mean(axis=1), mesh.texture.color[rows, columns]


def test_a_textured_glb_reads_back_with_its_colours_at_their_places(textured, tmp_path):
    path = save_mesh(textured, tmp_path / "mesh.glb", metadata=METADATA)
    tree, shape = tree_of(path), read(path)
    primitive = tree["meshes"][0]["primitives"][0]
    assert set(primitive["attributes"]) == {"POSITION", "NORMAL", "TEXCOORD_0", "TANGENT"} and len(tree["materials"]) == 1
    assert tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"] == {"index": 0}
    assert tree["materials"][0]["normalTexture"] == {"index": 1} and tree["asset"]["extras"] == METADATA
    assert all(image["mimeType"] == "image/png" for image in tree["images"])
    places, colors = samples(textured)
    numpy.testing.assert_allclose(shape.triangles_center[:, [2, 0, 1]], places, atol=1e-5)
    # trimesh turns v over when it reads, and again when it looks up.
    seen = shape.visual.material.baseColorTexture
    assert (numpy.asarray(seen) == textured.texture.color).all()
    assert (numpy.asarray(shape.visual.material.normalTexture) == textured.texture.normal).all()
    uv = shape.visual.uv[shape.faces].mean(axis=1)
    found = trimesh.visual.color.uv_to_color(uv, seen)[:, :3].astype(int)
    assert abs(found - colors.astype(int)).mean() < 3 and colors.std() > 20


def test_a_textured_obj_reads_back_with_its_colours_at_their_places(textured, tmp_path):
    path = save_mesh(textured, tmp_path / "mesh.obj", metadata=METADATA)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mesh.mtl", "mesh.obj", "mesh_color.png", "mesh_normal.png"]
    assert sorted(mesh_files(path, True, True)) == sorted(tmp_path.iterdir()) and mesh_files(path) == [path]
    shape = read(path)
    places, colors = samples(textured)
    numpy.testing.assert_allclose(shape.triangles_center[:, [2, 0, 1]], places, atol=1e-5)
    found = trimesh.visual.color.uv_to_color(shape.visual.uv[shape.faces].mean(axis=1), shape.visual.material.image)
    assert abs(found[:, :3].astype(int) - colors.astype(int)).mean() < 3
    assert (numpy.asarray(Image.open(tmp_path / "mesh_normal.png")) == textured.texture.normal).all()
    material = (tmp_path / "mesh.mtl").read_text()
    assert "map_Kd mesh_color.png\n" in material and "norm mesh_normal.png\n" in material


def test_formats_without_textures_take_the_vertices_colours(textured, tmp_path):
    shape = read(save_mesh(textured, tmp_path / "mesh.ply"))
    numpy.testing.assert_allclose(shape.visual.vertex_colors[:, :3] / 255, textured.colors, atol=0.5 / 255 + 1e-6)
    assert list(tmp_path.iterdir()) == [tmp_path / "mesh.ply"]


@pytest.fixture
def khronos() -> None:
    """Skips where node or the validator is missing."""
    try:
        find_validator()
    except BackendUnavailableError as error:
        pytest.skip(str(error))


def test_every_kind_of_glb_passes_the_khronos_validator(wedge, textured, tmp_path, khronos):
    """No errors and no warnings. The validator comes from npm: ``make validate`` installs it and runs the test set through it."""
    plain = dataclasses.replace(textured, texture=dataclasses.replace(textured.texture, normal=None, tangents=None))
    kinds = {"colors": wedge, "texture": plain, "normals": textured, "triangle": fields.triangle()}
    paths = [save_mesh(mesh, tmp_path / f"{name}.glb", metadata=METADATA) for name, mesh in kinds.items()]
    paths.append(save_mesh(textured, tmp_path / "placed.glb", placement=Placement(0.1, "-z", "x")))
    version, reports = validate(paths)
    assert version and len(reports) == len(paths)
    for path, found in zip(paths, reports):
        assert (found["numErrors"], found["numWarnings"]) == (0, 0), (path.name, found["messages"])


def test_the_validator_sees_what_is_wrong(wedge, tmp_path, khronos):
    """An index beyond the last vertex is an error, and a file that is no GLB is one too."""
    good, bad, text = (tmp_path / f"{name}.glb" for name in ("good", "bad", "text"))
    data = bytearray(save_mesh(wedge, good).read_bytes())
    data[-4:] = struct.pack("<I", len(wedge.vertices))
    bad.write_bytes(data)
    text.write_text("no mesh")
    assert [found["numErrors"] > 0 for found in validate([good, bad, text])[1]] == [False, True, True]


# ---------------------------------------------------------------------------------------------------- axes and scale


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("up", "front"), [("z", "-y"), ("-x", "y"), ("y", "x"), ("z", "x")])
def test_axes_and_scale_on_demand(wedge, tmp_path, suffix, up, front):
    """The wedge is low in front and high at the back, wherever these are; its longest side has the length that was asked for."""
    shape = read(save_mesh(wedge, tmp_path / f"mesh.{suffix}", placement=Placement(0.3, up, front)))
    metre = 1000 if suffix == "stl" else 1
    assert max(shape.bounds[1] - shape.bounds[0]) == pytest.approx(0.3 * metre, rel=1e-5)
    axes = {f"{sign}{name}": (-1.0 if sign else 1.0) * row for name, row in zip("xyz", numpy.eye(3)) for sign in ("", "-")}
    ahead, upwards = shape.vertices @ axes[front], shape.vertices @ axes[up]
    size = 0.3 * metre
    assert upwards[ahead > 0.25 * size].max() < 0 < upwards[ahead < -0.25 * size].max()
    assert shape.volume > 0 and shape.is_winding_consistent  # no mirror image
    # Right of the object as one faces it: green grows with y in the world.
    if suffix in ("obj", "ply"):
        right = shape.vertices @ numpy.cross(axes[up], axes[front])
        green = shape.visual.vertex_colors[:, 1]
        assert numpy.corrcoef(right, green)[0, 1] > 0.9


def test_one_axis_alone_moves_the_other_out_of_its_way():
    assert Placement(up="z").axes("glb") == ("z", "x") and Placement(up="x").axes("glb") == ("x", "z")
    assert Placement(front="y").axes("glb") == ("z", "y") and Placement(front="-Y").axes("stl") == ("z", "-y")
    assert Placement().axes("glb") == ("y", "z") and Placement(up="+y").axes("ply") == ("y", "x")
    for kind in FORMATS:
        assert numpy.linalg.det(Placement(up="-x").rotation(kind)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"up": "w"}, "up must be one of x, -x"),
        ({"front": "up"}, "front must be one of"),
        ({"up": "y", "front": "-y"}, "different axes"),
        ({"size": 0.0}, "positive number of metres"),
        ({"size": float("nan")}, "positive number of metres"),
    ],
)
def test_placements_that_make_no_sense(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        Placement(**arguments)


def test_tangents_turn_with_the_object(textured):
    placed = place_mesh(textured, "glb", Placement(0.5, "x", "z"))
    corners = placed.normals[placed.texture.vertex]
    assert abs((placed.texture.tangents[:, :3] * corners).sum(axis=1)).max() < 1e-4
    assert abs(placed.texture.tangents - textured.texture.tangents).max() > 0.1


@pytest.mark.slow
def test_five_million_faces(tmp_path):
    """Written as they are; the file has every face and nothing is copied face by face in Python."""
    cells = 1582
    axis = numpy.linspace(-0.9, 0.9, cells + 1, dtype=numpy.float32)
    x, y = numpy.meshgrid(axis, axis, indexing="ij")
    vertices = numpy.stack([x, y, 0 * x], axis=-1).reshape(-1, 3)
    number = numpy.arange(len(vertices)).reshape(x.shape)
    a, b, c, d = (part.reshape(-1) for part in (number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]))
    faces = numpy.concatenate([numpy.stack([a, b, c], axis=1), numpy.stack([a, c, d], axis=1)])
    mesh = Mesh.create(vertices, faces, numpy.zeros_like(vertices), numpy.tile([0.0, 0, 1], (len(vertices), 1)))
    path = save_mesh(mesh, tmp_path / "large.glb")
    tree = tree_of(path)
    indices = tree["accessors"][tree["meshes"][0]["primitives"][0]["indices"]]
    assert indices["count"] == 3 * len(faces) > 3 * 4_990_000
    written = numpy.fromfile(path, dtype="<u4", count=-1, offset=path.stat().st_size - 12 * len(faces))
    assert (written.reshape(-1, 3) == faces).all()
    path.unlink()
