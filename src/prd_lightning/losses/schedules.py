"""Values that change during training."""

from collections.abc import Sequence

from prd_lightning.errors import ConfigurationError

Schedule = float | int | Sequence[float]


def scheduled(value: Schedule, step: int) -> float:
    """The value at an optimizer step.

    Args:
        value: a number, or ``[start_step, start, end, end_step]``: ``start`` until ``start_step``, ``end`` from ``end_step`` on,
            linear in between.
        step: optimizer steps done.

    Raises:
        ConfigurationError: ``value`` is neither, or ``end_step`` does not follow ``start_step``.
    """
    if isinstance(value, bool | str):
        raise ConfigurationError(f"a scheduled value is a number or [start_step, start, end, end_step], got {value!r}")
    if isinstance(value, int | float):
        return float(value)
    if len(value) != 4:
        raise ConfigurationError(f"a schedule is [start_step, start, end, end_step], got {list(value)}")
    start_step, start, end, end_step = value
    if end_step <= start_step:
        raise ConfigurationError(f"a schedule's end_step must be greater than its start_step, got {list(value)}")
    progress = min(max((step - start_step) / (end_step - start_step), 0.0), 1.0)
    return float(start + (end - start) * progress)
