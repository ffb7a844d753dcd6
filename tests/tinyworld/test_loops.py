"""The training loop: an interruption changes nothing, not a bit."""

from pathlib import Path

import pytest
import torch
from torch import nn

from prd_lightning.tinyworld import loops
from prd_lightning.tinyworld.loops import Stage, WeightAverage, train

STAGE = Stage(steps=12, batch_size=4, learning_rate=1e-2, seed=5)


def run(folder: Path, fail_at: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    module, calls = nn.Linear(3, 2), []

    def loss_of_batch(generator: torch.Generator) -> torch.Tensor:
        calls.append(1)
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        inputs = torch.randn(STAGE.batch_size, 3, generator=generator)
        return (module(inputs) - inputs[:, :2]).square().mean()

    return train("line", module, loss_of_batch, STAGE, folder)


def test_an_interrupted_training_ends_bit_for_bit_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loops, "SAVE_INTERVAL_SECONDS", 0.0)
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", fail_at=8)
    resumed = run(tmp_path / "broken")
    for first, second in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_finished_training_returns_at_once(tmp_path: Path):
    first = run(tmp_path)
    again = run(tmp_path, fail_at=1)
    assert torch.equal(first.weight, again.weight)


def test_learning_rate_warms_up_and_falls_to_two_percent():
    stage = Stage(1000, 1, 1e-3)
    assert [stage.learning_rate_at(step) for step in (0, 19, 20, 510, 1000)] == pytest.approx([5e-5, 1e-3, 1e-3, 5.1e-4, 2e-5])


def test_the_average_of_weights_in_closed_form():
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = WeightAverage(module, 0.9)
    nn.init.ones_(module.weight)
    average.update(module, 0)
    average.update(module, 10_000)
    assert average.module.weight.item() == pytest.approx(1 - 0.1 * 0.9)
