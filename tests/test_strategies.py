"""Every strategy is built from its config; on a GPU each runs a step."""

import subprocess
import sys
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy

from prd_lightning.building import build_trainer, instantiate, instantiate_strategy
from prd_lightning.configuration import compose_config
from prd_lightning.deepspeed_strategy import AdapterDeepSpeedStrategy
from prd_lightning.errors import ConfigurationError, ProcessGroupError
from prd_lightning.strategies import ShardedBaseStrategy, check_whole, group_failures_named, shards_networks

KINDS = {
    "ddp": (DDPStrategy, False),
    "fsdp": (ShardedBaseStrategy, True),
    "fsdp2": (ShardedBaseStrategy, True),
    "deepspeed_stage_2": (AdapterDeepSpeedStrategy, False),
    "deepspeed_stage_3": (AdapterDeepSpeedStrategy, True),
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
    assert made["accelerator"] == ("auto" if name in ("ddp", "fsdp", "fsdp2") else "cuda")


def test_both_names_of_fsdp_mean_the_same():
    assert compose_config(["strategy=fsdp"]).strategy == compose_config(["strategy=fsdp2"]).strategy


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["deepspeed_stage_2", "deepspeed_stage_3"])
def test_without_a_gpu_the_message_names_what_runs(name: str):
    with pytest.raises(ConfigurationError, match="needs a CUDA GPU.*strategy=ddp and strategy=fsdp run on a CPU"):
        instantiate_strategy(compose_config([f"strategy={name}"]).strategy)


def test_devices_that_are_not_there(tmp_path: Path):
    config = compose_config(["strategy=ddp", "strategy.accelerator=cpu", "strategy.devices=0", "preview.prompts=[]"])
    with pytest.raises(ConfigurationError, match="the trainer cannot be made"):
        build_trainer(config, tmp_path)


def test_what_needs_whole_weights_is_refused_where_the_optimizer_sees_none():
    check_whole(SingleDeviceStrategy("cpu"), "ema.decay")
    check_whole(ShardedBaseStrategy(), "ema.decay")
    check_whole(DDPStrategy(), "ema.decay")
    sharded = object.__new__(DeepSpeedStrategy)  # its library need not be there
    with pytest.raises(ConfigurationError, match="ema.decay does not work with DeepSpeed.*strategy=ddp"):
        check_whole(sharded, "ema.decay")


def failed(error: Exception, world_size: int = 2) -> None:
    with group_failures_named(world_size):
        raise error


@pytest.mark.parametrize(
    "error",
    [RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer"), torch.distributed.DistStoreError("wait")],
)
def test_a_lost_process_is_named_and_other_errors_stay(error: Exception):
    with pytest.raises(ProcessGroupError, match="another process of this training failed"):
        failed(error)
    with pytest.raises(type(error)) as found:
        failed(error, world_size=1)
    assert found.value is error
    with pytest.raises(RuntimeError, match="^out of memory$"):
        failed(RuntimeError("out of memory"))
    with pytest.raises(ConfigurationError, match="^timeout$"):
        failed(ConfigurationError("timeout"))

@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_the_timeout_is_a_setting(name: str):
    given = [f"strategy={name}", "strategy.strategy.timeout.minutes=5"]
    assert instantiate(compose_config(given).strategy)["strategy"]._timeout == timedelta(minutes=5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["ddp", "fsdp", "deepspeed_stage_2", "deepspeed_stage_3"])
def test_a_strategy_trains_on_the_gpu(name: str, tmp_path: Path):
    is_deepspeed = name.startswith("deepspeed")
    if is_deepspeed:
        pytest.importorskip("deepspeed")
    small = ["world.batch_size=1", "renderer.volume.image_size=8", "renderer.mesh.resolution=8", "renderer.mesh.image_size=16"]
    short = ["trainer.max_steps=1", "checkpoint.every_n_steps=1", "evaluation.enabled=false", "ema.decay=null"]
    given = [f"strategy={name}", f"output={tmp_path / 'run'}", *short, *small]
    command = [sys.executable, "-m", "prd_lightning.cli", "train", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    last = tmp_path / "run" / "checkpoints" / "last"
    assert (last / "generator.safetensors").is_file() and (last / "checkpoint").is_dir() is is_deepspeed
    goes_on = [f"output={tmp_path / 'run'}", "ckpt_path=last", "trainer.max_steps=2"]
    done = subprocess.run([*command[:4], *goes_on], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step_000002" / "generator.safetensors").is_file()
