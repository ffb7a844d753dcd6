"""``prd generate --prompts`` on a whole corpus: resumed after a kill, by several processes, with failures that are never lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from untrained import save_untrained

from prd_lightning import cli
from prd_lightning.checkpoints import load_generator, save_generator
from prd_lightning.corpus import predictor

QUICK = ["--resolution", "12", "--steps", "1", "--device", "cpu", "--no-texture"]
CORPUS = ["a red cone", "a blue cube", "a red cone", "A torus / \\ ..", "a green sphere"]
DIFFERENT = list(dict.fromkeys(CORPUS))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_untrained(tmp_path_factory.mktemp("weights")))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in CORPUS))
    return path


@pytest.fixture
def generate(corpus, weights, tmp_path):
    """Runs the verb on the corpus into ``out``."""

    def call(*arguments: str) -> int:
        given = ["--prompts", str(corpus), "--output", str(tmp_path / "out"), *QUICK]
        return cli.main(["generate", *given, *([] if "--weights" in arguments else ["--weights", weights]), *arguments])

    return call


def results(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def meshes(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "out").glob("*.glb"))


def test_one_line_and_one_file_for_each_different_prompt_and_seed(generate, tmp_path):
    assert generate("--seeds", "0", "3") == 0
    found = results(tmp_path)
    assert [(line["prompt"], line["seed"]) for line in found] == [(prompt, seed) for prompt in DIFFERENT for seed in (0, 3)]
    assert sorted(line["file"] for line in found) == meshes(tmp_path) and len(meshes(tmp_path)) == 8
    for line in found:
        about = json.loads((tmp_path / "out" / line["about"]).read_text())
        assert line["status"] == "done" and line["attempts"] == 1 and line["seconds"] > 0
        assert (about["prompt"], about["seed"], about["faces"]) == (line["prompt"], line["seed"], line["faces"])


def test_a_second_run_makes_what_is_new_or_gone_and_nothing_else(generate, corpus, tmp_path):
    assert generate() == 0
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in meshes(tmp_path)}
    (tmp_path / "out" / "a_red_cone_seed0.glb").unlink()
    corpus.write_text(corpus.read_text() + '"a pink dome"\n')
    assert generate() == 0
    after = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in meshes(tmp_path)}
    assert {name for name in after if after[name] != before.get(name)} == {"a_red_cone_seed0.glb", "a_pink_dome_seed0.glb"}
    assert {line["prompt"]: line["attempts"] for line in results(tmp_path)}["a red cone"] == 2
    assert len(results(tmp_path)) == 5 and generate() == 0 and len(results(tmp_path)) == 5


def test_other_settings_are_refused_and_overwriting_starts_anew(generate, tmp_path, capsys):
    assert generate() == 0
    assert generate("--target-faces", "80") == 2
    assert "mesh: then" in capsys.readouterr().err
    assert generate("--target-faces", "80", "--overwrite") == 0
    assert all(line["faces"] <= 80 and line["attempts"] == 1 for line in results(tmp_path))


def test_files_that_are_not_ours_are_not_replaced(generate, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a_blue_cube_seed0.json").write_text("mine")
    assert generate() == 2
    assert "a_blue_cube_seed0.json exists" in capsys.readouterr().err and meshes(tmp_path) == []
    assert (tmp_path / "out" / "a_blue_cube_seed0.json").read_text() == "mine"


def test_prompts_without_a_mesh_are_tried_again_listed_and_kept(generate, weights, tmp_path, capsys):
    """A generator whose field is full everywhere has no surface."""
    tensors, header = load_generator(weights)
    save_generator(tmp_path / "full.safetensors", tensors, header | {"sphere_radius": 3.0})
    assert generate("--weights", str(tmp_path / "full.safetensors"), "--retries", "2") == 1
    shown = capsys.readouterr().err
    assert "4 of 4 failed" in shown and "'a blue cube' (seed 0): the field is full" in shown
    assert [(line["status"], line["attempts"], line["file"]) for line in results(tmp_path)] == [("failed", 3, None)] * 4
    assert generate("--weights", str(tmp_path / "full.safetensors"), "--retries", "0") == 1
    assert [line["attempts"] for line in results(tmp_path)] == [4] * 4


def test_an_accident_in_one_batch_costs_that_batch_and_is_mended_by_the_retry(generate, tmp_path, monkeypatch):
    made, calls = predictor.CorpusPredictor._process, []

    def fail_once(self, batch):
        calls.append([prompt for prompt, _ in batch])
        if len(calls) == 1:
            monkeypatch.setattr(self, "make", lambda prompts, seeds: (_ for _ in ()).throw(RuntimeError("CUDA out of memory")))
            try:
                return made(self, batch)
            finally:
                monkeypatch.undo()
                monkeypatch.setattr(predictor.CorpusPredictor, "_process", fail_once)
        return made(self, batch)

    monkeypatch.setattr(predictor.CorpusPredictor, "_process", fail_once)
    assert generate("--batch-size", "2") == 0
    assert calls == [DIFFERENT[:2], DIFFERENT[2:], DIFFERENT[:1], DIFFERENT[1:2]]
    assert [line["attempts"] for line in results(tmp_path)] == [2, 2, 1, 1] and len(meshes(tmp_path)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "0"], "devices must be at least 1, got 0"),
        (["--retries", "-1"], "retries must be at least 0, got -1"),
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--format", "fbx"], "unknown mesh format 'fbx'"),
        (["--output", "one.glb"], "one.glb is one file"),
        (["--seed", "-1"], "a seed must lie between 0"),
        (["--steps", "0"], "steps must lie between 1"),
        (["--weights", "nowhere"], "there is no file or folder nowhere"),
        (["a cone", "--devices", "2"], "--devices is for a file of prompts alone"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(generate, tmp_path, capsys, arguments, message):
    assert generate(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err and captured.out == ""
    assert not list(tmp_path.rglob("*.glb"))


def start(corpus: Path, weights: str, *arguments: str) -> subprocess.Popen:
    given = ["--prompts", str(corpus), "--output", str(corpus.parent / "out"), "--weights", weights, "--batch-size", "2", *QUICK]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "prd_lightning.cli", "generate", *given, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


@pytest.mark.slow
def test_a_killed_run_is_completed_by_two_processes_without_a_repetition(corpus, weights, tmp_path):
    corpus.write_text("".join(f'"prompt number {number}"\n' for number in range(41)))
    killed = start(corpus, weights)
    deadline = time.monotonic() + 300
    while len(meshes(tmp_path)) < 5 and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    made = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in meshes(tmp_path)}
    assert 5 <= len(made) < 41 and not (tmp_path / "out" / "results.jsonl").exists()
    recorded = [line for part in (tmp_path / "out" / ".results").iterdir() for line in part.read_text().splitlines()]
    both = start(corpus, weights, "--devices", "2")
    output, _ = both.communicate(timeout=500)
    assert both.returncode == 0, output
    found = results(tmp_path)
    assert [line["prompt"] for line in found] == [f"prompt number {number}" for number in range(41)]
    assert sorted(line["file"] for line in found) == meshes(tmp_path) and {line["status"] for line in found} == {"done"}
    assert {line["process"] for line in found[len(recorded) :]} == {0, 1}
    assert not [path for path in (tmp_path / "out").iterdir() if ".partial" in path.name]
    for line in map(json.loads, recorded):
        assert (tmp_path / "out" / line["file"]).stat().st_mtime_ns == made[line["file"]], "what was written down is left alone"
