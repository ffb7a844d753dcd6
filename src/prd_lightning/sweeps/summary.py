"""Runs grouped into variants, with mean and standard deviation over repetitions (seeds)."""

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from prd_lightning.errors import ConfigurationError
from prd_lightning.sweeps.runs import DONE, Run

logger = logging.getLogger(__name__)

CPU_SECONDS = "cpu_seconds"
DEFAULT = "default"


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation of some values; the deviation of a single value is None."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """With n - 1 in the denominator."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Variant:
    """Runs that differ in their repetition alone.

    Attributes:
        name: short label.
        settings: overrides that tell it from other variants.
        runs: all of them, finished or not.
        statistics: of each metric, and of the CPU time, over the finished runs.
        differences: of each metric to the baseline, run by run of the same repetition; empty without a baseline.
    """

    name: str
    settings: dict[str, str]
    runs: list[Run]
    statistics: dict[str, Statistic]
    differences: dict[str, Statistic] = field(default_factory=dict)

    @property
    def finished(self) -> list[Run]:
        """Runs that count."""
        return [run for run in self.runs if run.status == DONE]


@dataclass(frozen=True)
class Summary:
    """A whole sweep.

    Attributes:
        variants: in the order of their first runs, or sorted.
        varied: keys of the settings in which variants differ.
        repeated: keys over which means are taken.
        metrics: names of the numbers, without the CPU time.
        baseline: name of the variant that others are compared with, None for none.
    """

    variants: list[Variant]
    varied: list[str]
    repeated: list[str]
    metrics: list[str]
    baseline: str | None = None

    @property
    def run_count(self) -> int:
        """Finished or not."""
        return sum(len(variant.runs) for variant in self.variants)

    @property
    def unfinished(self) -> list[Run]:
        """Runs that do not count."""
        return [run for variant in self.variants for run in variant.runs if run.status != DONE]


def summarize(
    runs: Sequence[Run],
    repeated: Sequence[str] = ("seed",),
    metrics: Sequence[str] | None = None,
    sort: str | None = None,
    baseline: str | None = None,
) -> Summary:
    """Groups runs into variants.

    Args:
        runs: see ``find_runs``.
        repeated: settings that number repetitions; means are taken over them.
        metrics: which numbers; None for all that some finished run has.
        sort: metric by whose mean variants are sorted, best (largest) first.
        baseline: variant with which the others are compared, seed by seed.

    Raises:
        ConfigurationError: a metric is asked for that no finished run has, or there is no such variant.
    """
    known = list(dict.fromkeys(name for run in runs if run.status == DONE for name in run.metrics))
    for name in (*(metrics or ()), *((sort,) if sort else ())):
        if name not in known:
            raise ConfigurationError(f"no finished run has the metric {name!r}; there are: {', '.join(known) or 'none'}")
    chosen = list(metrics or known)
    varied = _varied(runs, repeated)
    groups: dict[tuple[str | None, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.settings.get(key) for key in varied), []).append(run)
    variants = [_variant(dict(zip(varied, values)), group, chosen) for values, group in groups.items()]
    for variant in variants:
        _warn_of_repetitions(variant, repeated)
    if baseline is not None:
        variants = _compared(variants, baseline, repeated, chosen)
    if sort:
        variants.sort(key=lambda variant: -variant.statistics[sort].mean if sort in variant.statistics else float("inf"))
    return Summary(variants, varied, list(repeated), chosen, baseline)


def _varied(runs: Sequence[Run], repeated: Sequence[str]) -> list[str]:
    keys = dict.fromkeys(key for run in runs for key in run.settings if key not in repeated)
    return [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]


def _variant(values: dict[str, str | None], runs: list[Run], metrics: list[str]) -> Variant:
    settings = {key: value for key, value in values.items() if value is not None}
    if len(values) == 1:
        name = next(iter(settings.values()), DEFAULT)
    else:
        name = " ".join(f"{key}={value}" if value else key for key, value in settings.items()) or DEFAULT
    found: dict[str, list[float]] = {name: [] for name in (*metrics, CPU_SECONDS)}
    for run in runs:
        if run.status != DONE:
            continue
        for metric in metrics:
            if metric in run.metrics:
                found[metric].append(run.metrics[metric])
        if run.cpu_seconds is not None:
            found[CPU_SECONDS].append(run.cpu_seconds)
    return Variant(name, settings, runs, {key: Statistic(tuple(given)) for key, given in found.items() if given})


def _compared(variants: list[Variant], baseline: str, repeated: Sequence[str], metrics: list[str]) -> list[Variant]:
    """The variants with their differences to the one of that name."""
    named = {variant.name: variant for variant in variants}
    if baseline not in named:
        raise ConfigurationError(f"there is no variant {baseline!r}; there are: {', '.join(named)}")
    reference = {_repetition(run, repeated): run for run in named[baseline].finished}
    compared = []
    for variant in variants:
        differences: dict[str, list[float]] = {name: [] for name in metrics}
        for run in variant.finished if variant.name != baseline else ():
            other = reference.get(_repetition(run, repeated))
            for name in metrics if other else ():
                if name in run.metrics and name in other.metrics:
                    differences[name].append(run.metrics[name] - other.metrics[name])
        found = {name: Statistic(tuple(values)) for name, values in differences.items() if values}
        compared.append(replace(variant, differences=found))
    return compared


def _repetition(run: Run, repeated: Sequence[str]) -> tuple[str | None, ...]:
    return tuple(run.settings.get(name) for name in repeated)


def _warn_of_repetitions(variant: Variant, repeated: Sequence[str]) -> None:
    seen: dict[tuple[str | None, ...], Run] = {}
    for run in variant.finished:
        key = _repetition(run, repeated)
        if key in seen:
            logger.warning(
                "%s and %s are the same variant and %s; both count", seen[key].folder, run.folder, "/".join(repeated)
            )
        seen[key] = run
