"""Mesh files of several systems: colours, axes, size, and pictures of them."""

import numpy
import pytest
import torch
import trimesh
from PIL import Image

from prd_lightning.errors import ConfigurationError, MeshFileError
from prd_lightning.evaluation.mesh_files import LONGEST_SIDE, load_file
from prd_lightning.evaluation.pictures import ViewSettings, object_pictures
from prd_lightning.mesh import Mesh, save_mesh

VIEWS = ViewSettings(views=4, elevation=0.0, size=32)
SIDES = numpy.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1]], numpy.float32)


def painted_box() -> Mesh:
    """Faces +x red, +y green, the others blue, in the world's axes (front +x, z up); 0.5 x 0.5 x 1."""
    box = trimesh.creation.box((0.5, 0.5, 1.0))
    vertices, normals = box.vertices[box.faces].reshape(-1, 3), numpy.repeat(box.face_normals, 3, axis=0)
    colors = numpy.tile([0.1, 0.2, 0.9], (len(vertices), 1))
    colors[normals[:, 0] > 0.5], colors[normals[:, 1] > 0.5] = (0.9, 0.1, 0.2), (0.1, 0.8, 0.3)
    return Mesh.create(vertices, numpy.arange(len(vertices)).reshape(-1, 3), colors, normals)


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply"])
def test_our_own_formats_look_alike(tmp_path, suffix):
    path = save_mesh(painted_box(), tmp_path / f"box.{suffix}")
    pictures = object_pictures(load_file(path), VIEWS)
    middle = pictures[:, 16, 16]
    expected = torch.tensor([[0.9, 0.1, 0.2], [0.1, 0.8, 0.3], [0.1, 0.2, 0.9], [0.1, 0.2, 0.9]])
    torch.testing.assert_close(middle, expected, atol=0.02, rtol=0)
    assert (pictures[0, 2, 2] == 1).all() and (pictures[0, :, 16] < 1).any(dim=1).sum() > (pictures[0, 16] < 1).any(dim=1).sum()


def test_size_and_place_do_not_matter(tmp_path):
    mesh = painted_box()
    small, large = tmp_path / "small.ply", tmp_path / "large.ply"
    save_mesh(mesh, small)
    save_mesh(Mesh.create(mesh.vertices * 40 + 7, mesh.faces, mesh.colors, mesh.normals), large)
    first, second = load_file(small), load_file(large)
    assert numpy.ptp(second.normalized(), axis=0).max() == pytest.approx(LONGEST_SIDE, rel=1e-5)
    numpy.testing.assert_allclose(first.normalized(), second.normalized(), atol=1e-4)


@pytest.mark.parametrize(("up", "tip"), [("x", 0), ("y", 1), ("z", 2), ("-x", 3), ("-y", 4), ("-z", 5)])
def test_the_named_axis_points_up_and_nothing_is_mirrored(tmp_path, up, tip):
    path = tmp_path / "points.ply"
    trimesh.Trimesh(SIDES, [[0, 1, 2], [3, 5, 4], [0, 4, 5]], process=False).export(path)
    vertices = load_file(path, up).vertices
    assert vertices[tip].argmax() == 2 and vertices[tip, 2] == pytest.approx(1)
    assert numpy.linalg.det(vertices[:3]) == pytest.approx(1)


def textured_box(path):
    """A quad whose picture is red in its upper half and green in its lower one, seen from +z of a y-up file."""
    picture = numpy.zeros((8, 8, 3), numpy.uint8)
    picture[:4], picture[4:] = (200, 20, 20), (20, 200, 20)
    corners, coordinates = [[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], [[0, 0], [1, 0], [1, 1], [0, 1]]
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(picture))
    material = material if path.suffix == ".glb" else trimesh.visual.material.SimpleMaterial(image=Image.fromarray(picture))
    visual = trimesh.visual.TextureVisuals(uv=coordinates, material=material)
    trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False).export(path)
    return path


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_textures_of_another_exporter(tmp_path, suffix):
    front = object_pictures(load_file(textured_box(tmp_path / f"quad.{suffix}")), VIEWS)[0]
    torch.testing.assert_close(front[12, 16], torch.tensor([200, 20, 20]) / 255, atol=0.03, rtol=0)
    torch.testing.assert_close(front[20, 16], torch.tensor([20, 200, 20]) / 255, atol=0.03, rtol=0)


def test_display_colours_in_a_glb_can_be_taken_as_they_are(tmp_path):
    box = trimesh.creation.box()
    box.visual.vertex_colors = numpy.tile([128, 64, 32, 255], (8, 1)).astype(numpy.uint8)
    box.export(tmp_path / "box.glb")
    as_they_are = load_file(tmp_path / "box.glb", linear_colors=False).colors
    numpy.testing.assert_allclose(as_they_are[0], numpy.array([128, 64, 32]) / 255, atol=1e-6)
    expected = 1.055 * (128 / 255) ** (1 / 2.4) - 0.055  # sRGB of linear light
    assert load_file(tmp_path / "box.glb").colors[0, 0] == pytest.approx(expected, abs=1e-5)


def test_a_file_without_colours_is_gray(tmp_path):
    trimesh.creation.box().export(tmp_path / "box.stl")
    assert numpy.ptp(load_file(tmp_path / "box.stl").colors) == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.glb", b"glTF but no more", "cannot be read"),
        ("empty.obj", b"", "cannot be read|no triangle"),
        ("points.obj", b"v 0 0 0\nv 1 0 0\n", "no triangle|cannot be read"),
        ("nan.obj", b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
        ("picture.ply", b"\x89PNG\r\n", "cannot be read"),
    ],
)
def test_unreadable_and_empty_files_are_told(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MeshFileError, match=message):
        load_file(tmp_path / name)


def test_wrong_settings_are_told(tmp_path):
    with pytest.raises(MeshFileError, match="there is no mesh file"):
        load_file(tmp_path / "none.glb")
    with pytest.raises(ConfigurationError, match="unknown up axis 'w'"):
        load_file(tmp_path / "none.glb", "w")
    with pytest.raises(ConfigurationError, match="views >= 1"):
        ViewSettings(views=0)
    with pytest.raises(ConfigurationError, match="elevation within 90"):
        ViewSettings(elevation=90)
