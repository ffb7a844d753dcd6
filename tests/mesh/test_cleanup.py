"""Clean-up: small parts go, large ones stay, faces come down, shape and colours survive."""

from dataclasses import replace

import fields
import numpy
import pytest
import trimesh
from fields import to_mesh, without_faces
from places import place_colors

from prd_lightning.errors import ConfigurationError, NonFiniteError
from prd_lightning.mesh import Mesh, clean_mesh, mesh_health
from prd_lightning.mesh.topology import count_edges


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
    [
        ({"target_faces": 3}, "at least 4, got 3"),
        ({"target_faces": -1}, "got -1"),
        ({"smallest_component": 1.5}, "got 1.5"),
        ({"fill_holes": -1}, "got -1"),
        ({"smooth": 1.5}, "got 1.5"),
        ({"remesh": 0.0}, "got 0.0"),
    ],
)
def test_arguments_out_of_range(wedge, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        clean_mesh(wedge, **arguments)


# ------------------------------------------------------------------------------------------------- what is broken


def closed(mesh: Mesh) -> bool:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).is_watertight


def test_holes_are_closed_on_demand_up_to_their_size():
    open_ball = to_mesh(without_faces(fields.ball(2), 3))
    untouched, report = clean_mesh(open_ball)
    assert untouched is open_ball and report.holes_closed == 0 and not closed(untouched)
    mended, report = clean_mesh(open_ball, fill_holes=10)
    assert closed(mended) and report.holes_closed == 3 and report.faces_after == report.faces_before + 3
    numpy.testing.assert_allclose(mended.colors, place_colors(mended.vertices), atol=0.5 / 255 + 1e-6)
    shape = fields.ball(3)
    wide = to_mesh(trimesh.Trimesh(shape.vertices, shape.faces[shape.triangles_center[:, 2] < 0.2], process=False))
    assert clean_mesh(wide, fill_holes=10)[1].holes_closed == 0


def test_edges_of_three_faces_and_touching_vertices_are_mended():
    shape = fields.ball(1)
    fin = numpy.concatenate([shape.vertices, [[0.9, 0.9, 0.9]]])
    three = Mesh.create(fin, [*shape.faces, [*shape.faces[0][:2], len(shape.vertices)]], place_colors(fin), fin)
    mended, report = clean_mesh(three)
    assert report.non_manifold_repaired > 0 and mesh_health(three).manifold is False
    assert count_edges(mended.faces).crowded == 0
    # Two tetrahedra that share one corner.
    corners = numpy.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1]]) * 0.5
    faces = [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3], [0, 4, 5], [0, 6, 4], [0, 5, 6], [4, 6, 5]]
    touching = Mesh.create(corners, faces, place_colors(corners), corners + 1)
    assert mesh_health(touching).manifold is False and closed(touching)
    mended, report = clean_mesh(touching)
    assert report.non_manifold_repaired > 0 and len(mended.vertices) == 8 and closed(mended)


def test_faces_without_area_or_twice_there_go_and_the_surface_stays_closed():
    shape = fields.ball(2)
    vertices = numpy.concatenate([shape.vertices, shape.vertices[:1]])
    moved = shape.faces.copy()
    around = numpy.flatnonzero((moved == 0).any(axis=1))[:2]  # two faces use a copy of their corner ...
    moved[around] = numpy.where(moved[around] == 0, len(shape.vertices), moved[around])
    first, last = (set(moved[face]) - {len(shape.vertices)} for face in around)
    slits = [[len(shape.vertices), 0, corner] for corner in (first ^ last)]  # ... and faces without area join it
    broken = Mesh.create(vertices, [*moved, *slits], place_colors(vertices), vertices)
    mended, report = clean_mesh(broken)
    assert report.degenerate_removed == len(slits) == 2 and len(mended.faces) == len(shape.faces) and closed(mended)
    twice = Mesh.create(shape.vertices, [*shape.faces, *shape.faces[:5]], place_colors(shape.vertices), shape.vertices)
    mended, report = clean_mesh(twice)
    assert report.degenerate_removed == 5 and closed(mended)


def test_smoothing_takes_noise_away_and_keeps_the_volume():
    shape = fields.ball(4)
    noise = numpy.random.default_rng(0).normal(scale=0.006, size=(len(shape.vertices), 1))
    rough = to_mesh(trimesh.Trimesh(shape.vertices * (1 + noise), shape.faces, process=False))
    smooth, report = clean_mesh(rough, smooth=20)
    assert report.smoothing_steps == 20 and smooth.faces.shape == rough.faces.shape

    def roughness(mesh: Mesh) -> float:
        return float(numpy.linalg.norm(mesh.vertices, axis=1).std())

    assert roughness(smooth) < 0.5 * roughness(rough)
    volume = [trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).volume for mesh in (rough, smooth)]
    assert volume[1] == pytest.approx(volume[0], rel=0.01)
    numpy.testing.assert_allclose(smooth.colors, rough.colors, atol=0.5 / 255 + 1e-6)


def test_remeshing_gives_even_triangles_and_keeps_shape_and_colours(wedge):
    even, report = clean_mesh(wedge, remesh=4)
    assert report.remeshed and closed(even)
    corners = even.vertices[even.faces]
    lengths = numpy.linalg.norm(corners - numpy.roll(corners, 1, axis=1), axis=-1)
    diagonal = numpy.linalg.norm(wedge.vertices.max(0) - wedge.vertices.min(0))
    assert lengths.mean() == pytest.approx(0.04 * diagonal, rel=0.25) and lengths.std() < 0.35 * lengths.mean()
    before = wedge.vertices[wedge.faces]
    old = numpy.linalg.norm(before - numpy.roll(before, 1, axis=1), axis=-1)
    assert old.std() / old.mean() > lengths.std() / lengths.mean()
    shapes = [trimesh.Trimesh(mesh.vertices, mesh.faces, process=False) for mesh in (wedge, even)]
    assert shapes[1].volume == pytest.approx(shapes[0].volume, rel=0.02)
    assert abs(even.colors - place_colors(even.vertices)).mean() < 0.01


def test_more_faces_than_there_are_are_kept_and_reported():
    mesh = to_mesh(fields.ball(1))
    kept, report = clean_mesh(mesh, target_faces=5000)
    assert kept is mesh and report.kept and report.reached and report.target_faces == 5000
    fewer, report = clean_mesh(mesh, target_faces=40)
    assert not report.kept and report.reached and len(fewer.faces) <= 40


def test_one_triangle():
    kept, report = clean_mesh(fields.triangle(), target_faces=4, fill_holes=10, smooth=2)
    assert report.faces_after == len(kept.faces) == 1 or closed(kept)


def test_vertices_that_are_not_finite(wedge):
    vertices = wedge.vertices.copy()
    vertices[3, 1] = numpy.nan
    with pytest.raises(NonFiniteError, match="1 of .* vertices"):
        clean_mesh(replace(wedge, vertices=vertices), target_faces=100)
