"""The average of the trained weights: its numbers, what it is used for, and resuming with it."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor
from untrained import ARCHITECTURE

from prd_lightning.callbacks import FolderCheckpointIO, MeshCallback, PreviewCallback, WeightAveraging, averaged_weights, previews
from prd_lightning.cameras import CameraSettings
from prd_lightning.checkpoints import GENERATOR_FILE, load_generator
from prd_lightning.data import ListPrompts, PromptDataModule
from prd_lightning.errors import CheckpointFormatError, ConfigurationError
from prd_lightning.module import PRDModule
from prd_lightning.rendering import MeshRenderer, VolumeRenderer
from prd_lightning.tinyworld.oracle import OracleTeacher

PROMPTS = ["a red cone", "a blue cube"]


def copy_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], value) for name, value in second.items())


class Recorder(lightning.Callback):
    """Keeps the weights after every optimizer step, from before the first."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: lightning.Trainer, module: PRDModule) -> None:
        self.weights.append(copy_of(module.trainable_state_dict()))

    def on_train_batch_end(self, trainer: lightning.Trainer, module: PRDModule, *_: Any) -> None:
        if trainer.global_step == len(self.weights):
            self.weights.append(copy_of(module.trainable_state_dict()))


def fit(
    steps: int, averaging: WeightAveraging | None, *others: lightning.Callback, checkpoint: Path | None = None
) -> tuple[PRDModule, lightning.Trainer]:
    torch.manual_seed(0)
    renderer = VolumeRenderer(8, None, proposal_samples=8, fine_samples=6, bounding_radius=1.0, color_samples=3)
    module = PRDModule(
        ARCHITECTURE,
        {"volume": renderer},
        {"oracle": OracleTeacher(renderers=("volume",))},
        partial(torch.optim.Adam, lr=1e-2),
        unroll_steps=1,
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        accumulate_grad_batches=1,
        callbacks=[*([averaging] if averaging else []), *others],
        plugins=[FolderCheckpointIO()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = PromptDataModule(ListPrompts(PROMPTS), batch_size=1, unroll_steps=1, cameras=CameraSettings(views_per_prompt=1))
    trainer.fit(module, data, ckpt_path=checkpoint)
    return module, trainer


def test_the_average_follows_its_definition(close):
    averaging, recorder = WeightAveraging(decay=0.6, warmup=3), Recorder()
    fit(4, averaging, recorder)
    expected = {name: value.double() for name, value in recorder.weights[0].items()}
    for decay, weights in zip([1 / 3, 2 / 4, 0.6, 0.6], recorder.weights[1:], strict=True):
        expected = {name: decay * value + (1 - decay) * weights[name].double() for name, value in expected.items()}
    for name, value in averaging.average.items():
        close(value, expected[name], 1e-5, name)
    assert averaging.updates == 4


def test_the_average_is_swapped_in_and_out_even_after_an_error():
    averaging = WeightAveraging(0.9)
    module, trainer = fit(2, averaging)
    own = copy_of(module.trainable_state_dict())
    without, _ = fit(2, None)
    assert same(own, without.trainable_state_dict()), "training is not touched by an average"
    with pytest.raises(RuntimeError, match="inside"), averaged_weights(trainer, module):
        assert same(module.trainable_state_dict(), averaging.average) and not same(own, averaging.average)
        raise RuntimeError("inside")
    assert same(module.trainable_state_dict(), own)


def test_previews_and_meshes_are_made_with_the_average(tmp_path, monkeypatch):
    averaging, seen = WeightAveraging(0.9), []
    monkeypatch.setattr(previews, "preview_sheet", lambda *_: None)
    monkeypatch.setattr(previews, "render_prompts", lambda module, *_: seen.append(copy_of(module.trainable_state_dict())))
    monkeypatch.setattr(
        previews, "export_meshes", lambda module, *_: seen.append(copy_of(module.trainable_state_dict())) or []
    )
    renderer = MeshRenderer(8, 16, rasterizer="torch")
    fit(2, averaging, PreviewCallback(PROMPTS, tmp_path, renderer, every_n_steps=0), MeshCallback(PROMPTS, tmp_path))
    assert len(seen) == 3 and not same(seen[0], averaging.average)
    assert same(seen[1], averaging.average) and same(seen[2], averaging.average)


def test_a_checkpoint_holds_both_and_resuming_is_exact(tmp_path):
    whole_average = WeightAveraging(0.9)
    whole, _ = fit(4, whole_average)
    half_average = WeightAveraging(0.9)
    half, trainer = fit(2, half_average)
    trainer.save_checkpoint(tmp_path / "half")
    tensors, header = load_generator(tmp_path / "half" / GENERATOR_FILE)
    assert same(tensors, half_average.average) and header == half.architecture.to_dict()
    resumed_average = WeightAveraging(0.9)
    resumed, _ = fit(4, resumed_average, checkpoint=tmp_path / "half")
    assert same(resumed.trainable_state_dict(), whole.trainable_state_dict())
    assert same(resumed_average.average, whole_average.average) and resumed_average.updates == 4


def test_an_average_may_begin_or_end_when_a_training_is_resumed(tmp_path):
    whole, _ = fit(3, None)
    _, trainer = fit(1, None)
    trainer.save_checkpoint(tmp_path / "without")
    averaging = WeightAveraging(0.9)
    module, trainer = fit(2, averaging, checkpoint=tmp_path / "without")
    assert averaging.updates == 1 and trainer.global_step == 2
    trainer.save_checkpoint(tmp_path / "with")
    ended, _ = fit(3, None, checkpoint=tmp_path / "with")
    assert same(ended.trainable_state_dict(), whole.trainable_state_dict())


def test_bad_numbers(tmp_path):
    for decay in (-0.1, 1.0):
        with pytest.raises(ConfigurationError, match="ema.decay"):
            WeightAveraging(decay)
    with pytest.raises(ConfigurationError, match="ema.warmup"):
        WeightAveraging(0.9, warmup=0)
    with pytest.raises(CheckpointFormatError, match="no number of steps"):
        WeightAveraging().on_load_checkpoint(None, None, {"averaged_state_dict": {}, "averaged_updates": "many"})
