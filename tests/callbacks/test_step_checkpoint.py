"""Checkpoints never get ahead of the log, and old ones go, also the one that a training went on from."""

import csv
from functools import partial
from pathlib import Path

import lightning
import torch
from untrained import ARCHITECTURE

from prd_lightning.callbacks import FolderCheckpointIO, StepCheckpoint, StepLogger
from prd_lightning.cameras import CameraSettings
from prd_lightning.data import ListPrompts, PromptDataModule
from prd_lightning.module import PRDModule
from prd_lightning.rendering import MeshRenderer
from prd_lightning.tinyworld.oracle import OracleTeacher


def rows(folder: Path) -> list[int]:
    path = folder / "metrics.csv"
    return [int(row["step"]) for row in csv.DictReader(path.read_text().splitlines())] if path.is_file() else []


class WatchedIO(FolderCheckpointIO):
    """Notes which steps were logged whenever a checkpoint is about to be written."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.logged = folder, {}

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: object = None) -> None:
        self.logged[Path(path).name] = rows(self.folder)
        super().save_checkpoint(checkpoint, path, storage_options)


def fit(folder: Path, steps: int, checkpoint: Path | None = None) -> WatchedIO:
    torch.manual_seed(0)
    module = PRDModule(
        ARCHITECTURE, {"mesh": MeshRenderer(8, 16, rasterizer="torch")}, {"oracle": OracleTeacher(renderers=("mesh",))},
        partial(torch.optim.SGD, lr=1e-3), unroll_steps=2,
    )  # fmt: skip
    keeper = StepCheckpoint(
        folder / "checkpoints", filename="step_{step:06d}", auto_insert_metric_name=False, every_n_train_steps=1, save_top_k=1,
        monitor="step", mode="max", save_last=True, enable_version_counter=False,
    )  # fmt: skip
    watched = WatchedIO(folder)
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=steps, accumulate_grad_batches=2, callbacks=[keeper], plugins=[watched], log_every_n_steps=1,
        logger=StepLogger(folder, name="", version=""), enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    prompts = ListPrompts(["a red cone", "a blue cube"])
    trainer.fit(module, PromptDataModule(prompts, 1, 2, CameraSettings(views_per_prompt=1)), ckpt_path=checkpoint)
    return watched


def test_a_step_is_in_the_log_before_its_checkpoint_and_once(tmp_path: Path):
    watched = fit(tmp_path, steps=3)
    assert {name: logged for name, logged in watched.logged.items() if name != "last"} == {
        "step_000001": [0],
        "step_000002": [0, 1],
        "step_000003": [0, 1, 2],
    }
    assert watched.logged["last"] == [0, 1, 2] == rows(tmp_path)


def test_the_checkpoint_that_a_training_went_on_from_is_deleted_in_its_turn(tmp_path: Path):
    fit(tmp_path, steps=1)
    start = tmp_path / "checkpoints" / "step_000001"
    fit(tmp_path, steps=3, checkpoint=start)
    assert sorted(path.name for path in start.parent.iterdir()) == ["last", "step_000003"]
