"""Scheduled values."""

import pytest

from prd_lightning.errors import ConfigurationError
from prd_lightning.losses import scheduled


@pytest.mark.parametrize(("step", "expected"), [(0, 4.0), (10, 4.0), (15, 3.5), (20, 3.0), (30, 2.0), (10_000, 2.0)])
def test_linear_between_and_constant_outside(step: int, expected: float):
    assert scheduled([10, 4.0, 2.0, 30], step) == pytest.approx(expected)


def test_published_schedule_of_the_smallest_time():
    assert [scheduled((0, 0.5, 0.02, 20_000), step) for step in (0, 10_000, 20_000)] == pytest.approx([0.5, 0.26, 0.02])


@pytest.mark.parametrize("value", [3, 3.0, -0.5])
def test_a_number_is_constant(value: float):
    assert scheduled(value, 0) == scheduled(value, 10**6) == value


@pytest.mark.parametrize("value", [[0, 1.0, 2.0], [5, 1.0, 2.0, 5], [5, 1.0, 2.0, 4], "1.0", True])
def test_mistakes_are_named(value: object):
    with pytest.raises(ConfigurationError, match="schedule"):
        scheduled(value, 0)
