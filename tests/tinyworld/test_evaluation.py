"""Scores: the truth scores one, something else does not."""

import pytest
import torch

from prd_lightning.tinyworld.evaluation import (
    GeneratedObject,
    Matcher,
    grid_points,
    intersection_over_union,
    matcher_cameras,
    nearest_color,
    nearest_primitive,
    score_objects,
)
from prd_lightning.tinyworld.grammar import describe, held_out_compositions, held_out_prompts, parse
from prd_lightning.tinyworld.renders import render_scene
from prd_lightning.tinyworld.shapes import COLORS, PRIMITIVES, Scene, scene_distance


def true_object(prompt: str) -> GeneratedObject:
    scene = parse(prompt)
    maps = render_scene(scene, matcher_cameras(), 64)
    return GeneratedObject(lambda points: scene_distance(scene, points), maps.rgb, maps.opacity)


def test_true_held_out_objects_score_about_one_and_swapped_ones_do_not():
    prompts = held_out_prompts()[::2] + [describe(scene) for scene in held_out_compositions()[:6]]
    objects = [true_object(prompt) for prompt in prompts]
    right = score_objects(prompts, objects, Matcher())
    assert right.iou == 1 and right.shape_accuracy == 1 and right.color_accuracy == 1 and right.retrieval_at_1 >= 0.8
    wrong = score_objects(prompts, objects[1:] + objects[:1], Matcher())
    assert wrong.iou < 0.7 and wrong.color_accuracy < 0.3 and wrong.retrieval_at_1 < 0.2
    assert set(right.summary()) == {"iou", "shape_accuracy", "color_accuracy", "retrieval_at_1"}


def test_intersection_over_union_in_closed_form():
    first, second, none = torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([0, 1, 1, 0]).bool(), torch.zeros(4).bool()
    assert intersection_over_union(first, second) == pytest.approx(1 / 3)
    assert intersection_over_union(none, none) == 0


@pytest.mark.parametrize("shape", PRIMITIVES)
def test_every_primitive_is_nearest_to_itself(shape: str):
    points = grid_points()
    assert nearest_primitive(scene_distance(Scene.single(shape, "red"), points) < 0, points) == shape


def test_colours():
    for name, value in COLORS.items():
        assert nearest_color(torch.tensor([value]) * 0.85, torch.ones(1, 1)) == name
    assert nearest_color(torch.zeros(2, 3), torch.zeros(2, 1)) is None
