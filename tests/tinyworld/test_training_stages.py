"""Every stage of ``prd tinyworld`` trains, writes folders that the library loads, and notes how in the card."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prd_lightning import cli
from prd_lightning.teachers.loading import load_denoiser
from prd_lightning.tinyworld import training
from prd_lightning.tinyworld.card import read_card
from prd_lightning.tinyworld.command import STAGES, TEACHERS
from prd_lightning.tinyworld.dataset import RenderedGroups, render_groups
from prd_lightning.tinyworld.grammar import parse


@pytest.fixture
def few_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RenderedGroups:
    scenes = [parse(prompt) for prompt in ("a red cone", "a blue cube", "a red cone on a blue cube")]
    groups = render_groups(scenes, tmp_path / "renders.safetensors", workers=1)
    monkeypatch.setattr(training.TinyWorldTrainer, "groups", lambda self: groups)
    plan = training.TinyWorldPlan()
    small = {stage: replace(getattr(plan, stage), batch_size=2) for stage in STAGES}
    monkeypatch.setattr(training, "TinyWorldPlan", lambda **given: replace(plan, **small, **given))
    return groups


def test_every_stage_for_one_step(few_groups: RenderedGroups, tmp_path: Path):
    output, cache = tmp_path / "weights", tmp_path / "cache"
    arguments = ["tinyworld", "--stages", *STAGES, "--steps", "1", "--precision", "bfloat16", "--threads", "1"]
    assert cli.main([*arguments, "--output", str(output), "--cache", str(cache)]) == 0
    for name in TEACHERS:
        unet, text, schedule = load_denoiser(output / name, "float32", name != "stable_diffusion", None)
        tokens = text.encode(["a red cone"]).tokens.repeat_interleave(4, dim=0)
        labels = None if name == "stable_diffusion" else torch.zeros(4, 16)
        size = unet.config.sample_size
        predicted = unet(torch.randn(4, 4, size, size), 500, tokens, class_labels=labels).sample
        assert schedule.prediction_type == "v_prediction" and predicted.isfinite().all()
    noted = read_card(output)["training"]
    assert list(noted) == list(STAGES) and noted["richdreamer_nd"]["steps"] == 1
    assert [noted[stage]["precision"] for stage in STAGES] == [*["float32"] * 3, *["bfloat16"] * 3]
    assert "compositions" in noted["clip"] and "compositions" not in noted["text"], "it sees no renders"


def test_denoisers_go_on_from_finished_ones(few_groups: RenderedGroups, tmp_path: Path):
    first, second, cache = tmp_path / "first", tmp_path / "second", tmp_path / "cache"
    arguments = ["tinyworld", "--threads", "1", "--cache", str(cache), "--stages"]
    assert cli.main([*arguments, "clip", "text", "richdreamer_nd", "--steps", "1", "--output", str(first)]) == 0
    going_on = [*arguments, "richdreamer_nd", "--steps", "2", "--output", str(second)]
    shutil.copytree(first / "text", second / "text")
    assert cli.main([*going_on, "--start-from", str(first)]) == 0
    before, after = (load_file(folder / "richdreamer_nd/unet/diffusion_pytorch_model.safetensors") for folder in (first, second))
    changes = torch.cat([(after[name].float() - before[name].float()).abs().flatten() for name in before])
    assert 0 < changes.mean() < 0.01, "two steps on from the first model; another beginning would differ by 0.04"
    noted = read_card(second)["training"]["richdreamer_nd"]
    assert noted["steps"] == 2 and noted["start_from"] == read_card(first)["training"]["richdreamer_nd"]


def test_start_without_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["tinyworld", "--stages", "mvdream", "--start-from", str(tmp_path)]) != 0
    assert str(tmp_path / "mvdream" / "unet") in capsys.readouterr().err
