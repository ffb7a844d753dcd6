"""A resumable training loop for the tiny models: averaged weights, cosine learning rate, state saved every minute."""

import logging
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from pytorch_optimizer import Muon
from torch import Tensor, nn

from prd_lightning.files import atomic_write

logger = logging.getLogger(__name__)

SAVE_INTERVAL_SECONDS = 60.0
LOG_INTERVAL_STEPS = 100


@dataclass(frozen=True)
class Stage:
    """Length and step size of one training.

    Attributes:
        steps: optimizer steps.
        batch_size: samples (single pictures, or groups of four views) per step.
        learning_rate: AdamW's, the peak of a cosine schedule with a short warm-up.
        matrix_learning_rate: with one, weight matrices and convolutions between the first and the last layer are trained by Muon
            (orthogonalized momentum, Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), on the same schedule.
        average_decay: decay of the exponential moving average of the weights.
        seed: of the sampling of batches and noise.
    """

    steps: int
    batch_size: int
    learning_rate: float
    average_decay: float = 0.995
    seed: int = 0
    matrix_learning_rate: float | None = None

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the module's parameters; each group keeps its ``peak`` learning rate."""
        settings = {"betas": (0.9, 0.99), "weight_decay": 0.01}
        if self.matrix_learning_rate is None:
            return torch.optim.AdamW([{"params": list(module.parameters()), "peak": self.learning_rate}], **settings)
        matrices = [
            value for name, value in module.named_parameters() if value.ndim > 1 and not name.startswith(("conv_in", "conv_out"))
        ]
        chosen = set(matrices)
        others = [value for value in module.parameters() if value not in chosen]
        return Muon(
            [
                {"params": matrices, "use_muon": True, "peak": self.matrix_learning_rate},
                {"params": others, "use_muon": False, "peak": self.learning_rate, **settings},
            ]
        )

    def learning_rate_share(self, step: int) -> float:
        """Of the peak: linear warm-up over the first 2 % of the steps, then a cosine down to 2 %."""
        warm_up = max(1, self.steps // 50)
        if step < warm_up:
            return (step + 1) / warm_up
        progress = (step - warm_up) / max(1, self.steps - warm_up)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


class WeightAverage:
    """Exponential moving average of a module's parameters, with a warm-up of the decay."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = deepcopy(module).requires_grad_(False).eval(), decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Moves the average towards ``module`` after optimizer step ``step``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, current in zip(self.module.parameters(), module.parameters()):
            average.lerp_(current, 1 - decay)
        for average, current in zip(self.module.buffers(), module.buffers()):
            average.copy_(current)


def train(
    name: str, module: nn.Module, loss_of_batch: Callable[[torch.Generator], Tensor], stage: Stage, state_folder: Path
) -> nn.Module:
    """Minimises ``loss_of_batch(generator)`` and returns the averaged module.

    The state (weights, average, optimizer, generator, step) is saved in ``state_folder`` every minute, so that an interrupted
    training continues where it stopped; a finished one returns at once.
    """
    state_folder.mkdir(parents=True, exist_ok=True)
    path = state_folder / f"{name}.pt"
    generator = torch.Generator().manual_seed(stage.seed)
    optimizer = stage.optimizer(module)
    average, first = WeightAverage(module, stage.average_decay), 0
    if path.is_file():
        state = torch.load(path, weights_only=True)
        module.load_state_dict(state["module"])
        average.module.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        first = state["step"]
        logger.info("%s: continuing at step %d of %d", name, first, stage.steps)
    module.train()
    last_save, running, started = time.monotonic(), 0.0, time.monotonic()
    for step in range(first, stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * stage.learning_rate_share(step)
        loss = loss_of_batch(generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        average.update(module, step)
        running += loss.item()
        if (step + 1) % LOG_INTERVAL_STEPS == 0:
            pace = (time.monotonic() - started) / (step + 1 - first)
            logger.info(
                "%s: step %d of %d, loss %.4f, %.2f s a step", name, step + 1, stage.steps, running / LOG_INTERVAL_STEPS, pace
            )
            running = 0.0
        if time.monotonic() - last_save > SAVE_INTERVAL_SECONDS or step + 1 == stage.steps:
            state = {"optimizer": optimizer.state_dict(), "generator": generator.get_state(), "step": step + 1}
            weights = {"module": module.state_dict(), "average": average.module.state_dict()}
            with atomic_write(path, overwrite=True) as temporary:
                torch.save(weights | state, temporary)
            last_save = time.monotonic()
    return average.module
