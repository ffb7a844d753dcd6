"""``job.json`` in a run's folder: what was overridden, how long it took, how it ended."""

import json
import os
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from prd_lightning.files import atomic_write
from prd_lightning.sweeps.runs import DONE, FAILED, INTERRUPTED, JOB_FILE, RUNNING

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


@contextmanager
def recorded(folder: Path, seed: int, overrides: Sequence[str] | None = None) -> Iterator[None]:
    """Writes ``job.json`` at the start and, however the block ends, once more at its end; rank 0 alone writes.

    A process that is killed leaves the status ``running`` behind. A training that goes on adds to the times of its earlier parts.

    Args:
        folder: of the run; it exists.
        seed: of the run.
        overrides: of the configuration, as they were typed; None takes Hydra's.
    """
    if overrides is None:
        overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    before, earlier = _now(), _earlier(folder, is_resumed=any(text.startswith("ckpt_path=") for text in overrides))
    entry = {"overrides": list(overrides), "seed": seed, "status": RUNNING, "error": None, "started": _clock(), **earlier}
    _write(folder, entry)
    status, message = INTERRUPTED, None  # also what a signal handler leaves that ends the process
    try:
        yield
        status = DONE
    except Exception as error:
        status, message = FAILED, f"{type(error).__name__}: {error}"
        raise
    finally:
        wall, processor = (round(now - then, 2) for now, then in zip(_now(), before))
        spent = {"seconds": earlier["seconds"] + wall, "cpu_seconds": earlier["cpu_seconds"] + processor}
        _write(folder, entry | spent | {"status": status, "error": message, "ended": _clock()})


def read_record(folder: Path) -> dict[str, Any] | None:
    """What ``job.json`` says; None if there is none, or it is damaged."""
    try:
        value = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def record_failure(folder: Path, overrides: Sequence[str], message: str, before: dict[str, Any] | None = None) -> None:
    """Writes down that a training failed that could not do so itself: it was refused before it began, or was killed.

    A record that did not change since ``before`` belongs to another training, which the folder holds, and stays.
    """
    known = read_record(folder)
    if known is None and folder.is_dir():
        _write(folder, {"overrides": list(overrides), "seed": 0, "status": FAILED, "error": message})
    elif known and known != before and known.get("status") == RUNNING:
        _write(folder, known | {"status": FAILED, "error": message})


def is_first_process() -> bool:
    """Whether this is rank 0, by the variables that launchers set (without Lightning, whose import takes seconds)."""
    return next((int(os.environ[name]) == 0 for name in RANK_VARIABLES if name in os.environ), True)


def _write(folder: Path, entry: dict[str, Any]) -> None:
    if not is_first_process():
        return
    with atomic_write(folder / JOB_FILE, overwrite=True) as temporary:
        temporary.write_text(json.dumps(entry, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _earlier(folder: Path, is_resumed: bool) -> dict[str, float]:
    """Times of the earlier parts of a training that goes on."""
    known = (read_record(folder) if is_resumed else None) or {}
    return {name: float(known.get(name) or 0.0) for name in ("seconds", "cpu_seconds")}


def _now() -> tuple[float, float]:
    """Wall clock, and the CPU time of this process and of its ended children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic(), own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _clock() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

