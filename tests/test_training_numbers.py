"""Numbers of training: 16 bits of training and of teachers beside 32, clipping, and the learning rate's schedule."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from prd_lightning.building import build_data, build_module
from prd_lightning.configuration import compose_config
from prd_lightning.module import PRDModule

SMALLEST = (
    "teacher=richdreamer", "generator.rank=2", "generator.plane_channels=8", "generator.hidden=8", "module.unroll_steps=2",
    "world.batch_size=1", "world.volume.image_size=8", "world.volume.proposal_samples=8", "world.volume.fine_samples=6",
    "world.mesh.resolution=8", "world.mesh.image_size=8", "world.stable_diffusion.image_size=16",
)  # fmt: skip
STEPS = 3


class Recorder(lightning.Callback):
    """Losses of every micro-batch; learning rate and length of the change of every optimizer step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.changes: list[float] = []
        self.gradients: list[float] = []
        self._weights: Tensor | None = None

    def on_train_batch_end(self, trainer: lightning.Trainer, module: PRDModule, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]) * module.unroll_steps)

    def on_before_optimizer_step(self, trainer: lightning.Trainer, module: PRDModule, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        gradients = [value.grad.flatten() for value in module.trainable_parameters() if value.grad is not None]
        self.gradients.append(float(torch.cat(gradients).norm()))

    def on_before_zero_grad(self, trainer: lightning.Trainer, module: PRDModule, optimizer: torch.optim.Optimizer) -> None:
        weights = torch.cat([value.detach().flatten() for value in module.trainable_parameters()])
        if self._weights is not None and (change := float((weights - self._weights).norm())):
            self.changes.append(change)
        self._weights = weights.clone()


def fit(folder: Path, *overrides: str, **settings: Any) -> tuple[PRDModule, Recorder]:
    config, recorder = compose_config([*SMALLEST, *overrides]), Recorder()
    torch.manual_seed(0)
    module = build_module(config)
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=STEPS, accumulate_grad_batches=2, callbacks=[recorder], default_root_dir=folder,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
        **{"precision": config.trainer.precision, "gradient_clip_val": config.trainer.gradient_clip_val, **settings},
    )  # fmt: skip
    trainer.fit(module, build_data(config))
    return module, recorder


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Recorder:
    """In 32 bits."""
    return fit(tmp_path_factory.mktemp("full"))[1]


@pytest.mark.parametrize("overrides", [["trainer.precision=bf16-mixed"], ["world.precision=bfloat16"]])
def test_sixteen_bits_train_with_nearly_the_same_losses(full, tmp_path, overrides):
    module, half = fit(tmp_path, *overrides)
    assert module.skipped_steps == 0 and len(half.losses) == 2 * STEPS
    assert all(value.dtype == torch.float32 for value in module.trainable_parameters()), "what is trained stays in 32 bits"
    teacher_type = torch.bfloat16 if "world" in overrides[0] else torch.float32
    assert {teacher.unet.dtype for teacher in module.teachers.values()} == {teacher_type}
    assert half.losses == pytest.approx(full.losses, rel=0.05) and half.losses != full.losses


def test_the_gradient_is_clipped_to_its_length_and_the_learning_rate_follows_its_schedule(tmp_path):
    sgd = ["optimizer._target_=torch.optim.SGD", "optimizer.lr=0.5", "~optimizer.betas", "~optimizer.eps"]
    schedule = ["module.learning_rate_factor=[0, 1.0, 0.5, 2]", "trainer.gradient_clip_val=0.01"]
    _, recorder = fit(tmp_path, *sgd, *schedule)
    assert recorder.rates == pytest.approx([0.5, 0.375, 0.25]), "linear over two optimizer steps, not micro-batches"
    assert min(recorder.gradients) > 0.01, "every gradient was longer"
    assert recorder.changes == pytest.approx([0.005, 0.00375], rel=1e-3), "the last step has no successor to see its change"
