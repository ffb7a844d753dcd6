"""The nearest composition: against all candidates one by one, for true objects, for altered ones and for nothing."""

import itertools

import pytest
import torch

from prd_lightning.tinyworld.compositions import candidates, grid_points, nearest_color, nearest_composition, part_colors
from prd_lightning.tinyworld.evaluation import intersection_over_union
from prd_lightning.tinyworld.shapes import ARRANGEMENTS, COLORS, PRIMITIVES, Scene, scene_color, scene_distance, scene_normal

RESOLUTION = 32


def test_overlaps_with_all_candidates_equal_those_of_each_by_itself():
    points = grid_points(RESOLUTION)
    inside = (points - torch.tensor([0.1, 0.0, 0.2])).norm(dim=-1) < 0.6
    shapes = list(PRIMITIVES)
    for arrangement in ARRANGEMENTS:
        found = candidates(RESOLUTION)[arrangement].intersection_over_union(inside)
        for first, second in itertools.product(range(0, 12, 3), range(1, 12, 4)):
            scene = Scene.composition((shapes[first], "red"), (shapes[second], "blue"), arrangement)
            expected = intersection_over_union(inside, scene_distance(scene, points) < 0)
            assert float(found[first, second]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_every_composition_is_nearest_to_itself(arrangement: str):
    points = grid_points(48)
    for first, second in itertools.product(PRIMITIVES, PRIMITIVES):
        scene = Scene.composition((first, "red"), (second, "red"), arrangement)
        assert nearest_composition(scene_distance(scene, points) < 0, 48) == (first, second, arrangement)


def test_an_object_that_was_blown_up_and_moved_a_little_is_recognised():
    scene = Scene.composition(("torus", "red"), ("cube", "blue"), "on")
    moved = grid_points() + torch.tensor([0.02, -0.01, 0.01])
    assert nearest_composition(scene_distance(scene, moved) < 0.015) == ("torus", "cube", "on")


def test_nothing_is_nearest_to_nothing():
    assert nearest_composition(torch.zeros(RESOLUTION**3, dtype=torch.bool), RESOLUTION) is None


def surface_points(scene: Scene) -> torch.Tensor:
    points = torch.rand(20_000, 3) * 2 - 1
    near = points[scene_distance(scene, points).abs() < 0.05]
    return near - scene_distance(scene, near)[:, None] * scene_normal(scene, near)


def test_colours_of_the_parts():
    scene = Scene.composition(("torus", "pink"), ("wedge", "green"), "beside")
    points = surface_points(scene)
    colors = scene_color(scene, points, scene_normal(scene, points))
    assert part_colors(scene, points, colors) == ["pink", "green"]
    assert part_colors(scene, points * torch.tensor([1.0, -1.0, 1.0]), colors) == ["green", "pink"]
    second_only = points[:, 1] > 0.3
    assert part_colors(scene, points[second_only], colors[second_only]) == [None, "green"]


def test_a_colour_is_that_of_the_mean():
    assert nearest_color(torch.tensor([COLORS["red"]] * 4 + [COLORS["blue"]]) * 0.85) == "red"
    assert nearest_color(torch.zeros(0, 3)) is None
