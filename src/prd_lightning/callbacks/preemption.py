"""Being told to stop: SIGTERM, or a Slurm job's signal ahead of its time limit, saves a checkpoint and ends the process."""

import logging
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.utilities import rank_zero_only

from prd_lightning.module import PRDModule
from prd_lightning.run_folder import CHECKPOINTS

logger = logging.getLogger(__name__)

SLURM_JOB, SLURM_ARRAY_JOB, SLURM_ARRAY_TASK = "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"


class PreemptionCallback(lightning.Callback):
    """Ends a training between two optimizer steps, with a checkpoint ``last``, after SIGTERM or (in a Slurm job) SIGUSR1.

    The processes of a training agree on the step. A Slurm job that was sent SIGUSR1 (``sbatch --signal=USR1@120``) is put back
    into the queue; started again, the same command goes on, see ``train.main``. The exit status is 128 plus the signal's number.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.checkpoint = Path(folder) / CHECKPOINTS / "last"
        self.received = 0
        self._earlier: dict[int, Any] = {}
        self._last_step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: PRDModule) -> None:
        """Takes the signals over from Lightning, whose handlers would save in the middle of a cycle."""
        self._last_step = trainer.global_step
        signals = [signal.SIGTERM, *([signal.SIGUSR1] if SLURM_JOB in os.environ else [])]
        self._earlier = {number: signal.signal(number, self._receive) for number in signals}

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: PRDModule, *_: Any) -> None:
        """After an optimizer step: saves and exits if any process was told to.

        Raises:
            SystemExit: with a checkpoint of this step.
        """
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        if not trainer.strategy.reduce_boolean_decision(bool(self.received), all=False):
            return
        number = self.received or signal.SIGTERM
        trainer.save_checkpoint(self.checkpoint)
        name = signal.Signals(number).name
        logger.warning("%s: stopped after step %d; ckpt_path=last goes on", name, trainer.global_step)
        if number == signal.SIGUSR1:
            requeue()
        raise SystemExit(128 + number)

    def teardown(self, trainer: lightning.Trainer, pl_module: PRDModule, stage: str) -> None:
        """Gives the signals back."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number


@rank_zero_only
def requeue() -> None:
    """Puts this Slurm job back into the queue; what goes wrong is logged."""
    job = os.environ[SLURM_JOB]
    if SLURM_ARRAY_JOB in os.environ:
        job = f"{os.environ[SLURM_ARRAY_JOB]}_{os.environ[SLURM_ARRAY_TASK]}"
    command = shutil.which("scontrol")
    if command is None or not re.fullmatch(r"[0-9_]+", job):
        logger.error("the Slurm job %s cannot be put back into the queue: there is no scontrol, or its number is odd", job)
        return
    done = subprocess.run([command, "requeue", job], capture_output=True, text=True)
    if done.returncode:
        logger.error("scontrol requeue %s failed: %s", job, done.stderr.strip())
    else:
        logger.info("the Slurm job %s is back in the queue", job)
