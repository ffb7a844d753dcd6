"""Numbers that tell a healthy training from one that diverges, in the same log as the losses.

Of each optimizer step, the mean over its micro-batches::

    train/TEACHER/RENDERER_gradient_norm    norm of the weighted gradient that a teacher has on the maps of a renderer
    train/TEACHER/RENDERER_gradient_share   its share of the sum of those norms over the teachers of that renderer
    train/empty_mesh_share                  scenes without a surface
    train/inverse_standard_deviation        sharpness k of the volume renderer's surface
    train/TEACHER/t_00 ... t_09             share of the noise levels drawn in each tenth of [0, T) since the last row of the log

``prd diagnose RUN`` draws them.
"""

from collections import defaultdict
from typing import Any

import lightning
import torch
from torch import Tensor

from prd_lightning.losses import scheduled
from prd_lightning.module import PRDModule

BINS = 10


def time_histogram(times: Tensor) -> Tensor:
    """[BINS] counts of noise levels in [0, 1) by tenths."""
    return torch.bincount((times.double() * BINS + 1e-9).long().clamp(0, BINS - 1), minlength=BINS)


def gradient_norms(module: PRDModule) -> dict[tuple[str, str], Tensor]:
    """Norm of the weighted gradient of each teacher on the maps of each renderer, of the last micro-batch."""
    norms = {}
    for name, result in module.teacher_results.items():
        weight = scheduled(module.teachers[name].weight, module.now)
        for renderer, gradients in result.gradients.items():
            squares = torch.stack([gradient.detach().float().square().sum() for gradient in gradients.values()])
            norms[name, renderer] = weight * squares.sum().sqrt()
    return norms


class DiagnosisCallback(lightning.Callback):
    """Logs what the module's docstring lists."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._batches = 0
        self._times: dict[str, Tensor] = {}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: PRDModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds up one micro-batch; after the last of a step the means are logged."""
        self._batches += 1
        for name, value in self._numbers(trainer, pl_module, batch).items():
            self._sums[name] += value
        for name, teacher in pl_module.teachers.items():
            if (times := getattr(teacher, "times", None)) is not None:
                self._times[name] = self._times.get(name, torch.zeros(BINS)) + time_histogram(times)
        if self._batches % trainer.accumulate_grad_batches:
            return
        means = {name: value / self._batches for name, value in self._sums.items()}
        for name, counts in self._times.items():
            shares = (counts / counts.sum()).tolist()
            means |= {f"train/{name}/t_{index:02d}": share for index, share in enumerate(shares)}
        for name, value in means.items():
            pl_module.log(name, value, on_step=True, on_epoch=False)
        self._sums.clear()
        self._batches = 0
        if trainer.global_step % trainer.log_every_n_steps == 0:
            self._times.clear()

    @staticmethod
    def _numbers(trainer: lightning.Trainer, module: PRDModule, batch: Any) -> dict[str, float]:
        norms, numbers = gradient_norms(module), {}
        for (name, renderer), norm in norms.items():
            total = torch.stack([other for (_, where), other in norms.items() if where == renderer]).sum()
            numbers[f"train/{name}/{renderer}_gradient_norm"] = float(norm)
            numbers[f"train/{name}/{renderer}_gradient_share"] = float(norm / total) if total else 0.0
        if (empty := trainer.callback_metrics.get("train/empty_meshes")) is not None:
            numbers["train/empty_mesh_share"] = float(empty) / len(batch.prompts)
        volume = module.renderers["volume"] if "volume" in module.renderers else None
        if (sharpness := getattr(volume, "inverse_standard_deviation", None)) is not None:
            numbers["train/inverse_standard_deviation"] = float(sharpness)
        return numbers
