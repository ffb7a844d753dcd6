"""One job of a sweep: a training in a process of its own.

A process of its own keeps jobs apart whatever launcher starts them: a training that crashes, runs out of memory or loses a rank
ends that job alone, memory is given back, and Lightning starts the ranks of a distributed training as it does for a plain
``prd train`` (it repeats the command line, which would be the whole sweep's). The folder is resolved before the process starts,
so all ranks share it.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hydra.core.override_parser.types import Quote, QuotedString

from prd_lightning.run_folder import CHECKPOINTS
from prd_lightning.sweeps.record import read_record, record_failure
from prd_lightning.sweeps.runs import DONE, FAILED, Run, parse_overrides, read_run

logger = logging.getLogger(__name__)

REQUEUED_VARIABLE = "SLURM_RESTART_COUNT"
INTERRUPTED_STATUS = 130


def run_job(folder: Path, overrides: Sequence[str], number: int, objective: str) -> float | None:
    """Trains in a new process, or goes on where an earlier process stopped.

    With ``ckpt_path=last`` among the overrides (or in a job that Slurm has put back into its queue) a finished training is not
    repeated, one with a checkpoint goes on from it, and any other starts anew.

    Args:
        folder: absolute, for this job alone.
        overrides: of the configuration, one value each.
        number: of the job, for messages.
        objective: metric that a sweeper optimizes.

    Returns:
        The objective; None if the job failed or has no such number.

    Raises:
        KeyboardInterrupt: the user stopped the sweep.
    """
    chosen = plan(folder, list(overrides))
    if chosen is None:
        logger.info("job %d is finished already: %s", number, folder)
    else:
        before = read_record(folder)
        status = _wait_for(command(folder, chosen))
        if status in (INTERRUPTED_STATUS, -signal.SIGINT):
            raise KeyboardInterrupt
        if status:
            record_failure(folder, chosen, _explanation(status), before)
            logger.error("job %d failed: %s", number, read_run(folder).error or _explanation(status))
            return None
    return _objective(read_run(folder), objective)


def plan(folder: Path, overrides: list[str]) -> list[str] | None:
    """The overrides with which a job is started now; None if it need not be."""
    others = [text for text in overrides if text.partition("=")[0].lstrip("+") not in ("ckpt_path", "overwrite")]
    wants_to_go_on = "ckpt_path=last" in overrides or int(os.environ.get(REQUEUED_VARIABLE, "0")) > 0
    if not wants_to_go_on:
        return overrides
    record = read_record(folder)
    if record and record.get("status") == DONE and parse_overrides(record.get("overrides", [])) == parse_overrides(overrides):
        return None
    has_checkpoint = (folder / CHECKPOINTS).is_dir() and any((folder / CHECKPOINTS).iterdir())
    return [*others, "ckpt_path=last" if has_checkpoint else "overwrite=true"]


def command(folder: Path, overrides: Sequence[str]) -> list[str]:
    """The command line of one training in ``folder``."""
    quoted = QuotedString(str(folder), Quote.double).with_quotes()
    return [sys.executable, "-m", "prd_lightning.cli", "train", *overrides, f"hydra.run.dir={quoted}", "hydra.mode=RUN"]


def _wait_for(arguments: list[str]) -> int:
    """Runs a command to its end. An interrupt reaches it by the terminal; a termination is passed on to it."""
    with subprocess.Popen(arguments) as process, _passing_on(process):
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the training saves its state before it ends
                logger.warning("waiting for the training to end")


@contextmanager
def _passing_on(process: subprocess.Popen) -> Iterator[None]:
    """Hands SIGTERM down to ``process`` and, once that has ended, to whatever handled it before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGTERM)
    received: list[FrameType | None] = []

    def terminate(number: int, frame: FrameType | None) -> None:
        received.append(frame)
        process.terminate()  # not waited for here: the main thread may be waiting, and waiting is not reentrant

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        if received and callable(previous):
            previous(signal.SIGTERM, received[0])
        elif received:
            raise SystemExit(128 + signal.SIGTERM)


def _explanation(status: int) -> str:
    if status < 0:
        return f"the training was killed by {signal.Signals(-status).name}"
    return f"the training ended with status {status}"


def _objective(run: Run, name: str) -> float | None:
    if run.status == FAILED:
        return None
    if name not in run.metrics:
        logger.warning("%s has no metric %r for a sweeper; there are: %s", run.folder, name, ", ".join(run.metrics) or "none")
    return run.metrics.get(name)
