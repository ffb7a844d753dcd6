"""An exponential moving average of the trained weights.

After the n-th optimizer step (n = 0, 1, ...), with weights w, average a and the largest decay d::

    a <- d_n a + (1 - d_n) w,    d_n = min(d, (1 + n) / (warmup + n))

The warm-up lets the average forget the untrained weights: while it lasts, the average reaches over about the last
``1 / (warmup - 1)`` of the run.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning
import torch
from torch import Tensor

from prd_lightning.errors import CheckpointFormatError, ConfigurationError
from prd_lightning.generator import copy_state
from prd_lightning.module import PRDModule
from prd_lightning.strategies import check_whole

AVERAGED_STATE, UPDATES = "averaged_state_dict", "averaged_updates"
"""Entries of a checkpoint: the average by tensor name, and how many optimizer steps are in it."""


class WeightAveraging(lightning.Callback):
    """Keeps the average of what is trained: adapters, field networks and background.

    The weights that are trained stay as they are; ``averaged_weights`` puts the average in their place for as long as something
    is generated. In a checkpoint the generator file holds the average, and the trainer's state holds the weights to go on with.

    Args:
        decay: d; the average reaches back about 1 / (1 - d) optimizer steps.
        warmup: greater slows the decay's growth down; 1 has none.

    Raises:
        ConfigurationError: a number is out of range.
    """

    def __init__(self, decay: float = 0.999, warmup: float = 10.0) -> None:
        if not 0 <= decay < 1:
            raise ConfigurationError(f"ema.decay must lie between 0 and 1 (1 excluded) or be null, got {decay}")
        if warmup < 1:
            raise ConfigurationError(f"ema.warmup must be at least 1, got {warmup}")
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        self.average: dict[str, Tensor] = {}
        self._restored: dict[str, Tensor] | None = None
        self._last_step = 0

    def decay_at(self, updates: int) -> float:
        """The decay of the update that ``updates`` others went before."""
        return min(self.decay, (1 + updates) / (self.warmup + updates))

    def setup(self, trainer: lightning.Trainer, pl_module: PRDModule, stage: str) -> None:
        """Raises ConfigurationError where a process does not hold all that is trained."""
        check_whole(trainer.strategy, "ema.decay")

    @torch.no_grad()
    def on_train_start(self, trainer: lightning.Trainer, pl_module: PRDModule) -> None:
        """Begins with the current weights, or goes on with the average of a checkpoint.

        Raises:
            CheckpointFormatError: the checkpoint's average is of another architecture.
        """
        self._last_step = trainer.global_step
        self.average = {name: _precise_copy(value) for name, value in pl_module.trainable_state_dict().items()}
        if self._restored is not None:
            copy_state(self.average, self._restored)
            self._restored = None

    @torch.no_grad()
    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: PRDModule, *_: Any) -> None:
        """Takes the weights in after an optimizer step."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        weight = 1 - self.decay_at(self.updates)
        for name, value in pl_module.trainable_state_dict().items():
            self.average[name].lerp_(value.detach().to(self.average[name].dtype), weight)
        self.updates += 1

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: PRDModule, checkpoint: dict[str, Any]) -> None:
        """Adds the average, once there is one."""
        if self.average:
            checkpoint[AVERAGED_STATE] = dict(self.average)
            checkpoint[UPDATES] = self.updates

    def on_load_checkpoint(self, trainer: lightning.Trainer, pl_module: PRDModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the checkpoint's average until training starts; without one it begins with the checkpoint's weights."""
        self._restored = checkpoint.get(AVERAGED_STATE)
        self.updates = checkpoint.get(UPDATES, 0)
        if self._restored is not None and not isinstance(self.updates, int):
            raise CheckpointFormatError(f"the checkpoint's {UPDATES} is no number of steps: {self.updates!r}")

    @contextmanager
    def swapped_in(self, module: PRDModule) -> Iterator[None]:
        """The module has the averaged weights inside the block and its own again after it."""
        own = module.trainable_state_dict()
        kept = {name: value.detach().clone() for name, value in own.items()}
        copy_state(own, self.average)
        try:
            yield
        finally:
            copy_state(own, kept)


@contextmanager
def averaged_weights(trainer: lightning.Trainer, module: PRDModule) -> Iterator[None]:
    """The weights to generate with: the average if the trainer keeps one, else the module's own, whole where they must be."""
    for callback in trainer.callbacks:
        if isinstance(callback, WeightAveraging) and callback.average:
            with callback.swapped_in(module):
                yield
            return
    with getattr(trainer.strategy, "generating", nullcontext)():  # DeepSpeed, which allows no average
        yield


def _precise_copy(value: Tensor) -> Tensor:
    """A copy in 32 bits at least: small steps would be lost in fewer."""
    copy = value.detach().clone()
    return copy.float() if copy.dtype in (torch.float16, torch.bfloat16) else copy
