"""Two processes (gloo) see what one sees: the same losses and checkpoints, whatever the strategy; and what they send for it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_training import UNROLL_STEPS, Run, reports
from safetensors import safe_open
from safetensors.torch import load_file

from prd_lightning.callbacks import FolderCheckpointIO
from prd_lightning.callbacks.checkpoint_folder import TRAINER_FILE
from prd_lightning.checkpoints import GENERATOR_FILE

STEPS = 20
ROUNDING = 1e-9
"""Losses and weights are about one, computed in 64 bits."""


def check_losses(alone: dict[str, Any], ranks: list[dict[str, Any]]) -> None:
    """The mean of the ranks' losses is the loss of one process, in every micro-batch."""
    expected = torch.tensor(alone["losses"], dtype=torch.float64)
    mean = torch.tensor([rank["losses"] for rank in ranks], dtype=torch.float64).mean(dim=0)
    assert len(expected) == UNROLL_STEPS * STEPS and expected.std() > 1e-2 * expected.mean(), "there must be something to see"
    torch.testing.assert_close(mean, expected, rtol=ROUNDING, atol=ROUNDING)
    assert ranks[0]["losses"] != ranks[1]["losses"]


def check_prompts(ranks: list[dict[str, Any]]) -> None:
    """Every rank has its own prompts, each through a whole cycle."""
    own = [["a red cube", "a blue cone"], ["a green torus", "a pink dome"]]
    for rank, prompts in zip(ranks, own):
        expected = [prompts[step % 2] for step in range(STEPS) for _ in range(UNROLL_STEPS)]
        assert rank["prompts"] == expected


def check_reductions(rank: dict[str, Any]) -> None:
    """Trained values alone are sent at the start, and reduced once in each optimizer step; no gradient is scattered."""
    trained = rank["sizes"]["trained"]
    assert sum(rank["at_start"]["broadcast"]) == trained, "the frozen networks are loaded by each process, not sent"
    assert len(rank["collectives"]) == STEPS
    for step in rank["collectives"]:
        # A byte a parameter, which has a gradient anywhere, goes before under fsdp; DDP asks in C++.
        assert [size for size in step["reduced"] if size > 10_000] == [trained] and step["scattered"] == []
        assert sum(step["reduced"]) < 1.01 * trained
        assert sum(step["broadcast"]) < 100, "Lightning asks in every micro-batch whether a signal has come"


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_and_send_what_they_must(tmp_path: Path):
    (alone,) = reports(Run("alone", steps=STEPS), tmp_path)
    replicas = reports(Run("ddp", "ddp", 2, steps=STEPS), tmp_path)
    shards = reports(Run("fsdp", "fsdp", 2, steps=STEPS, previews=True), tmp_path)
    for ranks in (replicas, shards):
        check_losses(alone, ranks)
        check_prompts(ranks)
        check_reductions(ranks[0])
    check_replicas(replicas[0])
    check_shards(shards)
    sheets = [path.name for path in sorted((tmp_path / "fsdp_run").rglob("*.png"))]
    assert sheets == ["step_000000.png", f"step_{STEPS:06d}.png"], "all processes together draw them, the first one writes"


def check_replicas(rank: dict[str, Any]) -> None:
    trained = rank["sizes"]["trained"]
    assert rank["reductions"] == [UNROLL_STEPS * (step + 1) for step in range(STEPS)], "after the last micro-batch alone"
    assert all(not step["gathered"] for step in rank["collectives"])
    # A ring of two sends all of it once; besides, DDP agrees on the parameters that were used, and messages have headers.
    assert all(trained <= sent < 1.01 * trained for sent in rank["on_wire"])


def check_shards(ranks: list[dict[str, Any]]) -> None:
    """A process holds half of what is frozen; the networks' blocks are gathered whenever they compute, and nothing else."""
    sizes = ranks[0]["sizes"]
    for rank in ranks:
        assert rank["sizes"]["held"] < 0.6 * sizes["all"]
    # The generator computes forward and backward (its outermost layers stay between the two), the teacher forward.
    most = UNROLL_STEPS * (2 * sizes["generator"] + sizes["teacher"])
    least = UNROLL_STEPS * (1.8 * sizes["generator"] + sizes["teacher"])
    for step, sent in zip(ranks[0]["collectives"], ranks[0]["on_wire"], strict=True):
        gathered = sum(step["gathered"])
        assert least < gathered < 1.01 * most
        assert sent == pytest.approx(gathered / 2 + sizes["trained"], rel=0.01), "each process sends its half"


@pytest.mark.slow
def test_a_training_goes_on_in_another_world(tmp_path: Path):
    """One process, two replicas, two shards and one process again, three steps each: as one process that was left alone."""
    (alone,) = reports(Run("alone", steps=12, saved_at=(3, 6, 9)), tmp_path)
    found = [loss for loss in alone["losses"][: 3 * UNROLL_STEPS]]
    worlds = {"ddp": ("ddp", 2, "alone_3"), "fsdp": ("fsdp", 2, "ddp"), "again": ("auto", 1, "fsdp")}
    for number, (name, (strategy, world_size, checkpoint)) in enumerate(worlds.items(), start=2):
        ranks = reports(Run(name, strategy, world_size, steps=3 * number, checkpoint=checkpoint), tmp_path)
        found += torch.tensor([rank["losses"] for rank in ranks], dtype=torch.float64).mean(dim=0).tolist()
    torch.testing.assert_close(found, alone["losses"], rtol=ROUNDING, atol=ROUNDING)
    for expected, actual in (("alone_6", "ddp"), ("alone_9", "fsdp"), ("alone", "again")):
        check_same_checkpoint(tmp_path / expected, tmp_path / actual)


def check_same_checkpoint(expected: Path, actual: Path) -> None:
    """The same files; the same names, shapes and header in the adapter file; the same state to go on with."""
    assert sorted(path.name for path in actual.iterdir()) == [GENERATOR_FILE, TRAINER_FILE]
    first, second = (load_file(path / GENERATOR_FILE) for path in (expected, actual))
    assert {name: value.shape for name, value in first.items()} == {name: value.shape for name, value in second.items()}
    headers = [header(path / GENERATOR_FILE) for path in (expected, actual)]
    assert headers[0] == headers[1]
    sizes = [(path / GENERATOR_FILE).stat().st_size for path in (expected, actual)]
    assert sizes[0] == sizes[1] < 2e6
    states = [FolderCheckpointIO().load_checkpoint(path) for path in (expected, actual)]
    for name in ("state_dict", "averaged_state_dict", "optimizer_states"):
        torch.testing.assert_close(states[1][name], states[0][name], rtol=1e-6, atol=ROUNDING)


def header(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    return metadata | {"architecture": json.loads(metadata["architecture"])}
