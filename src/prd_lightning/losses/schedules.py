"""Values that change during training.

A scheduled value is one of::

    0.5                                              constant
    [start_step, start, end, end_step]               start, then linear from start_step to end_step, then end
    [start, end, end_step]                           the same from step 0
    [step_0, value_0, value_1, step_1, value_2, step_2, ...]      several linear pieces
    {points: LIST, curve: geometric, unit: epoch}    the same lists, another curve between them, counted in epochs
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from prd_lightning.errors import ConfigurationError

Schedule = float | int | Sequence[float] | Mapping[str, Any]

CURVES = ("linear", "geometric")
UNITS = ("step", "epoch")
LIST_FORM = (
    "[start_step, start, end, end_step], [start, end, end_step] or [step_0, value_0, value_1, step_1, value_2, step_2, ...]"
)


class TrainingStep(int):
    """Optimizer steps done, together with the epochs done."""

    epoch: int

    def __new__(cls, step: int, epoch: int) -> "TrainingStep":
        """A number that is also used as a plain one."""
        made = super().__new__(cls, step)
        made.epoch = epoch
        return made


def scheduled(value: Schedule, step: int) -> float:
    """The value at an optimizer step.

    Args:
        value: see the module's docstring.
        step: optimizer steps done; a ``TrainingStep`` where a schedule may count epochs.

    Raises:
        ConfigurationError: ``value`` is none of the forms, its steps do not increase, it is geometric and not positive,
            or it counts epochs and ``step`` does not know them.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    curve, unit = "linear", "step"
    if isinstance(value, Mapping):
        value, curve, unit = _named_parts(value)
    elif isinstance(value, bool | str) or not isinstance(value, Sequence):
        raise ConfigurationError(f"a scheduled value is a number or {LIST_FORM}, got {value!r}")
    points = _points(value)
    if curve == "geometric" and min(point[1] for point in points) <= 0:
        raise ConfigurationError(f"a geometric schedule needs positive values, got {list(value)}")
    return _interpolated(points, _position(step, unit), curve)


def _named_parts(value: Mapping[str, Any]) -> tuple[Sequence[float], str, str]:
    """Points, curve and unit of the mapping form."""
    if unknown := set(value) - {"points", "curve", "unit"}:
        raise ConfigurationError(f"a schedule has points, curve and unit, not {', '.join(sorted(unknown))}")
    points, curve, unit = value.get("points"), value.get("curve", "linear"), value.get("unit", "step")
    if isinstance(points, str) or not isinstance(points, Sequence):
        raise ConfigurationError(f"the points of a schedule are {LIST_FORM}, got {points!r}")
    for name, chosen, known in (("curve", curve, CURVES), ("unit", unit, UNITS)):
        if chosen not in known:
            raise ConfigurationError(f"a schedule's {name} is one of {', '.join(known)}, got {chosen!r}")
    return points, curve, unit


def _points(value: Sequence[float]) -> list[tuple[float, float]]:
    """(step, value) pairs of the list form."""
    numbers = [0, *value] if len(value) == 3 else list(value)
    if len(numbers) < 4 or len(numbers) % 2:
        raise ConfigurationError(f"a schedule is {LIST_FORM}, got {list(value)}")
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise ConfigurationError(f"a schedule is a list of numbers, got {list(value)}")
    points = [(numbers[0], numbers[1]), *((numbers[i + 1], numbers[i]) for i in range(2, len(numbers), 2))]
    if any(later[0] <= earlier[0] for earlier, later in pairwise(points)):
        raise ConfigurationError(f"a schedule's end_step must be greater than its start_step, got {list(value)}")
    return points


def _position(step: int, unit: str) -> int:
    """Where ``step`` is, in ``unit``."""
    if unit == "step" or step == 0:
        return step
    if not isinstance(step, TrainingStep):
        raise ConfigurationError("a schedule that counts epochs is asked at a step whose epoch is not known; use unit: step here")
    return step.epoch


def _interpolated(points: list[tuple[float, float]], position: float, curve: str) -> float:
    """The curve through ``points`` at ``position``, constant outside."""
    for (first, start), (last, end) in pairwise(points):
        if position < last:
            share = max((position - first) / (last - first), 0.0)
            return float(start ** (1 - share) * end**share if curve == "geometric" else start + (end - start) * share)
    return float(points[-1][1])
