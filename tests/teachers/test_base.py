"""The distillation that all diffusion teachers share, against the stated formulas written out and against autograd."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from prd_lightning.cameras import Cameras
from prd_lightning.draws import PromptDraws
from prd_lightning.errors import ConfigurationError
from prd_lightning.losses import LaterEstimate, distillation_gradient, shifted_time
from prd_lightning.rendering import RenderedMaps
from prd_lightning.teachers import DiffusionTeacher, Teacher
from prd_lightning.teachers.base import TeacherInput

MAP_NAMES = ("rgb", "opacity", "depth", "disparity", "normal_world", "normal_camera")
SETTINGS = {"weighting": "uniform", "t_min": 0.3, "t_max": 0.6}


class Recorder:
    """A noise predictor that keeps what it was asked and answers from a linear function of it."""

    def __init__(self, teacher: DiffusionTeacher, answer: Callable[..., Tensor] | None = None) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []
        self.answer = answer or (
            lambda noisy, t, tokens, labels: (
                0.1 * noisy + tokens.mean((1, 2))[:, None, None, None] + t[:, None, None, None] * 1e-3
            )
        )
        teacher.predict_noise = self

    def __call__(self, noisy: Tensor, t: Tensor, tokens: Tensor, labels: Tensor | None) -> Tensor:
        self.calls.append((noisy, t, tokens, labels))
        return self.answer(noisy, t, tokens, labels)


def score(teacher: Teacher, maps: dict[str, RenderedMaps], prompts: list[str], cameras: Cameras, step: int = 0, seed: int = 5):
    return teacher.map_gradients(maps, prompts, cameras, step, torch.Generator().manual_seed(seed))


OBJECTIVES = [{"weighting": "dmd"}, {"weighting": "dmd_mv"}, {"weighting": "uniform"}, {"space": "picture"}]


@pytest.mark.parametrize("settings", OBJECTIVES, ids=str)
@pytest.mark.parametrize("kind", ["normal_depth", "mvdream", "stable_diffusion"])
def test_map_gradient_is_that_of_the_stated_loss(request, make_maps, prompts, cameras, kind: str, settings: dict):
    """0.5 * sum (x - stop_gradient(x - gradient))^2 * share, differentiated by autograd down to the maps."""
    teacher = request.getfixturevalue(kind)(**settings)
    maps = {"volume": make_maps(1), "mesh": make_maps(2)}
    seen = []
    distill = teacher._distill
    teacher._distill = lambda *given: seen.append(distill(*given)) or seen[-1]
    result = score(teacher, maps, prompts, cameras)
    leaves = [{name: getattr(rendered, name) for name in teacher.map_names} for rendered in maps.values()]
    given = teacher.prepare(leaves, prompts, cameras, torch.Generator().manual_seed(5))
    clean = given.pictures if teacher.space == "picture" else given.clean
    gradient, _ = seen[0]
    loss = 0.5 * (clean - (clean - gradient).detach()).square().sum() * teacher.loss_share
    assert gradient.abs().max() > 1e-4
    torch.testing.assert_close(result.loss, loss.detach(), rtol=1e-4, atol=0.0)
    flat = [value for group in leaves for value in group.values()]
    ours = [result.gradients[renderer][name] for renderer in maps for name in teacher.map_names]
    for actual, expected in zip(ours, torch.autograd.grad(loss, flat), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["normal_depth", "stable_diffusion"])
def test_picture_space_points_from_the_decoded_estimate_to_the_picture(request, make_maps, prompts, cameras, kind: str):
    """Random draws replayed by hand: one t per prompt (single views: per picture), the estimate of the noised sample, decoded."""
    teacher = request.getfixturevalue(kind)(space="picture", guidance_scale=1.0, **SETTINGS)
    recorder = Recorder(teacher)
    maps = {"volume": make_maps(3)}
    draw = torch.Generator().manual_seed(6)
    given = teacher.prepare([{name: getattr(maps["volume"], name) for name in teacher.map_names}], prompts, cameras, draw)
    clean, repeats = given.clean.detach(), given.samples_per_prompt
    t = torch.randint(300, 601, (len(clean) // repeats,), generator=draw).repeat_interleave(repeats)
    noise = torch.randn(clean.shape, generator=draw)
    level = teacher.schedule.alphas_cumprod[t][:, None, None, None]
    noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
    tokens = teacher.prompt_encoder.encode(given.prompts).tokens.repeat_interleave(repeats, dim=0)
    estimate = (noisy - (1 - level).sqrt() * recorder.answer(noisy, t, tokens, None)) / level.sqrt()
    if kind == "stable_diffusion":
        estimate = teacher.vae.decode(estimate / teacher.vae.config.scaling_factor).sample / 2 + 0.5
    residual = given.pictures.detach() - estimate.detach().clamp(0, 1)
    expected = residual / (residual.abs().mean((1, 2, 3), keepdim=True) + 0.05)
    result = score(teacher, maps, prompts, cameras, seed=6)
    flat = [getattr(maps["volume"], name) for name in teacher.map_names]
    given = teacher.prepare([dict(zip(teacher.map_names, flat))], prompts, cameras, torch.Generator().manual_seed(6))
    on_maps = torch.autograd.grad(given.pictures, flat, grad_outputs=expected * teacher.loss_share)
    for name, gradient in zip(teacher.map_names, on_maps):
        torch.testing.assert_close(result.gradients["volume"][name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("weighting", ["dmd", "dmd_mv_later"])
def test_the_gradient_on_the_sample_follows_the_formulas(normal_depth, make_maps, prompts, cameras, weighting: str):
    """Random draws replayed by hand: one t and one u per prompt, guidance, the later time on the same noise."""
    teacher = normal_depth(weighting=weighting, guidance_scale=7.0, shift_ratio=0.5, t_min=0.3, t_max=0.6)
    recorder = Recorder(teacher)
    maps = {"volume": make_maps(3)}
    clean = torch.cat([maps["volume"].normal_camera, maps["volume"].disparity], dim=-1).permute(0, 3, 1, 2).detach()
    result = score(teacher, maps, prompts, cameras, seed=6)
    draw = torch.Generator().manual_seed(6)
    t = torch.randint(300, 601, (2,), generator=draw).repeat_interleave(4)
    noise = torch.randn(clean.shape, generator=draw)
    later = shifted_time(t, 300, 0.5, torch.rand(2, generator=draw).repeat_interleave(4), 1000)
    abar = teacher.schedule.alphas_cumprod

    def predict(time: Tensor, texts: list[str]) -> Tensor:
        level = abar[time][:, None, None, None]
        tokens = teacher.prompt_encoder.encode(texts).tokens.repeat_interleave(4, dim=0)
        return recorder.answer(level.sqrt() * clean + (1 - level).sqrt() * noise, time, tokens, None)

    free = predict(t, ["", ""])
    guided = free + 7.0 * (predict(t, prompts) - free)
    student = predict(later, prompts)
    at_later = LaterEstimate(free + 7.0 * (student - free), abar[later])
    gradient = distillation_gradient(clean, guided, student, abar[t], weighting, 4, later=at_later)
    assert not torch.equal(t, later)
    torch.testing.assert_close(result.loss, 0.5 * gradient.square().sum() / 4, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        result.gradients["volume"]["disparity"], gradient[:, 3:].permute(0, 2, 3, 1) / 4, rtol=1e-3, atol=1e-6
    )


def test_the_student_of_sds_is_the_noise(normal_depth, make_maps, prompts, cameras):
    """A teacher that predicts nothing leaves gradient = -noise."""
    teacher = normal_depth(student="sds", **SETTINGS)
    recorder = Recorder(teacher, lambda noisy, *_: torch.zeros_like(noisy))
    result = score(teacher, {"volume": make_maps()}, prompts, cameras, seed=8)
    draw = torch.Generator().manual_seed(8)
    torch.randint(300, 601, (2,), generator=draw)
    noise = torch.randn(8, 4, 8, 8, generator=draw)
    torch.testing.assert_close(result.gradients["volume"]["disparity"], -noise[:, 3:].permute(0, 2, 3, 1) / 4)
    assert len(recorder.calls[0][0]) == 2 * 8, "no third prediction"


def test_without_a_shift_the_student_is_the_conditional_prediction(normal_depth, make_maps, prompts, cameras):
    """e_teacher - e_student = (s - 1) (e(y) - e(0)); with s = 1 nothing is left and the empty prompt is not asked for."""
    teacher = normal_depth(guidance_scale=1.0, shift_ratio=0.0, **SETTINGS)
    recorder = Recorder(teacher)
    assert score(teacher, {"volume": make_maps()}, prompts, cameras).loss == 0
    assert len(recorder.calls[0][0]) == 8


def test_a_velocity_is_turned_into_the_noise(normal_depth, monkeypatch):
    """v = sqrt(abar) eps - sqrt(1 - abar) z_0, from diffusers, for a network that answers with it exactly."""
    clean, noise, t = torch.rand(4, 4, 8, 8), torch.randn(4, 4, 8, 8), torch.tensor([50, 400, 700, 990])
    velocity = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").get_velocity(clean, noise, t)
    teacher = normal_depth()
    monkeypatch.setattr(teacher.schedule, "prediction_type", "v_prediction")
    monkeypatch.setattr(teacher.unet, "forward", lambda *_, **__: SimpleNamespace(sample=velocity))
    noisy = teacher.schedule.add_noise(clean, noise, t)
    tokens, labels = torch.zeros(4, 77, 64), torch.zeros(4, 16)
    torch.testing.assert_close(teacher.predict_noise(noisy, t, tokens, labels), noise, atol=1e-5, rtol=1e-5)


def test_samples_of_a_prompt_share_time_and_prompts_do_not(normal_depth, make_maps, prompts, cameras):
    teacher = normal_depth(shift_ratio=0.3, **SETTINGS)
    recorder = Recorder(teacher)
    score(teacher, {"volume": make_maps(1), "mesh": make_maps(2)}, prompts, cameras)
    _, times, _, labels = recorder.calls[0]
    at_t, free, later = times.view(3, 4, 4)
    assert torch.equal(at_t, free)
    assert (times.view(12, 4) == times.view(12, 4)[:, :1]).all()
    assert len(set(at_t[:, 0].tolist())) > 1
    assert (later >= at_t).all() and (later > at_t).any()
    assert torch.equal(labels.view(3, 16, 16)[0], labels.view(3, 16, 16)[2])


def test_times_stay_within_the_scheduled_bounds(normal_depth, make_maps, prompts, cameras):
    teacher = normal_depth(t_min=[0, 0.5, 0.1, 100], t_max=[0, 0.6, 0.2, 100], shift_ratio=0.0, weighting="uniform")
    recorder = Recorder(teacher)
    for step, low, high in ((0, 500, 600), (50, 300, 400), (100, 100, 200)):
        recorder.calls.clear()
        for seed in range(20):
            score(teacher, {"volume": make_maps()}, prompts, cameras, step, seed)
        times = torch.cat([call[1] for call in recorder.calls])
        assert low <= int(times.min()) < low + 25 and high - 25 < int(times.max()) <= high


def test_the_largest_time_is_the_last_timestep(normal_depth, make_maps, prompts, cameras):
    teacher = normal_depth(t_min=1.0, t_max=1.0, weighting="uniform")
    recorder = Recorder(teacher)
    score(teacher, {"volume": make_maps()}, prompts, cameras)
    assert set(recorder.calls[0][1].tolist()) == {999}


def test_guidance_follows_its_schedule(normal_depth, make_maps, prompts, cameras):
    """The gradient is (s - 1) times the difference of two predictions, so the loss grows with (s - 1)^2."""
    losses = []
    for guidance in (3.0, [0, 5.0, 3.0, 10]):
        teacher = normal_depth(guidance_scale=guidance, shift_ratio=0.0, **SETTINGS)
        losses.append([float(score(teacher, {"volume": make_maps()}, prompts, cameras, step).loss) for step in (0, 10)])
    assert losses[0][0] == pytest.approx(losses[0][1])
    assert losses[1][0] == pytest.approx(4 * losses[0][0], rel=1e-3)
    assert losses[1][1] == pytest.approx(losses[0][0], rel=1e-4)


def test_nan_predictions_are_counted_and_their_gradient_is_zero(normal_depth, make_maps, prompts, cameras):
    teacher = normal_depth(**SETTINGS)

    def answer(noisy: Tensor, *_: object) -> Tensor:
        predicted = noisy.clone()
        predicted[3] = float("nan")
        predicted[5, 0, 0, 0] = float("inf")
        return predicted

    Recorder(teacher, answer)
    result = score(teacher, {"volume": make_maps()}, prompts, cameras)
    assert result.nonfinite == 2
    assert torch.isfinite(result.loss)
    gradient = result.gradients["volume"]["normal_camera"]
    assert torch.isfinite(gradient).all()
    assert [bool(view.any()) for view in gradient] == [index not in (3, 5) for index in range(8)]


def test_no_graph_survives_and_the_maps_are_left_alone(normal_depth, make_maps, prompts, cameras):
    teacher, maps = normal_depth(), make_maps()
    result = score(teacher, {"volume": maps}, prompts, cameras)
    assert not result.loss.requires_grad
    assert not any(gradient.requires_grad for gradient in result.gradients["volume"].values())
    assert maps.disparity.grad is None and maps.normal_camera.grad is None
    assert set(result.gradients["volume"]) == {"normal_camera", "disparity"}


def test_works_where_gradients_are_switched_off(normal_depth, make_maps, prompts, cameras):
    with torch.no_grad():
        quiet = score(normal_depth(), {"volume": make_maps()}, prompts, cameras)
    assert torch.equal(quiet.loss, score(normal_depth(), {"volume": make_maps()}, prompts, cameras).loss)


def test_frozen_and_always_in_evaluation_mode(stable_diffusion):
    teacher = stable_diffusion().train()
    assert not any(module.training for module in teacher.modules())
    assert not [name for name, value in teacher.named_parameters() if value.requires_grad]


def test_two_renderers_cost_one_call_and_keep_their_own_gradient(normal_depth, make_maps, prompts, cameras):
    teacher = normal_depth(**SETTINGS)
    recorder = Recorder(teacher, lambda noisy, t, tokens, labels: noisy**2 * tokens.mean((1, 2))[:, None, None, None])
    result = score(teacher, {"volume": make_maps(1), "mesh": make_maps(2)}, prompts, cameras)
    assert len(recorder.calls) == 1
    assert not torch.allclose(result.gradients["volume"]["disparity"], result.gradients["mesh"]["disparity"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weighting": "best"}, "unknown weighting 'best'"),
        ({"student": "vsd"}, "'asd' or 'sds', got 'vsd'"),
        ({"t_min": 1.5}, "t_min is a share"),
        ({"t_max": [0, -0.1, 0.5, 10]}, "t_max is a share"),
        ({"renderers": ("volume", "points")}, "unknown renderers .*points"),
        ({"weight": [0, 1.0]}, "a schedule is"),
    ],
)
def test_mistakes_are_named(normal_depth, settings: dict, message: str):
    with pytest.raises(ConfigurationError, match=message):
        normal_depth(**settings)


def test_teacher_input_holds_one_prompt_for_each_group(mvdream, make_maps, prompts, cameras):
    teacher = mvdream()
    given = teacher.prepare([{"rgb": make_maps(1).rgb}, {"rgb": make_maps(2).rgb}], prompts, cameras, None)
    assert isinstance(given, TeacherInput)
    assert given.prompts == [*prompts, *prompts] and given.samples_per_prompt == 4
    assert len(given.clean) == len(given.labels) == 16


@pytest.mark.parametrize("kind", ["normal_depth", "mvdream", "stable_diffusion"])
def test_a_prompt_is_scored_as_if_it_were_alone(request, make_maps, prompts, cameras, close, kind: str):
    """Two prompts in one batch, and each by itself, with two renderers: the same gradients on the maps."""
    teacher = request.getfixturevalue(kind)(**(SETTINGS | {"shift_ratio": 0.5}))
    maps, seeds = {"volume": make_maps(1), "mesh": make_maps(2)}, [3, 4]
    together = teacher.map_gradients(maps, prompts, cameras, 0, PromptDraws(1, seeds))
    for index in range(2):
        views = slice(4 * index, 4 * index + 4)
        own = {
            name: RenderedMaps(*(getattr(rendered, item)[views] for item in MAP_NAMES)) for name, rendered in maps.items()
        }
        draws = PromptDraws(1, seeds[index : index + 1])
        alone = teacher.map_gradients(own, prompts[index : index + 1], cameras.select(views), 0, draws)
        for renderer, gradients in alone.gradients.items():
            for name, gradient in gradients.items():
                assert gradient.abs().max() > 0
                close(together.gradients[renderer][name][views], gradient, 1e-4, f"{renderer} {name}")
