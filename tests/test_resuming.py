"""Going on with a run: its own settings, named changes, damaged checkpoints, full disks, two trainings in one folder."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prd_lightning.callbacks import FolderCheckpointIO, checkpoint_folder
from prd_lightning.checkpoints import GENERATOR_FILE
from prd_lightning.configuration import compose_config
from prd_lightning.errors import CheckpointFormatError, ConfigurationError, OutputExistsError, OutputNotWritableError
from prd_lightning.resuming import requeued_overrides, resumed_overrides, save_overrides
from prd_lightning.run_folder import find_checkpoint, lock_run_folder

STARTED = ["teacher=mvdream", "trainer.max_steps=100", "optimizer.lr=0.01"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    save_overrides(folder, [*STARTED, f"output={folder}"])
    return folder


def resume(run: Path, *overrides: str) -> list[str]:
    return resumed_overrides([f"output={run}", "ckpt_path=last", *overrides])


def test_a_resumed_run_has_its_own_settings_and_what_follows_from_its_length_changes(run):
    config = compose_config(resume(run, "trainer.max_steps=300"))
    assert list(config.teacher) == ["mvdream"] and config.optimizer.lr == 0.01
    assert config.trainer.max_steps == 300 and list(config.module.learning_rate_factor) == [150, 1.0, 0.05, 300]


def test_settings_that_are_typed_again_change_nothing(run):
    assert sorted(resume(run, *STARTED)) == sorted(resume(run))
    assert resumed_overrides(["seed=3", f"output={run}"]) == ["seed=3", f"output={run}"], "nothing is resumed"


def test_changes_are_named_and_refused_or_accepted(run, caplog):
    with pytest.raises(ConfigurationError, match="optimizer.lr: 0.01 -> 0.1.*accept_changes=true") as refused:
        resume(run, "optimizer.lr=0.1", "seed=5", "trainer.max_steps=300")
    assert "seed: 0 -> 5" in str(refused.value) and "max_steps" not in str(refused.value)
    with pytest.raises(ConfigurationError, match="teacher.richdreamer_nd"):
        resume(run, "teacher=richdreamer")
    assert compose_config(resume(run, "optimizer.lr=0.1", "accept_changes=true")).optimizer.lr == 0.1
    assert "optimizer.lr: 0.01 -> 0.1" in caplog.text


def test_the_run_of_a_checkpoint_s_folder(run, tmp_path):
    checkpoint = run / "checkpoints" / "step_000005"
    assert "teacher=mvdream" in resumed_overrides([f"ckpt_path={checkpoint}", f"output={tmp_path / 'other'}"])


def test_a_job_that_slurm_has_started_again_goes_on(run, monkeypatch):
    overrides = ["seed=3", f"output={run}"]
    save(run, "last", 1)
    assert requeued_overrides(overrides) == overrides
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert requeued_overrides(overrides) == [*overrides, "ckpt_path=last"]
    assert requeued_overrides([*overrides, "ckpt_path=null"]) == [*overrides, "ckpt_path=null"]
    assert requeued_overrides([f"output={run / 'new'}"]) == [f"output={run / 'new'}"]


def test_a_job_that_slurm_has_started_again_begins_anew_before_its_first_checkpoint(run, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    (run / "config.yaml").touch()
    (run / "checkpoints" / ".step_000001.partial").mkdir(parents=True)
    assert requeued_overrides([f"output={run}"]) == [f"output={run}", "overwrite=true"]


def save(folder: Path, name: str, epoch: int) -> Path:
    path = folder / "checkpoints" / name
    FolderCheckpointIO().save_checkpoint({"state_dict": {"weight": torch.full((2,), float(epoch))}, "epoch": epoch}, path)
    return path


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(run, caplog):
    read = FolderCheckpointIO().load_checkpoint
    first, second, last = (save(run, name, epoch) for epoch, name in enumerate(("step_000001", "step_000002", "last")))
    assert find_checkpoint("last", run, read) == last and not caplog.text
    (last / GENERATOR_FILE).write_bytes(b"torn")
    assert find_checkpoint("last", run, read) == second
    assert "damaged" in caplog.text and "step_000002" in caplog.text
    (second / "trainer_state.ckpt").unlink()
    assert find_checkpoint("last", run, read) == first
    (first / "trainer_state.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointFormatError, match="last"):
        find_checkpoint("last", run, read)


def test_a_process_killed_between_two_renames_leaves_a_checkpoint(run, monkeypatch):
    last = save(run, "last", 1)
    rename = Path.rename

    def killed(path: Path, target: Path) -> None:
        if path.name == ".last.partial":
            raise KeyboardInterrupt
        rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        save(run, "last", 2)
    monkeypatch.undo()
    found = find_checkpoint("last", run, FolderCheckpointIO().load_checkpoint)
    assert not last.exists() and FolderCheckpointIO().load_checkpoint(found)["epoch"] == 1
    save(run, "last", 3)
    assert [path.name for path in last.parent.iterdir()] == ["last"] and FolderCheckpointIO().load_checkpoint(last)["epoch"] == 3


@pytest.mark.parametrize("part", ["save_generator", "_save_state"])
def test_a_full_disk_keeps_the_earlier_checkpoint_and_leaves_nothing_behind(run, monkeypatch, part):
    last = save(run, "last", 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_folder, part, full)
    with pytest.raises(OutputNotWritableError, match="No space left on device"):
        save(run, "last", 2)
    assert [path.name for path in last.parent.iterdir()] == ["last"] and FolderCheckpointIO().load_checkpoint(last)["epoch"] == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_torch_s_report_of_a_full_disk_becomes_an_operating_system_error():
    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(OSError):
        checkpoint_folder._save_state({"weight": torch.zeros(100_000)}, file)


def test_two_trainings_in_one_folder(run):
    other = "import sys; from pathlib import Path; from prd_lightning.run_folder import lock_run_folder as lock; " + (
        "lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", other, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OutputExistsError, match=f"a training is running .*process {holder.pid}"):
            lock_run_folder(run)
        holder.stdin.close()
        holder.wait()
    lock_run_folder(run)
