"""Distillation gradients, losses, time shifts and schedules against the recorded ones."""

from typing import get_args

import pytest
import torch

from prd_lightning.losses import Weighting, distillation_gradient, scheduled, shifted_time
from prd_lightning.teachers import DiffusionTeacher, MVDreamTeacher, NormalDepthTeacher, StableDiffusionTeacher

TEACHERS = {"mv": MVDreamTeacher, "rd": NormalDepthTeacher, "sd": StableDiffusionTeacher}


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("asd_loss_tiny")


def cases(recorded):
    """Recorded cases of the weightings that the library has (the original has experimental ones besides)."""
    chosen = [case for case in recorded.settings["cases"] if case.split("/")[1] in get_args(Weighting)]
    assert {case.split("/")[1] for case in chosen} == set(get_args(Weighting)) and any("/dual" in case for case in chosen)
    return chosen


def share_of(recorded, family):
    """What the teacher of that family multiplies its loss with."""
    share = TEACHERS[family].loss_share
    views = recorded.settings["n_view"]
    return share.fget(type("Views", (), {"views": views}))


def test_gradients_and_losses(recorded, close):
    for case in cases(recorded):
        family, weighting, *dual = case.split("/")
        ends = ("", "_2nd") if dual else ("",)

        def both(name, ends=ends):
            return torch.cat([recorded.inputs[f"{name}{end}"] for end in ends])

        scale = recorded.settings["cases"][case]["guidance_scale"]
        unconditional = both("eps_uncond")
        guided = unconditional + scale * (both("eps_text") - unconditional)
        level = recorded.inputs["alphas_cumprod"][recorded.inputs[f"{case}/t"]]
        views = 1 if family == "sd" else recorded.settings["n_view"]
        gradient = distillation_gradient(
            both("latents"), guided, both("eps_text_plus"), level, weighting, views, recorded.settings["eps"]
        )
        close(gradient, recorded.outputs[f"{case}/grad"], 1e-5, case)
        share = share_of(recorded, family)
        assert share == recorded.settings["cases"][case]["ratio_dloss_over_grad"]
        parts = gradient.chunk(len(ends))
        losses = torch.stack([0.5 * part.square().sum() * share for part in parts])
        close(losses, recorded.outputs[f"{case}/loss"].reshape(-1), 1e-5, case)
        norms = torch.stack([part.norm() for part in parts])
        close(norms, recorded.outputs[f"{case}/grad_norm"].reshape(-1), 1e-5, case)
        for end, part in zip(ends, parts):
            close(part * share, recorded.outputs[f"{case}/dloss_dlatents{end}"], 1e-5, f"{case}{end}")


def test_time_shift(recorded):
    """The original knows further shifts; the method's is its first, linear one, recorded at its far end (u = 1)."""
    chosen = [
        entry for entry in recorded.settings["t_plus"] if (entry["t_plus_type"], entry["schedule"]) == ("v1", "linear")
    ]
    assert len({entry["ratio"] for entry in chosen}) > 1
    total = len(recorded.inputs["alphas_cumprod"])
    for entry in chosen:
        later = shifted_time(torch.tensor(entry["t"]), entry["min_step"], entry["ratio"], 1.0, total)
        assert later.tolist() == entry["t_plus"], entry


def test_random_time_shift(recorded):
    ((name, entry),) = ((key, value) for key, value in recorded.settings.items() if key.startswith("t_plus_random_seed"))
    times = torch.tensor(entry["t"])
    seed = int(name.removeprefix("t_plus_random_seed"))
    share = torch.rand(len(times), generator=torch.Generator().manual_seed(seed))
    total = len(recorded.inputs["alphas_cumprod"])
    assert shifted_time(times, entry["min_step"], entry["ratio"], share, total).tolist() == entry["t_plus"]


def test_schedules(recorded):
    """Numbers and ``[start_step, start, end, end_step]``, linear and counted in steps.

    The original also has curves of several pieces, geometric ones, and ends in epochs (given as a float).
    """
    checked = set()
    for entry in recorded.settings["C"]:
        value = entry["value"]
        other_length = isinstance(value, list) and len(value) != 4
        if other_length or entry["form"].endswith("_exp") or (isinstance(value, list) and isinstance(value[3], float)):
            continue
        assert scheduled(value, entry["step"]) == pytest.approx(entry["result"], rel=1e-9, abs=1e-12), entry
        checked.add(entry["form"])
    assert len(checked) > 1, "numbers and lists of four"


def test_bounds_of_the_noise_level(recorded):
    """The defaults of the teachers follow the recorded schedule."""
    import inspect

    defaults = inspect.signature(DiffusionTeacher.__init__).parameters
    guidance = inspect.signature(MVDreamTeacher.__init__).parameters["guidance_scale"].default
    total = len(recorded.inputs["alphas_cumprod"])
    for entry in recorded.settings["update_step"]:
        step = entry["step"]
        assert int(scheduled(defaults["t_min"].default, step) * total) == entry["min_step"], entry
        assert int(scheduled(defaults["t_max"].default, step) * total) == entry["max_step"], entry
        assert scheduled(guidance, step) == pytest.approx(entry["mv_guidance_scale"])
