"""Checkpoints on optimizer steps alone, and the log that keeps in step with them."""

from pathlib import Path

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger


class StepLogger(CSVLogger):
    """``metrics.csv``, with one row for a step whose numbers are handed over twice."""

    _last: tuple[int | None, dict[str, float]] | None = None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """See ``CSVLogger``."""
        if self._last != (step, metrics):
            self._last = step, dict(metrics)
            super().log_metrics(metrics, step)


class StepCheckpoint(ModelCheckpoint):
    """Saves when an optimizer step is complete, never between the unroll steps of one.

    Lightning's own class does not know after a resume that the step which it goes on from was saved already. It would save it
    again after the first micro-batch, and what goes on from there would leave that micro-batch out. It also saves before the
    loggers have the step's numbers, so that a training that is killed in between would go on without them.
    """

    FILE_EXTENSION = ""
    """A checkpoint is a folder."""

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """See ``ModelCheckpoint``; nothing within a cycle of micro-batches."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if trainer.global_step % self._every_n_train_steps == 0:
            # Lightning's loop does the same when all callbacks are through; there is no public way to do it now.
            trainer._logger_connector.update_train_step_metrics()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _should_remove_checkpoint(self, trainer: lightning.Trainer, previous: str, current: str) -> bool:
        """Lightning keeps the checkpoint that a training went on from for ever; with newer ones it is as old as any other."""
        return previous != current and Path(self.dirpath).absolute() in Path(previous).absolute().parents
