"""Scores: the truth scores one, something else does not."""

import math

import pytest
import torch

from prd_lightning.tinyworld.compositions import grid_points, nearest_color
from prd_lightning.tinyworld.evaluation import (
    GeneratedObject,
    Matcher,
    ObjectScore,
    TinyWorldScores,
    intersection_over_union,
    matcher_cameras,
    nearest_primitive,
    score_objects,
)
from prd_lightning.tinyworld.grammar import describe, held_out_compositions, held_out_pair_prompts, parse
from prd_lightning.tinyworld.renders import render_scene
from prd_lightning.tinyworld.shapes import COLORS, PRIMITIVES, Scene, scene_distance


def true_object(prompt: str) -> GeneratedObject:
    scene, cameras = parse(prompt), matcher_cameras()
    maps = render_scene(scene, cameras, 64)
    reach = cameras.distance[:, None, None, None]
    depth = reach + math.sqrt(3) - 2 * math.sqrt(3) * maps.disparity
    return GeneratedObject(lambda points: scene_distance(scene, points), maps.rgb, maps.opacity, depth)


@pytest.fixture(scope="module")
def held_out():
    """Prompts of both kinds, and their true objects."""
    prompts = held_out_pair_prompts()[::2] + [describe(scene) for scene in held_out_compositions()[:8]]
    return prompts, [true_object(prompt) for prompt in prompts]


def test_true_held_out_objects_score_about_one_and_swapped_ones_do_not(held_out):
    prompts, objects = held_out
    right = TinyWorldScores.from_rows(score_objects(prompts, objects, Matcher()))
    assert right.iou == 1 and right.shape_accuracy == 1 and right.color_accuracy == 1 and right.retrieval_at_1 >= 0.8
    assert right.composition_shapes == 1 and right.composition_colors == 1 and right.composition_correct == 1
    wrong = TinyWorldScores.from_rows(score_objects(prompts, objects[1:] + objects[:1], Matcher()))
    assert wrong.iou < 0.7 and wrong.color_accuracy < 0.3 and wrong.retrieval_at_1 < 0.2
    assert wrong.composition_shapes == 0 and wrong.composition_correct == 0 and wrong.composition_colors <= 1 / 8


def test_means_are_told_by_kind_and_by_seed(held_out):
    prompts, objects = held_out
    rows = score_objects(prompts, objects, Matcher(), seed=4)
    wrong = score_objects(prompts, objects[1:] + objects[:1], Matcher(), seed=9)
    both = TinyWorldScores.from_rows(rows + wrong)
    assert both.seeds == [4, 9] and [row.seed for row in both.rows] == [4] * len(rows) + [9] * len(wrong)
    singles = [row.iou for row in wrong if row.shape_correct is not None]
    assert both.single_iou == pytest.approx((1 + sum(singles) / len(singles)) / 2)
    means = [scores["color_accuracy"] for scores in both.per_seed]
    assert both.color_accuracy == pytest.approx(sum(means) / 2)
    assert both.std["color_accuracy"] == pytest.approx(abs(means[0] - means[1]) / math.sqrt(2))
    assert TinyWorldScores.from_rows(rows).std["iou"] is None


def test_measures_that_no_prompt_has_are_left_out():
    single = ObjectScore("a red cone", iou=0.5, retrieved=True, shape_correct=True, color_correct=False)
    scores = TinyWorldScores.from_rows([single])
    kept = {"iou", "shape_accuracy", "color_accuracy", "retrieval_at_1", "single_iou", "single_retrieval_at_1"}
    assert set(scores.summary()) == kept and scores.composition_correct is None and scores.to_dict()["composition_iou"] is None


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
        assert nearest_color(torch.tensor([value]) * 0.85) == name
