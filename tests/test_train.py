"""``prd train`` from a config to a run folder, at the smallest sizes."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from prd_lightning import cli
from prd_lightning.pipeline import TextToMeshPipeline
from prd_lightning.shards import write_shards

SMALL = [
    "trainer.max_steps=2",
    "trainer.log_every_n_steps=1",
    "world.batch_size=1",
    "world.learning_rate_factor=1.0",
    "renderer.volume.image_size=8",
    "renderer.mesh.resolution=8",
    "renderer.mesh.image_size=8",
    "preview.prompts=[a red cone]",
    "preview.every_n_steps=1",
    "preview.resolution=12",
    "preview.image_size=24",
    "preview.views=2",
    "preview.mesh_resolution=16",
    "evaluation.enabled=false",
    "+trainer.enable_progress_bar=false",
]


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "prd_lightning.cli", "train", *SMALL, *overrides]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    overrides = [f"output={folder}", "checkpoint.every_n_steps=1"]
    done = subprocess.run(command(*overrides), capture_output=True, text=True, check=True)
    return folder, done


def test_the_last_line_is_the_run_folder(run):
    folder, done = run
    assert done.stdout.splitlines()[-1] == str(folder)


def test_the_folder_holds_config_metrics_previews_meshes_and_checkpoints(run):
    folder, _ = run
    assert "max_steps: 2" in (folder / "config.yaml").read_text()
    metrics = (folder / "metrics.csv").read_text().splitlines()
    assert {"train/loss", "train/richdreamer_nd", "train/stable_diffusion"} <= set(metrics[0].split(",")) and len(metrics) == 3
    assert sorted(path.name for path in (folder / "previews").iterdir()) == [f"step_00000{step}.png" for step in range(3)]
    assert Image.open(folder / "previews" / "step_000002.png").width >= 256
    assert (folder / "meshes" / "a_red_cone_seed0.glb").stat().st_size > 1000
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last", "step_000001", "step_000002"}


def test_a_checkpoint_holds_the_trained_part_only(run):
    folder, _ = run
    path = folder / "checkpoints" / "last" / "generator.safetensors"
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
    assert names and not any("base" in name or "text_encoder" in name or "teachers" in name for name in names)
    assert {name.partition(".")[0] for name in names} == {"generator", "field", "background"}
    state = torch.load(folder / "checkpoints" / "last" / "trainer_state.ckpt", weights_only=True)
    assert state["global_step"] == 2 and state["optimizer_states"]
    # The generator file holds the average; what going on needs of the weights themselves is trained as well.
    assert set(state["state_dict"]) == names


def test_the_log_says_which_backends_were_chosen_and_why(run):
    _, done = run
    shown = done.stdout + done.stderr
    assert "rasterizer: torch (" in shown and "iso-surface:" in shown and "attention:" in shown


def test_the_pipeline_loads_a_run(run):
    folder, _ = run
    pipeline = TextToMeshPipeline.from_pretrained(folder)
    made = pipeline("a red cone", resolution=16).meshes[0]
    assert made is not None and len(made.faces) > 100


def test_a_second_run_in_the_same_folder_is_refused_and_a_resumed_one_goes_on(run, tmp_path):
    folder, _ = run
    refused = subprocess.run(command(f"output={folder}"), capture_output=True, text=True)
    assert refused.returncode == 2 and "overwrite=true" in refused.stderr and "Traceback" not in refused.stderr
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run(command(f"output={whole}", "trainer.max_steps=3"), capture_output=True, check=True)
    subprocess.run(command(f"output={parts}", "trainer.max_steps=1"), capture_output=True, check=True)
    resumed = subprocess.run(command(f"output={parts}", "ckpt_path=last", "trainer.max_steps=3"), capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    file = "checkpoints/last/generator.safetensors"
    first, second = load_file(parts / file), load_file(whole / file)
    assert all(torch.equal(first[name], second[name]) for name in second)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["seed=-1"], "seed"),
        (["data=file", "data.source.path=/nowhere/prompts.txt"], "/nowhere/prompts.txt"),
        (["generator.base=/nowhere/weights"], "/nowhere/weights"),
        (["output=/dev/null/run"], "/dev/null"),
        (["ckpt_path=/nowhere/checkpoint"], "/nowhere/checkpoint"),
        (["teacher.stable_diffusion.renderers=[raytracer]"], "raytracer"),
        (["module.unroll_steps=0"], "steps must lie between 1"),
    ],
)
def test_mistakes_are_told_without_a_traceback(overrides, named, tmp_path, capsys):
    output = [] if any(text.startswith("output=") for text in overrides) else [f"output={tmp_path / 'run'}"]
    assert cli.main(["train", *SMALL, *output, *overrides]) == 2
    shown = capsys.readouterr().err
    assert named in shown and "prd train: error:" in shown and "Traceback" not in shown


def test_a_checkpoint_of_another_architecture_is_refused(run, tmp_path, capsys):
    folder, _ = run
    checkpoint = folder / "checkpoints" / "last"
    status = cli.main(["train", *SMALL, f"output={tmp_path / 'run'}", f"ckpt_path={checkpoint}", "generator.rank=8"])
    assert status == 2 and "rank" in capsys.readouterr().err


def test_a_checkpoint_that_only_deepspeed_can_read_is_refused_before_anything_is_written(run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    write_shards(folder / "checkpoints" / "last", stage=3, world_size=8)
    before = {path: path.read_bytes() for path in folder.glob("*.*")}
    assert cli.main(["train", *SMALL, f"output={folder}", "ckpt_path=last"]) == 2
    assert "go on with strategy=deepspeed_stage_3 with 8 processes" in capsys.readouterr().err
    written = {"train.log", "job.json", ".lock"}
    assert {path: path.read_bytes() for path in before if path.name not in written} == {
        path: content for path, content in before.items() if path.name not in written
    }


def test_a_training_begins_with_the_weights_of_another_one(run, tmp_path):
    """At a learning rate of zero it ends with them."""
    done = subprocess.run(
        command(f"output={tmp_path / 'run'}", f"start_from={run[0]}", "optimizer.lr=0", "preview.prompts=[]"),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"beginning with the weights of {run[0]}" in done.stderr + done.stdout
    files = [folder / "checkpoints" / "last" / "generator.safetensors" for folder in (run[0], tmp_path / "run")]
    torch.testing.assert_close(load_file(files[1]), load_file(files[0]))


@pytest.mark.slow
def test_a_sweep_makes_a_folder_for_each_job(tmp_path):
    sweep = ["-m", *SMALL, "trainer.max_steps=1", f"output={tmp_path}", "teacher=mvdream,richdreamer", "seed=1"]
    module = [sys.executable, "-m", "prd_lightning.train"]
    done = subprocess.run([*module, *sweep], capture_output=True, text=True, check=True)
    folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert folders == ["0_mvdream_seed1", "1_richdreamer_seed1"], done.stdout
    assert {"summary.csv", "jobs.csv", "summary.md", "summary.png"} <= {path.name for path in tmp_path.iterdir()}
    assert all((tmp_path / name / "metrics.csv").is_file() for name in folders)


def test_scores_on_held_out_prompts_are_written(run, tmp_path):
    folder, _ = run
    prompts, scores = tmp_path / "prompts.txt", tmp_path / "scores.json"
    prompts.write_text("a red cone\na blue cube\n")
    assert cli.main(["evaluate", "--weights", str(folder), "--prompts", str(prompts), "--output", str(scores)]) == 0
    written = json.loads(scores.read_text())
    assert [row["prompt"] for row in written["rows"]] == ["a red cone", "a blue cube"] and 0 <= written["iou"] <= 1
