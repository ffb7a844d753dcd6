"""DeepSpeed in two processes on a CPU learns what replicas learn, writes the same adapter file, and goes on exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_training import GENERATED, UNROLL_STEPS, Run, reports
from safetensors import safe_open
from safetensors.torch import load_file

from prd_lightning.callbacks import FolderCheckpointIO, read_checkpoint
from prd_lightning.checkpoints import GENERATOR_FILE
from prd_lightning.errors import ConfigurationError
from prd_lightning.pipeline import TextToMeshPipeline
from prd_lightning.sampling import sample_planes
from prd_lightning.shards import read_shards

pytest.importorskip("deepspeed")
STEPS, HALF = 4, 2


def adapter_file(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(folder / GENERATOR_FILE, framework="pt") as file:
        return load_file(folder / GENERATOR_FILE), file.metadata()


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The same training with DDP."""
    folder = tmp_path_factory.mktemp("ddp")
    return folder / "ddp", reports(Run("ddp", "ddp", 2, steps=STEPS, plain=True), folder)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_a_stage_learns_what_replicas_learn_and_goes_on_exactly(stage: int, replicas, tmp_path: Path):
    strategy = f"deepspeed_stage_{stage}"
    whole = reports(Run("whole", strategy, 2, steps=STEPS, saved_at=(HALF,), plain=True, previews=True), tmp_path)
    check_like_replicas(replicas, tmp_path / "whole", whole)
    again = reports(Run("again", strategy, 2, steps=STEPS, checkpoint=f"whole_{HALF}", plain=True), tmp_path)
    for first, second in zip(whole, again, strict=True):
        assert second["losses"] == first["losses"][len(first["losses"]) // 2 :]
        assert second["prompts"] == first["prompts"][len(first["prompts"]) // 2 :]
    states = [read_checkpoint(tmp_path / name) for name in ("whole", "again")]
    for name in ("state_dict", "lr_schedulers", "global_step"):
        torch.testing.assert_close(states[1][name], states[0][name], rtol=0, atol=0)
    check_folder(tmp_path / "whole", stage)
    sheets = [path.name for path in sorted((tmp_path / "whole_run").rglob("*.png"))]
    check_generated(tmp_path / "whole", whole)
    assert sheets == ["step_000000.png", f"step_{STEPS:06d}.png"], "all processes together draw them, the first one writes"


def check_like_replicas(replicas: tuple[Path, list[dict[str, Any]]], folder: Path, ranks: list[dict[str, Any]]) -> None:
    """The losses of every process, and an adapter file that differs in rounding alone. AdamW's first steps follow the signs of
    gradients, so that rounding moves a weight whose gradient is nearly zero by a whole step."""
    for expected, rank in zip(replicas[1], ranks, strict=True):
        assert rank["prompts"] == expected["prompts"]
        torch.testing.assert_close(rank["losses"], expected["losses"], rtol=1e-3, atol=1e-4)
    (first, header), (second, second_header) = adapter_file(replicas[0]), adapter_file(folder)
    assert header == second_header
    assert {name: (value.shape, value.dtype) for name, value in first.items()} == {
        name: (value.shape, value.dtype) for name, value in second.items()
    }
    differences = torch.cat([(first[name] - second[name]).abs().flatten() for name in first])
    assert differences.mean() < 1e-5 and differences.max() < 1e-2


def check_generated(folder: Path, ranks: list[dict[str, Any]]) -> None:
    """After the training every process generates with the weights that the adapter file has."""
    pipeline = TextToMeshPipeline.from_pretrained(folder, device="cpu")
    assert pipeline.weights_path == folder / GENERATOR_FILE
    with torch.no_grad():
        planes = sample_planes(pipeline.parts, GENERATED, [0], UNROLL_STEPS).geometry.flatten()[::97].tolist()
    for rank in ranks:
        torch.testing.assert_close(rank["planes"], planes, rtol=1e-4, atol=1e-5)


def check_folder(folder: Path, stage: int) -> None:
    """Small, without what is frozen; another strategy refuses to go on from it, by name."""
    shards = read_shards(folder)
    assert (shards.stage, shards.world_size) == (stage, 2)
    trained = shards.files[GENERATOR_FILE]
    assert sum(shards.files.values()) < 7 * trained, "that file, weights, their copies in 32 bits, two moments, little else"
    with pytest.raises(ConfigurationError, match=f"strategy=deepspeed_stage_{stage} with 2 processes"):
        FolderCheckpointIO().load_checkpoint(folder)
