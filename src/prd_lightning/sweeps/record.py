"""``job.json`` in a run's folder: what was overridden, how long it took, how it ended."""

import json
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from prd_lightning.files import atomic_write
from prd_lightning.sweeps.runs import DONE, FAILED, INTERRUPTED, JOB_FILE, RUNNING


@contextmanager
def recorded(folder: Path, overrides: Sequence[str], seed: int) -> Iterator[None]:
    """Writes ``job.json`` at the start and, however the block ends, once more at its end; rank 0 alone writes.

    A process that is killed leaves the status ``running`` behind. A training that goes on adds to the times of its earlier parts.

    Args:
        folder: of the run; it exists.
        overrides: of the configuration, as they were typed.
        seed: of the run.
    """
    before, earlier = _now(), _earlier(folder, is_resumed=any(text.startswith("ckpt_path=") for text in overrides))
    entry = {"overrides": list(overrides), "seed": seed, "status": RUNNING, "error": None, "started": _clock(), **earlier}
    _write(folder, entry)
    status, message = FAILED, None
    try:
        yield
        status = DONE
    except KeyboardInterrupt:
        status = INTERRUPTED
        raise
    except BaseException as error:
        message = f"{type(error).__name__}: {error}"
        raise
    finally:
        wall, processor = (round(now - then, 2) for now, then in zip(_now(), before))
        spent = {"seconds": earlier["seconds"] + wall, "cpu_seconds": earlier["cpu_seconds"] + processor}
        _write(folder, entry | spent | {"status": status, "error": message, "ended": _clock()})


@rank_zero_only
def _write(folder: Path, entry: dict[str, Any]) -> None:
    with atomic_write(folder / JOB_FILE, overwrite=True) as temporary:
        temporary.write_text(json.dumps(entry, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _earlier(folder: Path, is_resumed: bool) -> dict[str, float]:
    """Times of the earlier parts of a training that goes on."""
    known: dict[str, Any] = {}
    if is_resumed:
        try:
            known = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
    return {name: float(known.get(name) or 0.0) for name in ("seconds", "cpu_seconds")}


def _now() -> tuple[float, float]:
    """Wall clock, and the CPU time of this process and of its ended children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic(), own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _clock() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

