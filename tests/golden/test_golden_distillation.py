"""Distillation gradients, losses, time shifts and schedules against the recorded ones."""

from typing import get_args

import pytest
import torch

from prd_lightning.losses import LaterEstimate, TimeShift, TrainingStep, Weighting, distillation_gradient, scheduled
from prd_lightning.teachers import DiffusionTeacher, MVDreamTeacher, NormalDepthTeacher, StableDiffusionTeacher

TEACHERS = {"mv": MVDreamTeacher, "rd": NormalDepthTeacher, "sd": StableDiffusionTeacher}

# What the original's names are called here.
WEIGHTINGS = {"dmd+1": "dmd_later", "dmd_mv+1": "dmd_mv_later"}
SHIFTS = {
    "v1": {"curve": "linear", "limit": "before_draw"},
    "v2": {"curve": "linear", "limit": "after_draw"},
    "v3": {"curve": "proportional", "limit": "before_draw"},
    "v4": {"curve": "proportional", "limit": "after_draw"},
}


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("asd_loss_tiny")


def ours(weighting):
    return WEIGHTINGS.get(weighting, weighting)


def test_every_recorded_weighting_is_known(recorded):
    """And the other way round: every weighting of the library is recorded, and with two renderers too."""
    recorded_names = {ours(case.split("/")[1]) for case in recorded.settings["cases"]}
    assert recorded_names == set(get_args(Weighting)) and any("/dual" in case for case in recorded.settings["cases"])


def share_of(recorded, family):
    """What the teacher of that family multiplies its loss with."""
    share = TEACHERS[family].loss_share
    views = recorded.settings["n_view"]
    return share.fget(type("Views", (), {"views": views}))


def test_gradients_and_losses(recorded, close):
    for case in recorded.settings["cases"]:
        family, weighting, *dual = case.split("/")
        ends = ("", "_2nd") if dual else ("",)

        def both(name, ends=ends):
            return torch.cat([recorded.inputs[f"{name}{end}"] for end in ends])

        scale = recorded.settings["cases"][case]["guidance_scale"]
        unconditional = both("eps_uncond")
        guided = unconditional + scale * (both("eps_text") - unconditional)
        student = both("eps_text_plus")
        level, later = (recorded.inputs["alphas_cumprod"][recorded.inputs[f"{case}/{name}"]] for name in ("t", "t_plus"))
        at_later = LaterEstimate(unconditional + scale * (student - unconditional), later)
        views = 1 if family == "sd" else recorded.settings["n_view"]
        gradient = distillation_gradient(
            both("latents"), guided, student, level, ours(weighting), views, recorded.settings["eps"], at_later
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


def shift_of(kind, schedule, ratio):
    """The library's shift for the original's ``t_plus_type`` and ``plus_schedule`` (``linear``, ``sqrt`` or ``sqrt_OFFSET``)."""
    named, _, offset = schedule.partition("_")
    if named == "sqrt":
        return TimeShift(ratio, **(SHIFTS[kind] | {"curve": "root", "offset": float(offset or 0)}))
    assert schedule == "linear"
    return TimeShift(ratio, **SHIFTS[kind])


def test_time_shift(recorded):
    """Every type and schedule, at its far end (u = 1)."""
    total, seen = len(recorded.inputs["alphas_cumprod"]), set()
    for entry in recorded.settings["t_plus"]:
        shift = shift_of(entry["t_plus_type"], entry["schedule"], entry["ratio"])
        assert shift(torch.tensor(entry["t"]), entry["min_step"], 1.0, total).tolist() == entry["t_plus"], entry
        seen.add((shift.curve, shift.limit, shift.ratio > 0))
    assert len(seen) > 4


def test_random_time_shift(recorded):
    ((name, entry),) = ((key, value) for key, value in recorded.settings.items() if key.startswith("t_plus_random_seed"))
    times = torch.tensor(entry["t"])
    seed = int(name.removeprefix("t_plus_random_seed"))
    share = torch.rand(len(times), generator=torch.Generator().manual_seed(seed))
    total = len(recorded.inputs["alphas_cumprod"])
    assert TimeShift(entry["ratio"])(times, entry["min_step"], share, total).tolist() == entry["t_plus"]


def schedule_of(form, value):
    """The library's schedule: the original counts epochs where the last number is no integer, and interpolates by name."""
    if isinstance(value, list) and (isinstance(value[-1], float) or form.endswith("_exp")):
        unit = "epoch" if isinstance(value[-1], float) else "step"
        return {"points": value, "curve": "geometric" if form.endswith("_exp") else "linear", "unit": unit}
    return value


def test_schedules(recorded):
    """Numbers, lists of every length, epochs, and geometric curves."""
    for entry in recorded.settings["C"]:
        schedule, now = schedule_of(entry["form"], entry["value"]), TrainingStep(entry["step"], entry["epoch"])
        assert scheduled(schedule, now) == pytest.approx(entry["result"], rel=1e-9, abs=1e-12), entry
        if entry.get("result_exp") is not None:
            curved = {"points": entry["value"], "curve": "geometric"}
            assert scheduled(curved, now) == pytest.approx(entry["result_exp"], rel=1e-9, abs=1e-12), entry


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
