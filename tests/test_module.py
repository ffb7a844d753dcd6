"""What the unroll promises: one render per micro-batch, one optimizer step per cycle, no gradient across unroll steps."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import nn

from prd_lightning.architecture import Architecture
from prd_lightning.cameras import CameraSettings
from prd_lightning.data import ListPrompts, PromptBatch, PromptDataModule
from prd_lightning.errors import CheckpointFormatError, ConfigurationError, NonFiniteError
from prd_lightning.module import PRDModule, surrogate_loss
from prd_lightning.rendering import MeshRenderer, RenderedMaps, VolumeRenderer
from prd_lightning.teachers import TeacherResult
from prd_lightning.tinyworld.oracle import OracleTeacher

K = 3
PROMPTS = ["a red cube", "a green torus"]
TINY = {"plane_channels": 8, "rank": 2, "latent_size": 8, "hidden": 16}


class CountingVolumeRenderer(VolumeRenderer):
    """Counts its calls and keeps the planes that it was given."""

    def __init__(self) -> None:
        super().__init__(8, None, proposal_samples=8, fine_samples=6, bounding_radius=1.0, color_samples=3, stratified=False)
        self.calls = 0

    def forward(self, *given: Any) -> RenderedMaps:
        self.calls += 1
        return super().forward(*given)


class RecordingOracle(OracleTeacher):
    """An exact teacher that remembers the prompts it saw and can answer NaN."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.prompts: list[list[str]] = []
        self.poisoned = False

    def map_gradients(self, maps: Any, prompts: list[str], *given: Any, **named: Any) -> TeacherResult:
        self.prompts.append(list(prompts))
        result = super().map_gradients(maps, prompts, *given, **named)
        if self.poisoned:
            gradients = {
                name: {key: value * float("nan") for key, value in group.items()} for name, group in result.gradients.items()
            }
            return TeacherResult(result.loss, gradients)
        return result


def make_module(renderers: dict[str, nn.Module] | None = None, **settings: Any) -> PRDModule:
    torch.manual_seed(0)
    renderers = renderers or {"volume": CountingVolumeRenderer()}
    return PRDModule(
        Architecture("tinyworld:stable_diffusion", **(TINY | settings.pop("architecture", {}))),
        renderers,
        {"oracle": RecordingOracle(renderers=tuple(renderers))},
        partial(torch.optim.SGD, lr=settings.pop("lr", 1e-3)),
        **({"unroll_steps": K} | settings),
    )


def make_data(**settings: Any) -> PromptDataModule:
    given = {"batch_size": 1, "unroll_steps": K, "cameras": CameraSettings(views_per_prompt=2)} | settings
    return PromptDataModule(ListPrompts(PROMPTS), **given)


def make_trainer(**settings: Any) -> lightning.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(**({"accelerator": "cpu", "max_steps": 2, "accumulate_grad_batches": K} | quiet | settings))


def batches(count: int = K, **settings: Any) -> list[PromptBatch]:
    stream = iter(make_data(**settings).train_dataloader())
    return [next(stream) for _ in range(count)]


def test_no_gradient_crosses_unroll_steps():
    """The latents that a step hands on have no graph. (The step itself is differentiable in what it was handed.)"""
    module = make_module()
    first, second, _ = batches()
    assert module.unroll(first)["volume"].rgb.requires_grad
    handed_on = module._latents
    assert not handed_on.requires_grad and handed_on.grad_fn is None
    module._latents = handed_on.clone().requires_grad_()
    leaf = module._latents
    maps = module.unroll(second)
    assert not module._latents.requires_grad and module._latents.grad_fn is None
    maps["volume"].rgb.sum().backward()
    assert leaf.grad is not None and leaf.grad.any()


def test_latents_are_handed_on_within_a_cycle_and_dropped_at_its_end():
    module = make_module()
    held = []
    for batch in batches(K + 1):
        module.unroll(batch)
        held.append(module._latents)
    assert [value is None for value in held] == [False] * (K - 1) + [True, False]
    assert not torch.allclose(held[0], held[1])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_unroll_follows_the_equations(prediction_type: str):
    module = make_module()
    module.noise_schedule.prediction_type = prediction_type
    first, second, _ = batches()
    module.unroll(first)
    previous = module._latents
    module.unroll(second)
    abar, t = module.noise_schedule.alphas_cumprod, 666
    eps = torch.randn(6, 4, 8, 8, generator=second.draws("latents").prompts[0])
    noisy = abar[t].sqrt() * previous + (1 - abar[t]).sqrt() * eps
    with torch.no_grad():
        predicted = module.generator.predict(noisy, t, module.prompt_encoder.encode(second.prompts).tokens)
    expected = (noisy - (1 - abar[t]).sqrt() * predicted) / abar[t].sqrt()
    if prediction_type == "v_prediction":
        expected = abar[t].sqrt() * noisy - (1 - abar[t]).sqrt() * predicted
    torch.testing.assert_close(module._latents, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", [[1], [0, 2], [0, 1, 2, 1]])
def test_micro_batches_out_of_order_are_refused(order: list[int]):
    module, cycle = make_module(), batches()
    with pytest.raises(ConfigurationError, match="does not follow"):
        for index in order:
            module.unroll(cycle[index])


def test_k_renders_and_one_optimizer_step_per_cycle():
    module = make_module()
    steps = []
    optimizer = module.make_optimizer

    def counted(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        made = optimizer(parameters)
        made.register_step_post_hook(lambda *_: steps.append(module.renderers["volume"].calls))
        return made

    module.make_optimizer = counted
    make_trainer().fit(module, make_data())
    assert steps == [K, 2 * K]
    assert module.teachers["oracle"].prompts == [[PROMPTS[0]]] * K + [[PROMPTS[1]]] * K


def test_the_accumulated_gradient_is_the_mean_over_the_unroll():
    module, cycle = make_module(), batches()
    module.log = lambda *_, **__: None
    module._trainer = make_trainer()
    total = [torch.zeros_like(value) for value in module.trainable_parameters()]
    for batch in cycle:
        gradients = torch.autograd.grad(module.training_step(batch, 0), module.trainable_parameters(), allow_unused=True)
        for summed, gradient in zip(total, gradients):
            summed += 0 if gradient is None else gradient / K
    before = [value.detach().clone() for value in module.trainable_parameters()]
    trained = make_module(lr=1.0)
    make_trainer(max_steps=1).fit(trained, make_data())
    for old, new, gradient in zip(before, trained.trainable_parameters(), total, strict=True):
        torch.testing.assert_close(old - new, gradient, rtol=1e-3, atol=1e-5)


def test_the_frozen_base_does_not_change():
    module = make_module(lr=0.1)
    frozen = {name: value.detach().clone() for name, value in module.named_parameters() if not value.requires_grad}
    trainable = {name: value.detach().clone() for name, value in module.named_parameters() if value.requires_grad}
    make_trainer().fit(module, make_data())
    now = dict(module.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    assert any(not torch.equal(now[name], value) for name, value in trainable.items())


def test_both_renderers_train():
    mesh = MeshRenderer(resolution=16, image_size=16, rasterizer="torch")
    module = make_module({"volume": CountingVolumeRenderer(), "mesh": mesh})
    make_trainer(max_steps=1).fit(module, make_data())
    assert module.skipped_steps == 0


def test_an_accumulation_that_does_not_fit_is_an_error():
    with pytest.raises(ConfigurationError, match="accumulate_grad_batches is 2 but unroll_steps is 3"):
        make_trainer(accumulate_grad_batches=2).fit(make_module(), make_data())


def test_a_step_with_a_nan_gradient_is_skipped_and_counted():
    module = make_module(lr=0.1)
    module.teachers["oracle"].poisoned = True
    before = [value.detach().clone() for value in module.trainable_parameters()]
    trainer = make_trainer()
    trainer.fit(module, make_data())
    assert module.skipped_steps == 2 and trainer.callback_metrics["train/skipped_steps"] == 2
    assert all(torch.equal(old, new) for old, new in zip(before, module.trainable_parameters(), strict=True))


def test_a_loss_that_is_not_finite_leaves_the_step_out_even_with_a_finite_gradient(monkeypatch: pytest.MonkeyPatch):
    module = make_module(lr=0.1, unroll_steps=1)
    monkeypatch.setattr(module, "_regularization", lambda maps: torch.tensor(float("inf")))
    before = [value.detach().clone() for value in module.trainable_parameters()]
    make_trainer(max_steps=1, accumulate_grad_batches=1).fit(module, make_data(unroll_steps=1))
    assert module.skipped_steps == 1
    assert all(torch.equal(old, new) for old, new in zip(before, module.trainable_parameters(), strict=True))


def test_training_stops_after_a_set_number_of_skipped_steps_in_a_row():
    module = make_module(max_nonfinite_steps=2, unroll_steps=1)
    module.teachers["oracle"].poisoned = True
    with pytest.raises(NonFiniteError, match="2 optimizer steps in a row"):
        make_trainer(max_steps=5, accumulate_grad_batches=1).fit(module, make_data(unroll_steps=1))
    assert module.skipped_steps == 2


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, partial(torch.optim.SGD, momentum=0.9)])
def test_a_skipped_step_changes_neither_weights_nor_the_optimizer_s_state(optimizer: Any):
    """Momentum and weight decay would move weights even with a zero gradient."""
    module = make_module()
    module.make_optimizer = partial(optimizer, lr=0.1, weight_decay=0.1)
    snapshots = []

    class PoisonAfterOneStep(lightning.Callback):
        def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
            if trainer.global_step == 1:
                module.teachers["oracle"].poisoned = True
                if not snapshots:
                    snapshots.extend(value.detach().clone() for value in module.trainable_parameters())

    make_trainer(callbacks=[PoisonAfterOneStep()]).fit(module, make_data())
    assert module.skipped_steps == 1
    assert all(torch.equal(old, new) for old, new in zip(snapshots, module.trainable_parameters(), strict=True))


def test_a_checkpoint_holds_the_trainable_part_alone_and_restores_it(tmp_path: Path):
    module = make_module(lr=0.1)
    trainer = make_trainer(max_steps=1)
    trainer.fit(module, make_data())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    checkpoint = torch.load(tmp_path / "run.ckpt", weights_only=True)
    trainable = {name for name, value in module.named_parameters() if value.requires_grad}
    assert set(checkpoint["state_dict"]) == trainable
    assert checkpoint["architecture"] == module.architecture.to_dict()
    restored = make_module()
    make_trainer(max_steps=1).fit(restored, make_data(), ckpt_path=tmp_path / "run.ckpt")
    for name, value in restored.trainable_state_dict().items():
        assert torch.equal(value, module.trainable_state_dict()[name]), name


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path):
    trainer = make_trainer(max_steps=1)
    trainer.fit(make_module(), make_data())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    with pytest.raises(CheckpointFormatError, match="rank=2 but this run has rank=3"):
        make_trainer().fit(make_module(architecture={"rank": 3}), make_data(), ckpt_path=tmp_path / "run.ckpt")


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path):
    def run(steps: int, resume: Path | None = None) -> tuple[PRDModule, lightning.Trainer]:
        module, trainer = make_module(), make_trainer(max_steps=steps)
        trainer.fit(module, make_data(), ckpt_path=resume)
        return module, trainer

    whole, _ = run(2)
    _, trainer = run(1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = run(2, tmp_path / "half.ckpt")
    for name, value in whole.trainable_state_dict().items():
        torch.testing.assert_close(resumed.trainable_state_dict()[name], value, rtol=1e-5, atol=1e-7)


def test_shuffled_prompts_go_to_the_teacher_alone():
    module = make_module(shuffle_teacher_prompts=True)
    encoded = []
    encode = module.prompt_encoder.encode
    module.prompt_encoder.encode = lambda prompts: encoded.append(list(prompts)) or encode(prompts)
    make_trainer(max_steps=1).fit(module, make_data(batch_size=2))
    assert encoded == [PROMPTS] * K
    assert module.teachers["oracle"].prompts == [PROMPTS[::-1]] * K


def test_surrogate_loss_has_the_teacher_s_value_and_gradient():
    rgb = torch.rand(1, 2, 2, 3, requires_grad=True)
    others = [torch.zeros(1, 2, 2, channels) for channels in (1, 1, 1, 3, 3)]
    gradient = torch.randn_like(rgb)
    loss = surrogate_loss({"volume": RenderedMaps(rgb, *others)}, TeacherResult(torch.tensor(7.0), {"volume": {"rgb": gradient}}))
    loss.backward()
    assert loss.item() == pytest.approx(7.0)
    assert torch.equal(rgb.grad, gradient)


def test_mistakes_are_named():
    with pytest.raises(ConfigurationError, match="a renderer and a teacher"):
        PRDModule(Architecture("tinyworld:stable_diffusion", **TINY), {}, {}, torch.optim.SGD)
    with pytest.raises(ConfigurationError, match="teacher 'oracle' scores .*mesh.* but the renderers are .*volume"):
        PRDModule(
            Architecture("tinyworld:stable_diffusion", **TINY),
            {"volume": CountingVolumeRenderer()},
            {"oracle": OracleTeacher(renderers=("mesh",))},
            torch.optim.SGD,
        )
