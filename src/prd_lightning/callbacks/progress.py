"""The progress bar of a training whose optimizer steps take several micro-batches."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import TQDMProgressBar


class UnrollProgressBar(TQDMProgressBar):
    """Counts micro-batches: ``accumulate_grad_batches`` of them make one optimizer step."""

    @property
    def total_train_batches(self) -> int | float:
        """Micro-batches that are left of ``max_steps``."""
        if self.trainer.max_steps > 0:
            return (self.trainer.max_steps - self.trainer.global_step) * self.trainer.accumulate_grad_batches
        return super().total_train_batches

    def on_train_epoch_start(self, trainer: lightning.Trainer, *unused: Any) -> None:
        """Names the bar: an endless stream has a single epoch."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description("training")

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Optimizer steps, and the losses without their prefix."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return {"step": trainer.global_step} | {name.removeprefix("train/"): value for name, value in metrics.items()}
