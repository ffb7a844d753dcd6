"""The training loop: an interruption changes nothing, not a bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from prd_lightning.tinyworld import loops
from prd_lightning.tinyworld.loops import Stage, WeightAverage, train
from prd_lightning.tinyworld.models import build_normal_depth_unet

STAGE = Stage(steps=12, batch_size=4, learning_rate=1e-2, seed=5)


def run(folder: Path, fail_at: int | None = None, stage: Stage = STAGE) -> nn.Module:
    torch.manual_seed(0)
    module, calls = nn.Linear(3, 2), []

    def loss_of_batch(generator: torch.Generator) -> torch.Tensor:
        calls.append(1)
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        inputs = torch.randn(STAGE.batch_size, 3, generator=generator)
        return (module(inputs) - inputs[:, :2]).square().mean()

    return train("line", module, loss_of_batch, stage, folder)


@pytest.mark.parametrize("stage", [STAGE, replace(STAGE, matrix_learning_rate=0.02)], ids=["AdamW", "Muon"])
def test_an_interrupted_training_ends_bit_for_bit_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage
):
    monkeypatch.setattr(loops, "SAVE_INTERVAL_SECONDS", 0.0)
    whole = run(tmp_path / "whole", stage=stage)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", fail_at=8, stage=stage)
    resumed = run(tmp_path / "broken", stage=stage)
    for first, second in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_finished_training_returns_at_once(tmp_path: Path):
    first = run(tmp_path)
    again = run(tmp_path, fail_at=1)
    assert torch.equal(first.weight, again.weight)


def test_learning_rate_warms_up_and_falls_to_two_percent():
    stage = Stage(1000, 1, 1e-3)
    assert [stage.learning_rate_share(step) for step in (0, 19, 20, 510, 1000)] == pytest.approx([0.05, 1, 1, 0.51, 0.02])


def test_muon_takes_the_matrices_between_first_and_last_layer():
    unet = build_normal_depth_unet()
    groups = Stage(10, 1, 1e-3, matrix_learning_rate=0.02).optimizer(unet).param_groups
    names = {id(value): name for name, value in unet.named_parameters()}
    muon, others = ([names[id(value)] for value in group["params"]] for group in groups)
    assert len(muon) + len(others) == len(names) and groups[0]["peak"] == 0.02 and groups[1]["peak"] == 1e-3
    assert {"conv_in.weight", "conv_out.weight"} <= set(others)
    assert all(name.endswith(("bias", ".weight")) for name in others) and "mid_block.resnets.0.conv1.weight" in muon
    assert not [name for name in muon if name.endswith("bias") or "norm" in name]


def test_the_average_of_weights_in_closed_form():
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = WeightAverage(module, 0.9)
    nn.init.ones_(module.weight)
    average.update(module, 0)
    average.update(module, 10_000)
    assert average.module.weight.item() == pytest.approx(1 - 0.1 * 0.9)
