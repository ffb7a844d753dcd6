"""Scheduled values."""

import pytest

from prd_lightning.errors import ConfigurationError
from prd_lightning.losses import TrainingStep, scheduled


@pytest.mark.parametrize(("step", "expected"), [(0, 4.0), (10, 4.0), (15, 3.5), (20, 3.0), (30, 2.0), (10_000, 2.0)])
def test_linear_between_and_constant_outside(step: int, expected: float):
    assert scheduled([10, 4.0, 2.0, 30], step) == pytest.approx(expected)


def test_published_schedule_of_the_smallest_time():
    assert [scheduled((0, 0.5, 0.02, 20_000), step) for step in (0, 10_000, 20_000)] == pytest.approx([0.5, 0.26, 0.02])


@pytest.mark.parametrize("value", [3, 3.0, -0.5])
def test_a_number_is_constant(value: float):
    assert scheduled(value, 0) == scheduled(value, 10**6) == value


def test_three_numbers_start_at_once():
    assert [scheduled([4.0, 2.0, 10], step) for step in (0, 5, 10, 11)] == [4.0, 3.0, 2.0, 2.0]


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (10, 1.0), (15, 3.0), (20, 5.0), (30, 2.5), (40, 0.0), (99, 0.0)])
def test_several_pieces(step: int, expected: float):
    assert scheduled([10, 1.0, 5.0, 20, 0.0, 40], step) == pytest.approx(expected)


def test_geometric_curves_multiply_by_the_same_factor_each_step():
    schedule = {"points": [0, 8.0, 1.0, 3], "curve": "geometric"}
    assert [scheduled(schedule, step) for step in range(5)] == pytest.approx([8.0, 4.0, 2.0, 1.0, 1.0])


def test_epochs_count_where_asked_for():
    schedule = {"points": [0, 1.0, 0.0, 10], "unit": "epoch"}
    assert scheduled(schedule, TrainingStep(12_345, epoch=3)) == pytest.approx(0.7)
    assert scheduled([0, 1.0, 0.0, 10], TrainingStep(5, epoch=3)) == pytest.approx(0.5)
    assert scheduled(schedule, 0) == 1.0
    with pytest.raises(ConfigurationError, match="epoch is not known"):
        scheduled(schedule, 5)


MISTAKES = [
    [0, 1.0], [5, 1.0, 2.0, 5], [5, 1.0, 2.0, 4], [0, 1.0, 2.0, 5, 3.0], [0, 1.0, 2.0, 5, 3.0, 5], [0, 1.0, "2.0", 5], "1.0",
    {"points": [0, 1.0, 2.0, 5], "kind": "linear"}, {"points": [0, 1.0, 2.0, 5], "curve": "cosine"}, {"points": 3.0},
    {"points": [0, 1.0, 2.0, 5], "unit": "hour"}, {"points": [0, 1.0, 0.0, 5], "curve": "geometric"}, {"curve": "linear"},
    None, True,
]  # fmt: skip


@pytest.mark.parametrize("value", MISTAKES)
def test_mistakes_are_named(value: object):
    with pytest.raises(ConfigurationError, match="schedule"):
        scheduled(value, 0)
