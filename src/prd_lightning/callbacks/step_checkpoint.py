"""Checkpoints on optimizer steps alone."""

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint


class StepCheckpoint(ModelCheckpoint):
    """Saves when an optimizer step is complete, never between the unroll steps of one.

    Lightning's own class does not know after a resume that the step which it goes on from was saved already. It would save it
    again after the first micro-batch, and what goes on from there would leave that micro-batch out.
    """

    FILE_EXTENSION = ""
    """A checkpoint is a folder."""

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """See ``ModelCheckpoint``; nothing within a cycle of micro-batches."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
