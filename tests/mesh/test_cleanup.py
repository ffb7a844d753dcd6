"""Clean-up: small parts go, large ones stay, faces come down, shape and colours survive."""

import numpy
import pytest
import trimesh
from places import place_colors

from prd_lightning.errors import ConfigurationError
from prd_lightning.mesh import Mesh, clean_mesh


def joined(*parts: trimesh.Trimesh) -> Mesh:
    shape = trimesh.util.concatenate(parts)
    return Mesh.create(shape.vertices, shape.faces, place_colors(shape.vertices), shape.vertex_normals)


def ball(subdivisions: int, radius: float, center: tuple[float, float, float] = (0, 0, 0)) -> trimesh.Trimesh:
    shape = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return shape.apply_translation(center)


def test_nothing_to_do_returns_the_mesh_itself(wedge):
    cleaned, report = clean_mesh(wedge, target_faces=10**6)
    assert cleaned is wedge
    assert report.faces_before == report.faces_after == len(wedge.faces) and report.components_removed == 0


def test_small_components_go_and_the_rest_is_untouched():
    large, floaters = ball(3, 0.5), [ball(0, 0.03, (0.8, 0.8, 0.1 * place)) for place in range(3)]
    mesh = joined(large, *floaters)
    cleaned, report = clean_mesh(mesh, smallest_component=0.05)
    assert (report.components_removed, report.faces_after) == (3, len(large.faces))
    numpy.testing.assert_allclose(cleaned.vertices, large.vertices, atol=1e-6)
    numpy.testing.assert_array_equal(cleaned.faces, large.faces)
    numpy.testing.assert_allclose(cleaned.colors, place_colors(large.vertices), atol=0.5 / 255 + 1e-6)  # 8 bits


def test_components_of_similar_size_stay():
    mesh = joined(ball(2, 0.3, (-0.4, 0, 0)), ball(2, 0.3, (0.4, 0, 0)))
    cleaned, report = clean_mesh(mesh)
    assert cleaned is mesh and report.components_removed == 0


def test_zero_keeps_every_part():
    mesh = joined(ball(3, 0.5), ball(0, 0.03, (0.8, 0.8, 0)))
    assert clean_mesh(mesh, smallest_component=0)[0] is mesh


def test_decimation_keeps_shape_colours_and_closedness(wedge):
    cleaned, report = clean_mesh(wedge, target_faces=600)
    assert report.faces_after == len(cleaned.faces) <= 600 < report.faces_before
    assert len(cleaned.faces) > 500
    before, after = (trimesh.Trimesh(mesh.vertices, mesh.faces, process=False) for mesh in (wedge, cleaned))
    assert after.is_watertight and after.is_winding_consistent
    assert after.volume == pytest.approx(before.volume, rel=0.01)
    numpy.testing.assert_allclose(after.bounds, before.bounds, atol=0.02)
    # The colours are a linear function of the place, so at a new vertex they must be those of its own place.
    difference = abs(cleaned.colors - place_colors(cleaned.vertices))
    assert difference.mean() < 0.005 and difference.max() < 0.05
    by_area = numpy.zeros_like(after.vertices)
    numpy.add.at(by_area, after.faces.reshape(-1), numpy.repeat(after.face_normals * after.area_faces[:, None], 3, axis=0))
    by_area /= numpy.linalg.norm(by_area, axis=1, keepdims=True)
    numpy.testing.assert_allclose(cleaned.normals, by_area, atol=1e-4)


def test_a_closed_surface_stops_short_of_an_impossible_wish():
    mesh = joined(ball(2, 0.5))
    cleaned, report = clean_mesh(mesh, target_faces=4)
    assert report.target_faces == 4 and report.faces_after == len(cleaned.faces) >= 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"target_faces": 3}, "at least 4, got 3"), ({"target_faces": -1}, "got -1"), ({"smallest_component": 1.5}, "got 1.5")],
)
def test_arguments_out_of_range(wedge, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        clean_mesh(wedge, **arguments)
