"""The health report against closed forms and trimesh, from meshes and from files; and files that are none."""

import json
import math
from dataclasses import replace

import fields
import numpy
import pytest
import trimesh
from fields import to_mesh, without_faces

from prd_lightning import cli
from prd_lightning.errors import MeshFileError, NonFiniteError
from prd_lightning.mesh import Mesh, Texture, mesh_health, save_mesh
from prd_lightning.mesh.reading import file_health
from prd_lightning.mesh.topology import count_edges, enclosed_volume


@pytest.mark.parametrize(("name", "genus", "components"), [("ball", 0, 1), ("torus", 1, 1), ("both", 1, 2), ("tori", 2, 2)])
def test_genus_and_components(name, genus, components):
    far = fields.torus().apply_translation([2, 0, 0])
    shapes = {
        "ball": fields.ball(),
        "torus": fields.torus(),
        "both": trimesh.util.concatenate([fields.ball().apply_translation([2, 0, 0]), fields.torus()]),
        "tori": trimesh.util.concatenate([fields.torus(), far]),
    }
    report = mesh_health(to_mesh(shapes[name]))
    assert (report.genus, report.components) == (genus, components)
    assert report.watertight and report.manifold and report.self_intersections == 0 and report.degenerate_faces == 0
    euler = components * 2 - 2 * genus
    assert report.vertices - count_edges(shapes[name].faces).edges + report.faces == euler == shapes[name].euler_number


def test_area_volume_and_bounds_in_closed_form():
    report = mesh_health(to_mesh(trimesh.creation.box([0.5, 1.0, 1.5])))
    assert report.area == pytest.approx(2 * (0.5 + 0.75 + 1.5)) and report.volume == pytest.approx(0.75)
    assert report.size == [0.5, 1.0, 1.5] and report.bounds == [[-0.25, -0.5, -0.75], [0.25, 0.5, 0.75]]
    sphere = mesh_health(to_mesh(fields.ball(4, 0.5)))
    assert sphere.area == pytest.approx(math.pi, rel=5e-3) and sphere.volume == pytest.approx(math.pi / 6, rel=5e-3)
    inside_out = to_mesh(fields.ball())
    turned = enclosed_volume(inside_out.vertices, inside_out.faces[:, ::-1])
    assert turned == pytest.approx(-mesh_health(inside_out).volume, rel=1e-5)


def test_what_is_open_is_neither_watertight_nor_has_it_volume_or_genus():
    report = mesh_health(to_mesh(without_faces(fields.ball(), 2)))
    assert (report.watertight, report.manifold, report.open_edges) == (False, True, 6)
    assert report.volume is None and report.genus is None
    one = mesh_health(fields.triangle())
    assert (one.faces, one.vertices, one.open_edges, one.watertight) == (1, 3, 3, False)
    assert one.area == pytest.approx(math.sqrt(3) / 2, rel=1e-5)


def test_a_face_turned_over_is_found():
    mesh = to_mesh(fields.ball())
    faces = mesh.faces.copy()
    faces[7] = faces[7][::-1]
    assert count_edges(faces).turned == 3 and not mesh_health(replace(mesh, faces=faces)).watertight


def test_self_intersections():
    through = trimesh.util.concatenate([fields.ball(2), fields.ball(2).apply_translation([0.3, 0.01, 0.02])])
    report = mesh_health(to_mesh(through))
    assert report.self_intersections > 20 and report.watertight


def test_texel_density_in_closed_form():
    """A square of side 2 in half the width of a picture of 64: 32 texels over 2 units one way, 64 the other."""
    corners = numpy.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]], dtype=float)
    faces = numpy.array([[0, 1, 2], [0, 2, 3]])
    uv = numpy.array([[0, 1], [0.5, 1], [0.5, 0], [0, 0]], dtype=numpy.float32)
    texture = Texture(numpy.arange(4), faces, uv, numpy.zeros((64, 64, 3), dtype=numpy.uint8))
    mesh = Mesh.create(corners, faces, corners * 0, corners * 0 + 1).with_texture(texture)
    report = mesh_health(mesh)
    assert report.texel_density == pytest.approx(math.sqrt(16 * 32), rel=1e-5) and report.texture_coverage == 0.5
    assert report.texture_size == [64, 64]


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply", "stl"])
def test_a_file_has_the_report_of_its_mesh(tmp_path, suffix):
    mesh = to_mesh(fields.torus())
    report = file_health(save_mesh(mesh, tmp_path / f"mesh.{suffix}"))
    expected = mesh_health(mesh)
    for name in ("faces", "vertices", "components", "watertight", "manifold", "genus", "open_edges"):
        assert getattr(report, name) == getattr(expected, name), name
    metre = 1000 if suffix == "stl" else 1
    assert report.unit == ("mm" if suffix == "stl" else "m")
    assert report.area == pytest.approx(expected.area * metre**2, rel=1e-4)
    assert report.volume == pytest.approx(expected.volume * metre**3, rel=1e-4)


def test_parts_of_a_scene_are_put_in_their_places(tmp_path):
    scene = trimesh.Scene()
    for place in (0.0, 3.0):
        scene.add_geometry(fields.ball(), transform=trimesh.transformations.translation_matrix([place, 0, 0]))
    scene.export(tmp_path / "scene.glb")
    report = file_health(tmp_path / "scene.glb")
    assert report.components == 2 and report.size[0] == pytest.approx(4, abs=0.05) and report.texel_density is None


def test_the_command_prints_a_table_and_json(tmp_path, capsys):
    path = save_mesh(to_mesh(fields.torus()), tmp_path / "torus.glb")
    assert cli.main(["mesh", "report", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == file_health(path).to_dict() and told["genus"] == 1
    assert cli.main(["mesh", "report", str(path), str(path)]) == 0
    assert cli.main(["mesh", "report", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "watertight" in shown and "genus" in shown and "1,152" in shown


BAD_FILES = {
    "nowhere.glb": (None, "there is no mesh file"),
    "text.docx": (b"text", "no known kind"),
    "short.glb": (b"glTF\x02\x00\x00\x00", "cannot be read|holds no triangles"),
    "noise.stl": (bytes(range(256)) * 4, "cannot be read|holds no triangles"),
    "empty.ply": (b"", "cannot be read|holds no triangles"),
    "points.obj": (b"v 0 0 0\nv 1 0 0\n", "cannot be read|holds no triangles"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_are_no_meshes(tmp_path, name, capsys):
    content, message = BAD_FILES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MeshFileError, match=message):
        file_health(tmp_path / name)
    assert cli.main(["mesh", "report", str(tmp_path / name)]) == 2
    assert "prd mesh: error:" in capsys.readouterr().err


def test_a_truncated_file(tmp_path):
    path = save_mesh(to_mesh(fields.ball()), tmp_path / "mesh.glb")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MeshFileError, match="cannot be read"):
        file_health(path)


def test_vertices_that_are_not_finite(tmp_path):
    mesh = to_mesh(fields.ball())
    vertices = mesh.vertices.copy()
    vertices[4] = numpy.nan
    with pytest.raises(NonFiniteError, match="1 of 162 vertices"):
        mesh_health(replace(mesh, vertices=vertices))
    path = tmp_path / "mesh.ply"
    path.write_bytes(trimesh.Trimesh(vertices, mesh.faces, process=False).export(file_type="ply"))
    with pytest.raises(NonFiniteError, match="1 of 162 vertices"):
        file_health(path)
