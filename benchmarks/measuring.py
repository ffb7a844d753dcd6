"""Cases, how they are timed, and what the results look like (``schema.json`` says it for machines)."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from prd_lightning import __version__
from prd_lightning.files import atomic_write

SCHEMA = "prd_lightning.benchmarks.1"


@dataclass(frozen=True)
class Settings:
    """How the benchmarks are run.

    Attributes:
        device: where to run.
        repeats: timed rounds, after one that is not timed.
        smallest: sizes that only try whether a benchmark runs; their times mean nothing.
    """

    device: torch.device
    repeats: int = 3
    smallest: bool = False


@dataclass(frozen=True)
class Case:
    """One way of doing something.

    Attributes:
        name: of the case.
        seconds: median time of a round.
        fastest: shortest time of a round.
        baseline: the case that ``ratio`` refers to.
        ratio: ``seconds`` over that of the baseline.
        per_second: units of work (views, for instance) in a second, where the benchmark counts any.
        graph_megabytes: tensors that the forward pass keeps for the backward pass, where that was measured.
    """

    name: str
    seconds: float
    fastest: float
    baseline: str
    ratio: float
    per_second: float | None = None
    graph_megabytes: float | None = None


@dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
        title: what is compared, in words.
        sizes: numbers that the times depend on.
        cases: in the order in which they were given.
    """

    title: str
    sizes: dict[str, int]
    cases: list[Case] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stopwatch:
    """Adds up the time of named sections of a round.

    Args:
        device: is waited for at both ends of a section.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, {}
        self._started: dict[str, float] = {}

    def start(self, name: str) -> None:
        """Begins a section."""
        synchronize(self.device)
        self._started[name] = time.perf_counter()

    def stop(self, name: str) -> None:
        """Ends it."""
        synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - self._started.pop(name)

    def round(self) -> dict[str, float]:
        """The sums so far; the next round begins at zero."""
        seconds, self.seconds = self.seconds, {}
        return seconds


def measure(cases: dict[str, Callable[[], object]], settings: Settings) -> dict[str, list[float]]:
    """Seconds of every round of every case. Cases take turns, so that a disturbance hits all of them."""
    watch, rounds = Stopwatch(settings.device), {name: [] for name in cases}
    for number in range(settings.repeats + 1):
        for name, function in cases.items():
            watch.start(name)
            function()
            watch.stop(name)
            seconds = watch.round()[name]
            if number:  # the first round warms caches up
                rounds[name].append(seconds)
    return rounds


def graph_bytes(function: Callable[[], torch.Tensor]) -> int:
    """Bytes of all different tensors that ``function`` keeps for the backward pass of what it returns."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function()
    del result  # the graph had to live until here: freed storage could come back under the same address
    return sum(kept.values())


def make_cases(
    rounds: dict[str, list[float]],
    baseline: str | dict[str, str],
    work: float | None = None,
    graphs: dict[str, int] | None = None,
) -> list[Case]:
    """Cases of measured rounds.

    Args:
        rounds: seconds of every round, by name.
        baseline: the case that ratios refer to, or one for each case.
        work: units of work in a round.
        graphs: bytes kept for the backward pass, by name.
    """
    medians = {name: statistics.median(seconds) for name, seconds in rounds.items()}
    references = dict.fromkeys(rounds, baseline) if isinstance(baseline, str) else baseline
    graphs = graphs or {}
    return [
        Case(
            name,
            seconds=medians[name],
            fastest=min(seconds),
            baseline=references[name],
            ratio=medians[name] / medians[references[name]],
            per_second=work / medians[name] if work else None,
            graph_megabytes=graphs[name] / 1e6 if name in graphs else None,
        )
        for name, seconds in rounds.items()
    ]


def write_results(found: dict[str, Any], path: Path | None, overwrite: bool) -> None:
    """Writes what was measured as JSON, where a file is asked for."""
    if path:
        with atomic_write(path, overwrite) as temporary:
            temporary.write_text(json.dumps(found, indent=2) + "\n")


def environment(settings: Settings) -> dict[str, Any]:
    """What the times depend on beside the code."""
    return {
        "device": str(settings.device),
        "device_name": device_name(settings.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "prd_lightning": __version__,
        "repeats": settings.repeats,
        "smallest": settings.smallest,
    }


def device_name(device: torch.device) -> str:
    """The model of the GPU or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
