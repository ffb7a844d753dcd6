"""The published recipe, value by value, and the table of docs/recipe.md; the full-size modules that it describes."""

import math
import re
import resource
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel

from benchmarks.full_size import fill_at_random, full_size
from prd_lightning.cameras import CameraSettings, turntable_cameras
from prd_lightning.configuration import compose_config, plain
from prd_lightning.diffusion import unroll_timesteps
from prd_lightning.formats.multiview import VAE
from prd_lightning.formats.triplaneturbo import SD21_UNET
from prd_lightning.teachers.conversion import MVDREAM_UNET, NORMAL_DEPTH_UNET

TABLE = Path(__file__).resolve().parents[1] / "docs" / "recipe.md"
TEACHERS = ("stable_diffusion", "mvdream", "richdreamer_nd")
FALLING = [0, 1.0, 0.0, 20000]
BAD_WORDS = (
    "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, cropped, lowres, "
    "low quality, artifacts, duplicate, morbid, mutilated, poorly drawn face, deformed, dehydrated, bad proportions"
)
EXPECTED = {
    # Design section 1: the unroll.
    "module.unroll_steps": 4, "module.num_train_substeps": None,
    # Section 2: the generator. Section 3: the field.
    "generator.rank": 16, "generator.per_plane": True, "generator.plane_channels": 64, "generator.latent_size": 32,
    "generator.hidden": 64, "generator.sphere_radius": 0.5, "generator.text_width": 1024,
    # Section 4: the renderers.
    "renderer.volume.image_size": 128, "renderer.volume.global_size": 42, "renderer.volume.patch_size": 40,
    "renderer.volume.proposal_samples": 64, "renderer.volume.fine_samples": 128, "renderer.volume.near": 0.1,
    "renderer.volume.far": 4.0, "renderer.volume.inverse_standard_deviation": math.exp(4.605),
    "renderer.volume.bounding_radius": None, "renderer.volume.empty_margin": None,
    "renderer.volume.color_samples": None,
    "renderer.volume.color_gradient_scale": [0, 1.0, 0.01, 20000], "renderer.volume.surface_model": "neus",
    "renderer.volume.cosine_annealing": 1.0,
    "renderer.mesh.resolution": 128, "renderer.mesh.image_size": 512, "renderer.mesh.sdf_gradient_scale": 0.001,
    "renderer.mesh.depth": "clip", "renderer.mesh.background_focal_size": 128,
    # Section 5: cameras.
    "cameras.views_per_prompt": 4, "cameras.elevation_range": [0.0, 30.0], "cameras.fovy_range": [60.0, 60.0],
    "cameras.relative_distance_range": [0.8, 1.0],
    # Section 6: teachers, regularizers, optimizer.
    "teacher.stable_diffusion.guidance_scale": 7.5, "teacher.stable_diffusion.image_size": 512,
    "teacher.stable_diffusion.views_scored": 1, "teacher.stable_diffusion.first_view_text": True,
    "teacher.stable_diffusion.shift_ratio": 0.0, "teacher.stable_diffusion.weight": 1.0,
    "teacher.stable_diffusion.text_width": 1024,
    "teacher.mvdream.guidance_scale": [0, 20.0, 10.0, 20000], "teacher.mvdream.image_size": 256, "teacher.mvdream.views": 4,
    "teacher.mvdream.shift_ratio": 0.0, "teacher.mvdream.weight": 1.0, "teacher.mvdream.text_width": 1024,
    "teacher.richdreamer_nd.guidance_scale": 20.0, "teacher.richdreamer_nd.map_size": 32, "teacher.richdreamer_nd.views": 4,
    "teacher.richdreamer_nd.shift_ratio": 0.1, "teacher.richdreamer_nd.weight": 1.0, "teacher.richdreamer_nd.text_width": 768,
    "teacher.*.t_min": [0, 0.5, 0.02, 20000], "teacher.*.t_max": 0.98, "teacher.*.weighting": "dmd", "teacher.*.student": "asd",
    "teacher.*.shift_curve": "linear", "teacher.*.shift_limit": "before_draw",
    "teacher.*.renderers": ["volume", "mesh"], "teacher.*.negative_prompt": BAD_WORDS, "teacher.*.precision": "bfloat16",
    "module.eikonal_weight": FALLING, "module.sparsity_weight": FALLING, "module.learning_rate_factor": 1.0,
    "optimizer._target_": "pytorch_optimizer.Adan", "optimizer.lr": 2e-4, "optimizer.betas": [0.98, 0.92, 0.99],
    "optimizer.eps": 1e-15, "optimizer.weight_decay": 0.0, "data.batch_size": 2,
    "trainer.max_steps": 15000, "trainer.gradient_clip_val": None, "trainer.precision": "32-true",
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe() -> dict:
    return plain(compose_config(["experiment=triplaneturbo_sd21", "data.source.path=prompts.txt"]))


def look_up(recipe: dict, key: str) -> list:
    """Values of a dotted key; ``*`` is every teacher."""
    names = [key.replace("*", teacher) for teacher in TEACHERS] if "*" in key else [key]
    values = []
    for name in names:
        value = recipe
        for part in name.split("."):
            value = value[part]
        values.append(value)
    return values


@pytest.mark.parametrize("key", list(EXPECTED))
def test_every_value_is_the_published_one(recipe, key):
    expected = EXPECTED[key]
    for value in look_up(recipe, key):
        assert value == (pytest.approx(expected, rel=1e-12) if isinstance(expected, float) else expected)


def test_nothing_else_is_in_the_mix(recipe):
    assert set(recipe["teacher"]) == set(TEACHERS) and set(recipe["renderer"]) == {"volume", "mesh"}
    assert recipe["cameras"].keys() == {item.name for item in fields(CameraSettings)}


def test_the_table_has_every_value_and_no_other():
    rows = re.findall(r"^\| `([^`]+)` \|[^|]*\|[^|]*\| `([^`]*)` \|$", TABLE.read_text(), flags=re.MULTILINE)
    assert len(rows) == len(dict(rows))
    table = {key: yaml.safe_load(value) for key, value in rows}
    assert table.keys() == EXPECTED.keys()
    for key, value in table.items():
        assert value == (pytest.approx(EXPECTED[key], rel=1e-12) if isinstance(EXPECTED[key], float) else EXPECTED[key]), key


def test_the_unroll_visits_the_published_timesteps(recipe):
    assert list(unroll_timesteps(recipe["module"]["unroll_steps"], 1000)) == [999, 749, 499, 249]


def test_evaluation_cameras_are_the_published_ones():
    cameras, ones = turntable_cameras(4), torch.ones(4)
    torch.testing.assert_close(cameras.camera_to_world[:, :3, 3].norm(dim=-1), 3.0 * ones)
    torch.testing.assert_close(torch.rad2deg(cameras.fovy), 40.0 * ones)
    torch.testing.assert_close(torch.rad2deg(torch.asin(cameras.camera_to_world[:, 2, 3] / 3.0)), 15.0 * ones)


def values_of(*modules: torch.nn.Module, trainable: bool | None = None) -> int:
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return sum(each.numel() for each in parameters if trainable is None or each.requires_grad == trainable)


def test_full_size_counts(recipe):
    """The paper: 22.6 M trainable, 2.5 % of Stable Diffusion."""
    generator, field = full_size(recipe["generator"], "meta")
    trainable = values_of(generator, field, trainable=True)
    assert trainable == 22_684_160 == generator.trainable_parameter_count() + values_of(field)
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**SD21_UNET), AutoencoderKL(**VAE)
    frozen = values_of(unet, vae.decoder, vae.post_quant_conv)
    assert (values_of(unet), frozen) == (865_910_724, 865_910_724 + 49_490_199)
    assert 100 * trainable / frozen == pytest.approx(2.478, abs=5e-4)
    # The new last convolution replaces the decoder's own, which is not kept.
    assert values_of(generator, trainable=False) == frozen - values_of(vae.decoder.conv_out)
    assert generator.latent_shape == (4, recipe["generator"]["latent_size"], recipe["generator"]["latent_size"])
    assert generator.text_width == recipe["generator"]["text_width"]


def test_full_size_teachers(golden):
    for config, name in ((MVDREAM_UNET, "mvdream_sd21_4view_layout"), (NORMAL_DEPTH_UNET, "nd_mv_layout")):
        with torch.device("meta"):
            assert values_of(UNet2DConditionModel(**config)) == golden.settings(name)["n_params"]


@pytest.mark.slow
@torch.no_grad()
def test_one_pass_at_full_size(recipe):
    """Every layer at its real width, from latents of 4 x 4 instead of 32 x 32 to a field."""
    latent = torch.randn(6, 4, 4, 4)
    generator, field = (part.to_empty(device="cpu") for part in full_size(recipe["generator"], "meta"))
    fill_at_random(generator), fill_at_random(field)
    text = torch.randn(1, 77, recipe["generator"]["text_width"])
    noise = generator.predict(latent, 999, text)
    planes = generator.decode(latent - 0.5 * noise / noise.std())
    sdf, gradient = field.sdf_and_gradient(field.prepare(planes), torch.rand(1, 50, 3) - 0.5)
    assert noise.shape == (6, 4, 4, 4) and planes.shape == (1, 6, 32, 32, 32) and gradient.shape == (1, 50, 3)
    assert all(bool(values.isfinite().all()) and float(values.std()) > 0 for values in (noise, planes, sdf, gradient))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 * 2**20  # KiB on Linux
