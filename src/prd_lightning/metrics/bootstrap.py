"""Percentile bootstrap intervals of a mean (Efron 1979): how far a mean over prompts could be off by the choice of prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from prd_lightning.errors import ConfigurationError


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds within which it falls for ``level`` of the resamplings."""

    mean: float
    low: float
    high: float
    level: float


def bootstrap_interval(values: Sequence[float], resamples: int = 10_000, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean of ``values`` and its percentile interval over samples of the same size, drawn with replacement.

    Args:
        values: one number for each independent unit, here a prompt.
        resamples: number of resamplings.
        level: share of them between the bounds.
        seed: of the drawing.

    Raises:
        ConfigurationError: there is no value, or an argument is out of range.
    """
    if not len(values):
        raise ConfigurationError("an interval needs at least one value, got none")
    if resamples < 1 or not 0 < level < 1:
        raise ConfigurationError(f"an interval needs resamples >= 1 and 0 < level < 1, got {resamples} and {level}")
    array, draw = numpy.asarray(values, dtype=numpy.float64), numpy.random.default_rng(seed)
    rows = max(1, 2_000_000 // len(array))  # resamplings at once, so that memory stays small
    means = [
        array[draw.integers(len(array), size=(min(rows, resamples - start), len(array)))].mean(axis=1)
        for start in range(0, resamples, rows)
    ]
    low, high = numpy.quantile(numpy.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(array.mean()), float(low), float(high), level)
