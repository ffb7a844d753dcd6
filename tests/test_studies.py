"""The studies behind docs/tiny_world.md run with today's library, and what they fit moves towards the truth."""

from pathlib import Path

import pytest
import torch

from benchmarks.studies import denoiser, direct_supervision, part_colors
from benchmarks.studies.exact_teacher import FEW_SAMPLES, LEVELS, VARIANTS, fit
from prd_lightning import cli
from prd_lightning.cameras import sample_training_cameras
from prd_lightning.teachers import MVDreamTeacher, StableDiffusionTeacher
from prd_lightning.text import PromptEncoder
from prd_lightning.tinyworld import weights_folder
from prd_lightning.tinyworld.dataset import CAMERAS, render_groups
from prd_lightning.tinyworld.grammar import parse
from prd_lightning.tinyworld.renders import render_scene
from prd_lightning.tinyworld.shapes import Scene


def test_true_distances_are_learned_within_a_few_steps():
    fitted = fit("a red cube", steps=40)
    assert fitted["iou"] > 0.8 and fitted["volume_ratio"] == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("levels", [None, LEVELS], ids=["exact", "tiny"])
def test_normals_and_disparity_move_a_ball_towards_a_disk(levels: tuple[float, float] | None):
    """A sphere of radius 0.5, which the field begins as, has an IoU of 0.32 with the disk."""
    assert fit("a red disk", steps=12, volume=FEW_SAMPLES, levels=levels)["iou"] > 0.4


def test_every_variant_names_what_it_fits_to():
    assert "points" in VARIANTS and all("volume" in settings or "mesh" in settings for settings in list(VARIANTS.values())[1:])


def test_a_predictor_of_the_velocity_learns_clean_maps_sooner_than_one_of_the_noise(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(denoiser, "BATCH_SIZE", 4)
    scenes = [Scene.single(shape, "red") for shape in ("cube", "cone", "torus", "disk")]
    groups = render_groups(scenes, tmp_path / "renders.safetensors", workers=1)
    text = PromptEncoder.from_folder(weights_folder("richdreamer_nd"))
    trained = {kind: denoiser.train_variant(groups, 6, text, kind) for kind in ("epsilon", "v_prediction")}
    found = {kind: denoiser.errors(groups, *model, text) for kind, model in trained.items()}
    assert found["v_prediction"][900] < 0.3 * found["epsilon"][900]


@pytest.mark.parametrize(("text", "length", "bound"), [("encoder", 20, 0.8), ("embeddings", 40, 0.85)])
def test_a_generator_learns_true_distances_and_colors(text: str, length: int, bound: float):
    """A table of embeddings begins as noise, so it needs more steps."""
    before, after = (direct_supervision.train(steps, batch_size=2, text=text) for steps in (1, length))
    scenes = [Scene.single("cone", "red"), Scene.single("disk", "blue")]
    errors = []
    for parts in (before, after):
        with torch.no_grad():
            planes = direct_supervision.estimate(parts, ["a red cone", "a blue disk"], torch.Generator().manual_seed(0))
            errors.append(direct_supervision.error(parts, planes, scenes, torch.Generator().manual_seed(0)).item())
    assert errors[1] < bound * errors[0]


def test_a_generator_can_be_trained_with_the_exact_teacher(tmp_path: Path):
    small = ["generator.steps=1", "trainer.max_steps=1", "trainer.log_every_n_steps=1", "world.batch_size=1"]
    folder, small = tmp_path / "run", [*small, "world.evaluate=false"]
    assert cli.main(["train", "teacher=exact", *small, "preview.prompts=[a red cone]", f"output={folder}"]) == 0
    assert {"train/geometry", "train/color"} <= set((folder / "metrics.csv").read_text().splitlines()[0].split(","))


def test_parts_have_their_colors_in_true_pictures_and_lack_them_in_grey_ones():
    scenes = [parse("a red cone on a blue cube"), parse("a green disk beside a pink torus")]
    cameras = sample_training_cameras(2, CAMERAS, torch.Generator().manual_seed(0))
    maps = [render_scene(scene, cameras.select(slice(4 * index, 4 * index + 4)), 32) for index, scene in enumerate(scenes)]
    true, opacity = (torch.cat([getattr(rendered, name) for rendered in maps]) for name in ("rgb", "opacity"))
    assert part_colors.right_parts(scenes, true, true) == [[True, True]] * 2
    assert part_colors.right_parts(scenes, true, opacity.expand_as(true) * 0.45) == [[False, False]] * 2
    grey = opacity * 0.45 + 1 - opacity
    single = StableDiffusionTeacher.from_folder(weights_folder("stable_diffusion"), image_size=32, views_scored=4)
    for teacher in (single, MVDreamTeacher.from_folder(weights_folder("mvdream"), image_size=32, views=4)):
        estimated = part_colors.estimates(teacher, scenes, cameras, opacity, 20)
        assert (estimated - grey).abs().mean() < 0.03, "with hardly any noise a teacher returns its input"
