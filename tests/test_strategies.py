"""Every strategy is built from its config; on a GPU each runs a step."""

import subprocess
import sys
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy

from prd_lightning.building import instantiate
from prd_lightning.configuration import compose_config
from prd_lightning.errors import ConfigurationError
from prd_lightning.strategies import ShardedBaseStrategy, shards_networks

KINDS = {
    "ddp": (DDPStrategy, False),
    "fsdp2": (ShardedBaseStrategy, True),
    "fsdp": (FSDPStrategy, True),
    "deepspeed_stage_2": (DeepSpeedStrategy, False),
    "deepspeed_stage_3": (DeepSpeedStrategy, True),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_strategy_is_built_from_its_config(name: str):
    settings, (kind, shards) = compose_config([f"strategy={name}"]).strategy, KINDS[name]
    if name.startswith("deepspeed") and find_spec("deepspeed") is None:
        with pytest.raises(ConfigurationError, match="deepspeed"):
            instantiate(settings)
        return
    made = instantiate(settings)
    assert isinstance(made["strategy"], kind) and shards_networks(made["strategy"]) is shards
    assert made["accelerator"] == ("auto" if name in ("ddp", "fsdp2") else "cuda")


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_the_timeout_is_a_setting(name: str):
    given = [f"strategy={name}", "strategy.strategy.timeout.minutes=5"]
    assert instantiate(compose_config(given).strategy)["strategy"]._timeout == timedelta(minutes=5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", KINDS)
def test_a_strategy_trains_on_the_gpu(name: str, tmp_path: Path):
    if name.startswith("deepspeed"):
        pytest.importorskip("deepspeed")
    small = ["world.batch_size=1", "renderer.volume.image_size=8", "renderer.mesh.resolution=8", "renderer.mesh.image_size=16"]
    given = [f"strategy={name}", "trainer.max_steps=1", "evaluation.enabled=false", f"output={tmp_path / 'run'}", *small]
    command = [sys.executable, "-m", "prd_lightning.cli", "train", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "checkpoints" / "last" / "generator.safetensors").is_file()
