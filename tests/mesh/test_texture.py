"""Textures: the atlas keeps the mesh, texels are the field's colours at their own place, seams are closed, time limits hold."""

import dataclasses
import sys
import time

import fields
import numpy
import pytest
import torch
from fields import to_mesh

from prd_lightning.cameras import turntable_cameras
from prd_lightning.errors import AtlasError, ConfigurationError
from prd_lightning.mesh import Mesh, MeshOptions, baking, clean_mesh, extract_mesh, make_mesh
from prd_lightning.mesh import atlas as atlas_module
from prd_lightning.mesh.atlas import Atlas, make_atlas
from prd_lightning.mesh.baking import bake_texture, dilate, encode_normals, move_to_surface
from prd_lightning.mesh.pictures import mesh_views
from prd_lightning.mesh.tangents import tangent_frames, vertex_tangents
from prd_lightning.rendering import MeshRenderer, WhiteBackground, resize_map
from prd_lightning.sampling import sample_planes

SIZE = 512


@pytest.fixture(scope="module")
def bumpy():
    """Field, planes, coarse mesh, atlas and texture of a dented ball in strong colours."""
    field, planes = fields.bumpy_field()
    mesh, _ = clean_mesh(extract_mesh(field, planes, 32), target_faces=1500)
    atlas = make_atlas(mesh, SIZE, timeout=100)
    return field, planes, mesh, atlas, bake_texture(field, planes, mesh, atlas, SIZE, normal_map=True)


def cross(first: numpy.ndarray, second: numpy.ndarray) -> numpy.ndarray:
    """Signed areas spanned by vectors in the plane."""
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]


def texel_points(mesh: Mesh, atlas: Atlas, faces: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Centres of triangles, in the world and in pixels."""
    return mesh.vertices[mesh.faces[faces]].mean(axis=1), atlas.coordinates[atlas.faces[faces]].mean(axis=1) * SIZE


def test_an_atlas_keeps_the_triangles_and_its_charts_do_not_overlap(bumpy):
    _, _, mesh, atlas, texture = bumpy
    assert (atlas.vertex[atlas.faces] == mesh.faces).all() and atlas.charts >= 1
    assert atlas.coordinates.min() >= 0 and atlas.coordinates.max() <= 1
    a, b, c = (atlas.coordinates[atlas.faces[:, corner]] for corner in range(3))
    areas = cross(b - a, c - a)
    samples = numpy.random.default_rng(0).random((1500, 2))
    sides = [cross(q - p, samples[:, None] - p) for p, q in ((a, b), (b, c), (c, a))]
    inside = (numpy.sign(areas) * numpy.stack(sides) > 1e-9).all(axis=0).sum(axis=1)
    assert inside.max() == 1 and inside.mean() == pytest.approx(abs(areas).sum() / 2, abs=0.05) and inside.mean() > 0.3
    assert texture.color.shape == texture.normal.shape == (SIZE, SIZE, 3)


def test_texels_are_the_fields_colours_at_their_own_place(bumpy):
    field, planes, mesh, atlas, texture = bumpy
    first, second = numpy.diff(atlas.coordinates[atlas.faces], axis=1).swapaxes(0, 1)
    large = numpy.flatnonzero(abs(cross(first, second)) > 1e-4)
    points, pixels = texel_points(mesh, atlas, large)
    moved, _ = move_to_surface(field, planes, torch.from_numpy(points))
    expected = field.color(planes, moved[None])[0].clamp(0, 1).detach().numpy()
    columns, rows = pixels.astype(int).T
    difference = abs(texture.color[rows, columns] / 255 - expected)
    by_vertices = mesh.colors[mesh.faces[large]].mean(axis=1)
    assert len(large) > 500 and difference.mean() < 0.01
    assert difference.mean() < 0.4 * abs(by_vertices - expected).mean()  # a copy of vertex colours could not do that


def test_bands_without_a_texel_and_bands_of_any_height_make_the_same_texture(bumpy, monkeypatch):
    """The atlas in the lower half of the picture: the upper bands are empty."""
    field, planes, mesh, atlas, _ = bumpy
    lower = dataclasses.replace(atlas, coordinates=atlas.coordinates * numpy.float32(0.5) + numpy.float32([0.0, 0.5]))
    whole = bake_texture(field, planes, mesh, lower, 128, normal_map=True)
    monkeypatch.setattr(baking, "TEXELS_AT_ONCE", 128 * 20)
    parts = bake_texture(field, planes, mesh, lower, 128, normal_map=True)
    for first, second in ((whole.color, parts.color), (whole.normal, parts.normal)):
        assert abs(first.astype(int) - second.astype(int)).max() <= 1 and first.std() > 5


def test_points_are_moved_to_the_surface(bumpy):
    field, planes, mesh, _, _ = bumpy
    centers = torch.from_numpy(mesh.vertices[mesh.faces].mean(axis=1))
    moved, gradient = move_to_surface(field, planes, centers)
    before, after = (field.sdf(planes, points[None])[0].abs() for points in (centers, moved))
    assert (after <= before + 1e-7).all() and after.mean() < 0.05 * before.mean()
    assert (moved - centers).norm(dim=-1).max() <= 0.0501
    torch.testing.assert_close(gradient, field.sdf_and_gradient(planes, moved[None])[1][0])


def test_where_the_box_cuts_the_object_points_stay_on_its_wall():
    from prd_lightning.field import TriplaneField

    field = TriplaneField(channels=4, hidden=8, sphere_radius=1.2)
    planes = field.prepare(torch.zeros(1, 6, 4, 8, 8))
    wall = torch.tensor([[1.0, 0.1, 0.2], [0.1, -1.0, 0.0]])
    assert torch.equal(move_to_surface(field, planes, wall)[0], wall)
    mesh, report = make_mesh(field, planes, MeshOptions(resolution=16, texture=True, texture_size=512))
    assert mesh.texture is not None and report.texture.fallback is None and abs(mesh.texture.color - 127.5).max() < 1


def test_a_textured_mesh_looks_like_the_field_and_the_normal_map_adds_detail(bumpy):
    field, planes, mesh, _, texture = bumpy
    cameras, size = turntable_cameras(2), 96
    rgb, normal = mesh_views(mesh.with_texture(texture), cameras, size)
    _, plain = mesh_views(mesh, cameras, size)
    fine = extract_mesh(field, planes, 96)
    expected, expected_normal = mesh_views(fine, cameras, size)
    inside = ((rgb < 1).any(-1) & (expected < 1).any(-1))[..., None]
    assert psnr(rgb, expected) > 30
    error, plain_error = (((value - expected_normal) * inside).square().sum() for value in (normal, plain))
    assert error < 0.7 * plain_error


def psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(-10 * torch.log10((first - second).square().mean()))


@pytest.mark.parametrize("prompt", ["a yellow torus", "a red sphere on a blue cube"])
def test_psnr_on_the_tiny_world(tiny, prompt):
    """Rendered textured mesh against the mesh renderer's picture of the colour field, at the texture's smallest size."""
    planes = sample_planes(tiny.parts, [prompt], [0], tiny.architecture.steps).item(0)
    options = MeshOptions(resolution=64, target_faces=4000, texture=True, texture_size=512)
    mesh, report = make_mesh(tiny.parts.field, planes, options)
    assert report.texture.fallback is None and len(mesh.faces) <= 4000
    cameras = turntable_cameras(2)
    rgb, _ = mesh_views(mesh, cameras, 96)
    with torch.no_grad():
        maps = MeshRenderer(64, image_size=288, rasterizer="torch")(tiny.parts.field, planes, cameras, WhiteBackground())
    expected = resize_map(maps.rgb, 96)
    assert (expected < 0.9).any(-1).float().mean() > 0.05
    assert psnr(rgb, expected) >= 30


# --------------------------------------------------------------------------------------------------------- tangents


def flat_square() -> tuple[Mesh, Atlas]:
    """A square that faces +x; the picture lies on it as seen from there: u along +y, v along -z."""
    vertices = numpy.array([[0, 0, 1], [0, 1, 1], [0, 1, 0], [0, 0, 0]], dtype=numpy.float32)
    faces = numpy.array([[0, 3, 2], [0, 2, 1]])
    coordinates = numpy.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=numpy.float32)
    mesh = Mesh.create(vertices, faces, numpy.zeros((4, 3)), numpy.tile([1.0, 0, 0], (4, 1)))
    return mesh, Atlas(numpy.arange(4), faces, coordinates, 1)


@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_are_those_of_gltf(mirrored):
    """Tangent along u, bitangent up in the picture, against the normal; a mirrored picture turns the sign."""
    mesh, atlas = flat_square()
    if mirrored:
        atlas = dataclasses.replace(atlas, coordinates=abs(atlas.coordinates - numpy.float32([1, 0])))
    tangents = vertex_tangents(mesh, atlas)
    along = -1.0 if mirrored else 1.0
    numpy.testing.assert_allclose(tangents, numpy.tile([0, along, 0, along], (4, 1)), atol=1e-6)
    frame = tangent_frames(torch.from_numpy(mesh.normals), torch.from_numpy(tangents))[0]
    torch.testing.assert_close(frame, torch.tensor([[0, 0, 1], [along, 0, 0], [0, 1, 0.0]]))
    # A surface that leans upwards is green.
    leaning = encode_normals(frame[None], torch.nn.functional.normalize(torch.tensor([[1.0, 0, 1.0]]), dim=-1))
    torch.testing.assert_close(leaning, torch.tensor([[0.5, 0.5 + 0.5 * 0.5**0.5, 0.5 + 0.5 * 0.5**0.5]]))


def test_tangents_are_unit_and_orthogonal(bumpy):
    _, _, mesh, atlas, texture = bumpy
    tangents, normals = texture.tangents, mesh.normals[atlas.vertex]
    numpy.testing.assert_allclose(numpy.linalg.norm(tangents[:, :3], axis=1), 1, atol=1e-5)
    assert abs((tangents[:, :3] * normals).sum(axis=1)).max() < 1e-4 and set(tangents[:, 3]) <= {-1.0, 1.0}
    # Along the tangent u grows: finite differences on the triangles.
    a, b = (atlas.faces[:, corner] for corner in (0, 1))
    edge = mesh.vertices[atlas.vertex[b]] - mesh.vertices[atlas.vertex[a]]
    rises = (edge * tangents[a, :3]).sum(axis=1)
    grows = atlas.coordinates[b, 0] - atlas.coordinates[a, 0]
    assert numpy.corrcoef(rises, grows)[0, 1] > 0.97


def test_normals_survive_the_way_through_the_map():
    generator = torch.Generator().manual_seed(1)
    normal, tangent = torch.randn(50, 3, generator=generator), torch.randn(50, 4, generator=generator)
    frames = tangent_frames(normal, tangent)
    wanted = torch.nn.functional.normalize(torch.nn.functional.normalize(normal, dim=-1) + 0.3 * torch.randn(50, 3), dim=-1)
    shown = (frames @ (encode_normals(frames, wanted) * 2 - 1)[..., None])[..., 0]
    above = torch.linalg.solve(frames, wanted[..., None])[:, 2, 0] > 0
    torch.testing.assert_close(torch.nn.functional.normalize(shown, dim=-1)[above], wanted[above], atol=1e-4, rtol=1e-4)
    assert above.float().mean() > 0.8


# --------------------------------------------------------------------------------------------------------- dilation


def test_dilation_keeps_charts_and_continues_them():
    picture = torch.zeros(64, 64, 3)
    covered = torch.zeros(64, 64, dtype=torch.bool)
    covered[10:30, 10:30], covered[40:60, 40:60] = True, True
    picture[10:30, 10:30], picture[40:60, 40:60] = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])
    filled = dilate(picture, covered)
    assert torch.equal(filled[covered], picture[covered])
    torch.testing.assert_close(filled[8:32, 8:32], picture[20, 20].expand(24, 24, 3))  # two rings around a chart
    assert (filled[..., 1] == 0).all()
    torch.testing.assert_close(filled.sum(dim=-1), torch.ones(64, 64))  # means of red and blue, never the background
    assert torch.equal(dilate(picture, torch.zeros_like(covered)), picture)


# ------------------------------------------------------------------------------------------------ limits and failures


def test_the_time_limit_ends_the_process_and_the_mesh_keeps_vertex_colours(tmp_path, monkeypatch, caplog):
    worker = tmp_path / "endless.py"
    worker.write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(atlas_module, "WORKER", worker)
    field, planes = fields.bumpy_field()
    begun = time.monotonic()
    mesh, report = make_mesh(field, planes, MeshOptions(resolution=12, texture=True, texture_timeout=0.5))
    assert time.monotonic() - begun < 60
    assert mesh.texture is None and mesh.colors.std() > 0.05
    assert "took more than 0.5 seconds" in report.texture.fallback and report.texture.size is None
    assert "colours at its vertices instead of a texture" in caplog.text
    assert report.to_dict()["texture"]["fallback"] == report.texture.fallback


@pytest.mark.parametrize(
    ("program", "message"),
    [("raise SystemExit('no memory')", "status 1: no memory"), ("import os; os.abort()", "failed with status -6")],
)
def test_a_process_that_fails(tmp_path, monkeypatch, program, message):
    worker = tmp_path / "failing.py"
    worker.write_text(program)
    monkeypatch.setattr(atlas_module, "WORKER", worker)
    with pytest.raises(AtlasError, match=message):
        make_atlas(to_mesh(fields.ball(0)), SIZE, 100)


def test_without_xatlas_or_python(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(AtlasError, match="did not start"):
        make_atlas(to_mesh(fields.ball(0)), SIZE, 100)
    monkeypatch.setattr(atlas_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AtlasError, match="pip install xatlas"):
        make_atlas(to_mesh(fields.ball(0)), SIZE, 100)


def test_one_triangle_has_an_atlas():
    atlas = make_atlas(fields.triangle(), SIZE, 100)
    assert atlas.faces.shape == (1, 3) and atlas.charts == 1


def test_a_texture_of_another_mesh_is_refused(bumpy):
    texture = bumpy[4]
    with pytest.raises(ConfigurationError, match="not those of the mesh"):
        to_mesh(fields.ball()).with_texture(texture)


# ------------------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texture_size": "big"}, "texture_size must be a whole number between 512 and 4096, got 'big'"),
        ({"texture_size": 511}, "got 511"),
        ({"texture_size": 4097}, "got 4097"),
        ({"texture_size": 1000.5}, "got 1000.5"),
        ({"texture_size": None}, "got None"),
        ({"texture_size": True}, "got True"),
        ({"texture_timeout": 0}, "texture_timeout must be a positive number"),
        ({"texture_timeout": float("nan")}, "texture_timeout"),
        ({"normal_map": True}, "a normal map needs a texture"),
        ({"resolution": 4}, "got 4"),
        ({"target_faces": 3}, "at least 4, got 3"),
    ],
)
def test_options_out_of_range(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        MeshOptions(**arguments)


def test_options_and_their_defaults():
    assert MeshOptions(texture_size="2048").texture_size == 2048
    assert MeshOptions().faces_wished is None and MeshOptions(texture=True).faces_wished == 20_000
    assert MeshOptions(texture=True, target_faces=90_000).faces_wished == 90_000


def test_the_same_mesh_has_the_same_atlas_and_texture(bumpy):
    field, planes, mesh, atlas, texture = bumpy
    again = make_atlas(mesh, SIZE, timeout=100)
    assert again.charts == atlas.charts
    for name in ("vertex", "faces", "coordinates"):
        numpy.testing.assert_array_equal(getattr(again, name), getattr(atlas, name))
    numpy.testing.assert_array_equal(bake_texture(field, planes, mesh, again, SIZE).color, texture.color)
