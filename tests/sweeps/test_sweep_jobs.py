"""Jobs of a sweep: planned, recorded, killed, gone on with; and real ones by joblib, Optuna and submitit."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prd_lightning.configuration import check_overrides
from prd_lightning.errors import ConfigurationError
from prd_lightning.sweeps import job
from prd_lightning.sweeps.record import RANK_VARIABLES, read_record, record_failure, recorded


def finish(folder: Path, overrides: list[str], status: str = "done") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps({"overrides": overrides, "seed": 0, "status": status}))


def test_a_job_goes_on_only_if_asked_to(tmp_path):
    finish(tmp_path, ["seed=0"])
    assert job.plan(tmp_path, ["seed=0"]) == ["seed=0"]


@pytest.mark.parametrize("requeued", [False, True])
def test_a_sweep_that_is_repeated_leaves_out_what_is_finished(tmp_path, monkeypatch, requeued):
    given = ["seed=0", "trainer.max_steps=3"] + ([] if requeued else ["ckpt_path=last"])
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1" if requeued else "0")
    anew, again = [*given[:2], "overwrite=true"], [*given[:2], "ckpt_path=last"]
    assert job.plan(tmp_path / "new", given) == anew
    finish(tmp_path / "done", ["seed=0", "trainer.max_steps=3", "output=elsewhere"])
    assert job.plan(tmp_path / "done", given) is None
    finish(tmp_path / "shorter", ["seed=0", "trainer.max_steps=2"])
    (tmp_path / "shorter" / "checkpoints" / "last").mkdir(parents=True)
    assert job.plan(tmp_path / "shorter", given) == again
    finish(tmp_path / "killed", given, "running")
    assert job.plan(tmp_path / "killed", given) == anew
    (tmp_path / "killed" / "checkpoints" / "last").mkdir(parents=True)
    assert job.plan(tmp_path / "killed", given) == again


def test_the_command_line_of_a_job_names_its_folder_whatever_it_is_called(tmp_path):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for name in ("plain", "with space", 'quo"te', "a=b,c", "back\\slash", "end\\"):
        (override,) = [text for text in job.command(tmp_path / name, ["seed=0"]) if text.startswith("hydra.run.dir=")]
        assert OverridesParser.create().parse_override(override).value() == str(tmp_path / name)
    assert job.command(tmp_path, ["seed=0"])[1:5] == ["-m", "prd_lightning.cli", "train", "seed=0"]


def run(monkeypatch, folder: Path, script: str) -> float | None:
    """A job whose training is replaced by a few lines of Python."""
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(job, "command", lambda folder, overrides: [sys.executable, "-c", script, str(folder)])
    return job.run_job(folder, ["seed=1"], 3, "iou")


RECORD = "import json, os, sys; json.dump({'overrides': ['seed=1'], 'status': %r}, open(sys.argv[1] + '/job.json', 'w')); "


def test_a_job_hands_its_score_to_the_sweeper(monkeypatch, tmp_path, caplog):
    script = RECORD % "done" + "json.dump({'iou': 0.25}, open(sys.argv[1] + '/evaluation.json', 'w'))"
    assert run(monkeypatch, tmp_path / "a", script) == 0.25
    assert run(monkeypatch, tmp_path / "b", RECORD % "done") is None
    assert "has no metric 'iou' for a sweeper" in caplog.text


def test_a_job_that_is_killed_or_refused_is_a_failure_of_that_job(monkeypatch, tmp_path):
    assert run(monkeypatch, tmp_path / "killed", RECORD % "running" + "os.kill(os.getpid(), 9)") is None
    assert read_record(tmp_path / "killed") == {
        "overrides": ["seed=1"], "status": "failed", "error": "the training was killed by SIGKILL"
    }
    assert run(monkeypatch, tmp_path / "refused", "raise SystemExit(2)") is None
    assert read_record(tmp_path / "refused")["error"] == "the training ended with status 2"
    finish(tmp_path / "taken", ["seed=9"], "running")
    assert run(monkeypatch, tmp_path / "taken", "raise SystemExit(2)") is None
    assert read_record(tmp_path / "taken")["overrides"] == ["seed=9"], "another training's record stays"


def test_an_interrupted_job_ends_the_sweep(monkeypatch, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path / "a", "raise SystemExit(130)")


def test_a_terminated_sweep_terminates_its_job(tmp_path):
    """The parent gets SIGTERM; the training must not go on alone."""
    training = "import pathlib, signal, sys, time; folder = pathlib.Path(sys.argv[1]); "
    training += "signal.signal(15, lambda *_: ((folder / 'told').touch(), sys.exit(9))); "
    training += "(folder / 'started').touch(); time.sleep(60)"
    parent = "\n".join([
        "import os, signal, sys, threading, time, pathlib",
        "from prd_lightning.sweeps import job",
        f"job.command = lambda folder, overrides: [sys.executable, '-c', {training!r}, {str(tmp_path)!r}]",
        "def kill():",
        f"    while not pathlib.Path({str(tmp_path)!r}, 'started').exists(): time.sleep(0.05)",
        "    os.kill(os.getpid(), signal.SIGTERM)",
        "threading.Thread(target=kill, daemon=True).start()",
        f"job.run_job(pathlib.Path({str(tmp_path)!r}), [], 0, 'iou')",
    ])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path)}
    ended = subprocess.run([sys.executable, "-c", parent], env=environment, timeout=300)
    assert ended.returncode == 128 + 15 and (tmp_path / "told").exists()


def test_a_record_says_how_a_training_went(tmp_path):
    with recorded(tmp_path, 4, ["seed=4"]):
        assert read_record(tmp_path)["status"] == "running"
        sum(number for number in range(2_000_000))
    found = read_record(tmp_path)
    assert (found["status"], found["seed"], found["error"]) == ("done", 4, None)
    assert 0 < found["cpu_seconds"] <= found["seconds"] + 1
    with pytest.raises(ValueError), recorded(tmp_path, 4, ["seed=4", "ckpt_path=last"]):
        raise ValueError("no more")
    later = read_record(tmp_path)
    assert (later["status"], later["error"]) == ("failed", "ValueError: no more") and later["seconds"] >= found["seconds"]
    with pytest.raises(KeyboardInterrupt), recorded(tmp_path, 4, []):
        raise KeyboardInterrupt
    assert read_record(tmp_path)["status"] == "interrupted" and read_record(tmp_path)["seconds"] < 1


@pytest.mark.parametrize(("variables", "writes"), [({}, True), ({"LOCAL_RANK": "0"}, True), ({"SLURM_PROCID": "3"}, False)])
def test_the_first_rank_alone_writes_the_record(tmp_path, monkeypatch, variables, writes):
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with recorded(tmp_path, 0, []):
        assert (tmp_path / "job.json").exists() == writes


def test_a_failure_before_the_training_is_recorded_unless_the_folder_is_anothers(tmp_path):
    record_failure(tmp_path, ["seed=0"], "no weights")
    assert read_record(tmp_path)["error"] == "no weights"
    finish(tmp_path, ["seed=0"])
    before = read_record(tmp_path)
    record_failure(tmp_path, ["seed=0"], "refused", before)
    assert read_record(tmp_path) == before
    record_failure(tmp_path / "nowhere", [], "no folder")
    assert not (tmp_path / "nowhere").exists()


def test_intervals_and_the_values_of_sweep_files_are_checked_before_the_first_job():
    check_overrides(["hydra/sweeper=optuna", "optimizer.lr=tag(log,interval(0.001,0.1))"])
    check_overrides(["sweep=guidance"])
    with pytest.raises(ConfigurationError, match="optimizer.rate"):
        check_overrides(["hydra/sweeper=optuna", "optimizer.rate=interval(0.1,0.2)"])
    with pytest.raises(ConfigurationError, match="Could not find 'sweep/nobody'.*guidance.*teachers"):
        check_overrides(["sweep=nobody"])
    with pytest.raises(ConfigurationError, match="teacher.richdreamer_nd.guidance_scale"):
        check_overrides(["sweep=guidance", "teacher=mvdream"])  # which has no normal-depth teacher to guide


SMALL = [
    "teacher=mvdream",
    "module.unroll_steps=1",
    "trainer.max_steps=1",
    "trainer.log_every_n_steps=1",
    "world.batch_size=1",
    "world.learning_rate_factor=1.0",
    "renderer=volume",
    "renderer.volume.image_size=8",
    "preview.prompts=[]",
    "evaluation.enabled=false",
    "+trainer.enable_progress_bar=false",
    "objective=train/loss",
]


def sweep(folder: Path, *overrides: str) -> str:
    """Runs a real sweep and returns what it printed."""
    command = [sys.executable, "-m", "prd_lightning.cli", "train", "-m", *SMALL, f"output={folder}", *overrides]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, env=environment, timeout=560)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_optuna_searches_and_joblib_runs_its_trials_side_by_side(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    search = ["hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "hydra.launcher.n_jobs=2", "hydra.sweeper.sampler.seed=0"]
    printed = sweep(
        tmp_path / "root", "hydra/sweeper=optuna", "hydra/launcher=joblib", *search, "optimizer.lr=interval(0.001,0.1)"
    )
    jobs = rows(tmp_path / "root" / "jobs.csv")
    assert [run["status"] for run in jobs] == ["done"] * 2 and len({run["optimizer.lr"] for run in jobs}) == 2
    assert all(0.001 <= float(run["optimizer.lr"]) <= 0.1 and float(run["cpu_seconds"]) > 0 for run in jobs)
    assert {run["folder"] for run in jobs} == {"0_mvdream_seed0", "1_mvdream_seed0"}
    best = (tmp_path / "root" / "optimization_results.yaml").read_text()
    assert f"best_value: {min(float(run['train/loss']) for run in jobs)!r}"[:22] in best
    assert str(tmp_path / "root" / "summary.png") in printed


@pytest.mark.slow
def test_submitit_starts_a_distributed_job_whose_ranks_share_its_folder(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    ranks = ["strategy=ddp", "strategy.accelerator=cpu", "strategy.devices=2", "hydra.launcher.timeout_min=10"]
    sweep(tmp_path / "root", "hydra/launcher=submitit_local", *ranks, "seed=3")
    (run,) = rows(tmp_path / "root" / "jobs.csv")
    assert (run["status"], run["seed"], run["folder"]) == ("done", "3", "0_mvdream_seed3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"], "no rank made a folder of its own"
    folders = {path.name for path in (tmp_path / "root").iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert folders == {"0_mvdream_seed3"}
    assert len((tmp_path / "root" / "0_mvdream_seed3" / "metrics.csv").read_text().splitlines()) == 2
