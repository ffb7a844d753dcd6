"""Checkpoints of DeepSpeed: complete under their name or not there, read by what can read them, refused by what cannot."""

import errno
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from prd_lightning.callbacks import FolderCheckpointIO, read_checkpoint
from prd_lightning.checkpoints import GENERATOR_FILE
from prd_lightning.deepspeed_strategy import AdapterDeepSpeedStrategy
from prd_lightning.errors import CheckpointFormatError, ConfigurationError, OutputNotWritableError
from prd_lightning.pipeline import find_generator
from prd_lightning.run_folder import complete_checkpoints, find_checkpoint
from prd_lightning.shards import SHARDS_FILE, check_sharding, read_shards

SHARE = "checkpoint/zero_pp_rank_0_mp_rank_00_optim_states.pt"


class StandInEngine:
    """What Lightning's strategy asks of DeepSpeed's engine. It writes one share; ``broken`` stops it in the middle."""

    def __init__(self) -> None:
        self.broken: BaseException | None = None
        self.loaded: list[Any] = []

    def save_checkpoint(self, folder: Path, client_state: dict, tag: str, exclude_frozen_parameters: bool) -> None:
        assert client_state == {} and exclude_frozen_parameters
        path = Path(folder) / SHARE
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half")
        if self.broken is not None:
            raise self.broken
        path.write_bytes(b"the whole")
        (Path(folder) / "latest").write_text(tag)

    def load_checkpoint(self, folder: Path, **settings: Any) -> tuple[str, dict]:
        self.loaded.append((Path(folder), settings["load_optimizer_states"], settings["load_module_strict"]))
        return str(folder), {}


class StandIn(AdapterDeepSpeedStrategy):
    """The first of some processes, without a group."""

    is_global_zero, exclude_frozen_parameters, load_full_weights, _multi_device = True, True, False, False
    world_size, deepspeed_engine, lightning_module = 2, None, None

    def __init__(self, stage: int = 2, world_size: int = 2) -> None:
        self.config = {"zero_optimization": {"stage": stage}}
        self.world_size, self.deepspeed_engine = world_size, StandInEngine()
        self.lightning_module = nn.Linear(2, 1, bias=False)
        state = types.SimpleNamespace(fn=TrainerFn.FITTING)
        self.lightning_module.trainer = types.SimpleNamespace(state=state)
        self.lightning_module.strict_loading = False

    def broadcast(self, value: Any, src: int = 0) -> Any:
        return value

    def barrier(self, *_: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def whole_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed gives the 32-bit values of a parameter that the module itself holds in 16 bits or in part."""
    utils = types.ModuleType("deepspeed.utils")
    utils.safe_get_full_fp32_param = lambda parameter: torch.full((1, 2), 0.1)
    library = types.ModuleType("deepspeed")
    library.utils = utils
    monkeypatch.setitem(sys.modules, "deepspeed", library)
    monkeypatch.setitem(sys.modules, "deepspeed.utils", utils)


def checkpoint(step: int = 1) -> dict[str, Any]:
    """What Lightning and the module hand over: of the weights a share of this process, and the optimizer's state twice."""
    weights = {"weight": torch.zeros(0), "table": torch.ones(3)}
    return {"state_dict": weights, "architecture": {"base": "x"}, "global_step": step, "optimizer_states": [{"m": torch.ones(9)}]}


def contents(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and header of an adapter file."""
    with safe_open(folder / GENERATOR_FILE, framework="pt") as file:
        return load_file(folder / GENERATOR_FILE), file.metadata()


def save(run: Path, name: str = "last", step: int = 1, strategy: StandIn | None = None) -> Path:
    path = run / "checkpoints" / name
    (strategy or StandIn()).save_checkpoint(checkpoint(step), path)
    return path


def test_the_folder_holds_the_adapter_file_of_any_other_strategy_and_the_shares(tmp_path: Path):
    path = save(tmp_path)
    assert sorted(part.name for part in path.iterdir()) == [
        "checkpoint", SHARDS_FILE, GENERATOR_FILE, "latest", "trainer_state.ckpt",
    ]  # fmt: skip
    plain = {**checkpoint(), "state_dict": {"weight": torch.full((1, 2), 0.1), "table": torch.ones(3)}}
    FolderCheckpointIO().save_checkpoint(plain, tmp_path / "plain")
    (tensors, header), (expected, expected_header) = contents(path), contents(tmp_path / "plain")
    torch.testing.assert_close(tensors, expected, rtol=0, atol=0)
    assert header == expected_header
    shards = read_shards(path)
    assert (shards.stage, shards.world_size) == (2, 2) and shards.files[SHARE] == len(b"the whole")
    assert shards.files.keys() == {SHARE, "latest", "trainer_state.ckpt", GENERATOR_FILE}
    assert "optimizer_states" not in read_checkpoint(path)
    assert find_generator(tmp_path) == path / GENERATOR_FILE


def test_another_process_writes_no_files_but_its_share(tmp_path: Path):
    other = StandIn()
    other.is_global_zero = False
    save(tmp_path, strategy=other)
    assert complete_checkpoints(tmp_path) == [] and not list(tmp_path.rglob(GENERATOR_FILE))


def test_what_was_saved_comes_back_and_the_engine_has_its_share(tmp_path: Path):
    path, strategy = save(tmp_path, step=7), StandIn()
    state = strategy.load_checkpoint(path)
    assert strategy.deepspeed_engine.loaded == [(path, True, False)]
    assert state["global_step"] == 7 and state["architecture"] == {"base": "x"}
    assert "state_dict" not in state, "the engine has loaded the weights"


@pytest.mark.parametrize("damage", ["missing", "short", "list"])
def test_a_checkpoint_that_is_not_whole_falls_back_to_the_one_before(tmp_path: Path, damage: str, caplog):
    before, last = save(tmp_path, "step_000001", 1), save(tmp_path, "last", 2)
    assert find_checkpoint("last", tmp_path, read_checkpoint) == last
    if damage == "missing":
        (last / SHARE).unlink()
    elif damage == "short":
        (last / SHARE).write_bytes(b"half")
    else:
        (last / SHARDS_FILE).write_text('{"stage": 2')
    assert find_checkpoint("last", tmp_path, read_checkpoint) == before and "damaged" in caplog.text
    message = {"missing": f"{SHARE} is missing", "short": f"{SHARE} has 4 bytes instead of 9", "list": SHARDS_FILE}[damage]
    with pytest.raises(CheckpointFormatError, match=message):
        StandIn().load_checkpoint(last)


@pytest.mark.parametrize("is_torch", [False, True])
def test_a_full_disk_keeps_the_earlier_checkpoint_and_leaves_nothing_behind(tmp_path: Path, is_torch: bool):
    last, strategy = save(tmp_path, step=1), StandIn()
    full = OSError(errno.ENOSPC, "No space left on device")
    strategy.deepspeed_engine.broken = full
    if is_torch:  # torch.save reports the operating system's error in one of its own
        strategy.deepspeed_engine.broken = RuntimeError("unexpected pos 128 vs 64")
        strategy.deepspeed_engine.broken.__cause__ = full
    with pytest.raises(OutputNotWritableError, match="last cannot be written: No space left on device"):
        save(tmp_path, step=2, strategy=strategy)
    assert [path.name for path in last.parent.iterdir()] == ["last"] and read_checkpoint(last)["global_step"] == 1


def test_a_process_killed_while_it_writes_leaves_the_earlier_checkpoint(tmp_path: Path):
    last, strategy = save(tmp_path, step=1), StandIn()
    strategy.deepspeed_engine.broken = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, step=2, strategy=strategy)
    assert complete_checkpoints(tmp_path) == [last] and read_checkpoint(last)["global_step"] == 1
    save(tmp_path, step=3)
    assert [path.name for path in last.parent.iterdir()] == ["last"] and read_checkpoint(last)["global_step"] == 3


@pytest.mark.parametrize(
    ("stage", "world_size", "named"),
    [(2, 4, "stage 2 with 4"), (3, 2, "stage 3 with 2"), (None, 2, "another strategy"), (None, 1, "another strategy")],
)
def test_what_cannot_read_the_shares_says_what_can(tmp_path: Path, stage: int | None, world_size: int, named: str):
    path = save(tmp_path)
    message = f"shares of 2 processes of DeepSpeed's stage 2, and {named} cannot .*strategy=deepspeed_stage_2 with 2 processes.*"
    with pytest.raises(ConfigurationError, match=f"{message}start_from={path / GENERATOR_FILE} and another `output`"):
        if stage is None:
            FolderCheckpointIO().load_checkpoint(path)
        else:
            StandIn(stage, world_size).load_checkpoint(path)


def test_deepspeed_takes_over_no_other_strategy_s_optimizer(tmp_path: Path):
    FolderCheckpointIO().save_checkpoint(checkpoint(), tmp_path / "last")
    with pytest.raises(ConfigurationError, match="saved without DeepSpeed.*strategy=auto, ddp or fsdp.*start_from="):
        StandIn().load_checkpoint(tmp_path / "last")
    check_sharding(tmp_path / "last")
