"""A training that is told to stop: where it stops, what it leaves, and that going on repeats an uninterrupted training."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from untrained import ARCHITECTURE

from prd_lightning.callbacks import FolderCheckpointIO, PreemptionCallback
from prd_lightning.cameras import CameraSettings
from prd_lightning.data import ListPrompts, PromptDataModule
from prd_lightning.module import PRDModule
from prd_lightning.rendering import VolumeRenderer
from prd_lightning.tinyworld.oracle import OracleTeacher


class Send(lightning.Callback):
    """Sends this process a signal in the middle of the first cycle."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_train_batch_start(self, trainer: lightning.Trainer, module: PRDModule, batch: Any, index: int) -> None:
        if index == 0:
            os.kill(os.getpid(), self.number)


def fit(folder: Path, *callbacks: lightning.Callback, checkpoint: Path | None = None) -> PRDModule:
    torch.manual_seed(0)
    renderer = VolumeRenderer(8, None, proposal_samples=8, fine_samples=6, bounding_radius=1.0, color_samples=3)
    teachers = {"oracle": OracleTeacher(renderers=("volume",))}
    module = PRDModule(ARCHITECTURE, {"volume": renderer}, teachers, partial(torch.optim.Adam, lr=1e-2), unroll_steps=2)
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=2, accumulate_grad_batches=2, callbacks=[PreemptionCallback(folder), *callbacks],
        plugins=[FolderCheckpointIO()], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    data = PromptDataModule(
        ListPrompts(["a red cone", "a blue cube"]), batch_size=1, unroll_steps=2, cameras=CameraSettings(views_per_prompt=1)
    )
    trainer.fit(module, data, ckpt_path=checkpoint)
    return module


def test_sigterm_saves_between_two_optimizer_steps_and_the_training_goes_on_exactly(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path, Send(signal.SIGTERM))
    assert ended.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    last = tmp_path / "checkpoints" / "last"
    assert FolderCheckpointIO().load_checkpoint(last)["global_step"] == 1
    resumed, whole = fit(tmp_path, checkpoint=last).trainable_state_dict(), fit(tmp_path).trainable_state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_a_slurm_job_is_put_back_into_the_queue(tmp_path, monkeypatch):
    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "1234")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")  # Lightning then starts its own processes
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path, Send(signal.SIGUSR1))
    assert ended.value.code == 128 + signal.SIGUSR1 and (tmp_path / "asked").read_text().split() == ["requeue", "1234"]
    assert (tmp_path / "checkpoints" / "last").is_dir()
