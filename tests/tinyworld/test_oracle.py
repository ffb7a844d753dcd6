"""The exact teacher: nothing to say about the truth, and a gradient that points to it."""

import torch

from prd_lightning.cameras import CameraSettings, sample_training_cameras
from prd_lightning.rendering import RenderedMaps
from prd_lightning.tinyworld.grammar import parse
from prd_lightning.tinyworld.oracle import OracleTeacher
from prd_lightning.tinyworld.renders import render_scene

PROMPTS = ["a red cube", "a green torus"]


def true_maps(cameras, prompts: list[str]) -> RenderedMaps:
    parts = [render_scene(parse(prompt), cameras.select(slice(4 * i, 4 * i + 4)), 8) for i, prompt in enumerate(prompts)]
    rgb, opacity, disparity, normal = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("rgb", "opacity", "disparity", "normal_camera")
    )
    return RenderedMaps(rgb, opacity, opacity, disparity, normal, normal)


def test_the_truth_has_no_loss_and_no_gradient():
    cameras = sample_training_cameras(2, CameraSettings(), torch.Generator().manual_seed(0))
    result = OracleTeacher().map_gradients({"volume": true_maps(cameras, PROMPTS)}, PROMPTS, cameras, 0)
    assert result.loss == 0 and not any(value.any() for value in result.gradients["volume"].values())


def test_the_gradient_is_the_scaled_difference_from_the_truth():
    cameras = sample_training_cameras(2, CameraSettings(), torch.Generator().manual_seed(0))
    truth, swapped = true_maps(cameras, PROMPTS), true_maps(cameras, PROMPTS[::-1])
    result = OracleTeacher(("rgb",)).map_gradients({"volume": swapped}, PROMPTS, cameras, 0)
    residual = swapped.rgb - truth.rgb
    expected = residual / (residual.abs().mean(dim=(1, 2, 3), keepdim=True) + 0.1) / (4 * 8 * 8 * 3)
    torch.testing.assert_close(result.gradients["volume"]["rgb"], expected)
    assert result.loss > 0
