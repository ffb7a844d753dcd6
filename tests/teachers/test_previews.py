"""``prd preview-teacher``: the teacher of a config is sampled, all views, on a sheet."""

import numpy
import pytest
import torch
from PIL import Image

from prd_lightning import cli
from prd_lightning.preview_teacher import PARTS, configured_teacher
from prd_lightning.teachers.previews import preview_cameras, teacher_sheet


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_tiny_world_is_drawn(part, tmp_path):
    path = tmp_path / f"{part}.png"
    given = ["a red cone", "a blue cube", "--steps", "2", "--output", str(path), "--device", "cpu"]
    assert cli.main(["preview-teacher", part, *given]) == 0
    rows = 2 if part == "richdreamer_nd" else 1
    sheet = Image.open(path)
    assert sheet.width == 4 * 128 and sheet.height > 2 * rows * 128


def test_the_sheet_shows_what_the_teacher_samples(tmp_path):
    teacher, cameras = configured_teacher("mvdream"), preview_cameras(1)
    teacher_sheet(teacher, ["a red cone"], cameras, tmp_path / "sheet.png", steps=2, guidance_scale=1.5, seed=4)
    expected = teacher.sample(["a red cone"], cameras, 2, 1.5, 4)
    sheet = torch.from_numpy(numpy.asarray(Image.open(tmp_path / "sheet.png")).copy()).float() / 255
    shown = sheet[-128:].unflatten(1, (4, 128)).permute(1, 0, 2, 3)[:, 2::4, 2::4]
    torch.testing.assert_close(shown, expected, atol=3e-3, rtol=0)


def test_the_first_camera_stands_in_front():
    cameras = preview_cameras(2, views=3, elevation=10.0)
    assert cameras.azimuth.tolist() == [0, 120, 240] * 2 and set(cameras.elevation.tolist()) == {10.0}


def test_settings_are_those_of_the_config_and_can_be_overridden():
    teacher = configured_teacher("mvdream", overrides=["teacher.mvdream.guidance_scale=7"])
    assert teacher.guidance_scale == 7 and teacher.image_size == 32


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["zero123", "a cone"], "conf/teacher/part has stable_diffusion, mvdream, richdreamer_nd"),
        (["mvdream", "a cone", "--world", "mars"], "mars"),
        (["mvdream", "a cone", "--steps", "0"], "steps must lie between 1 and 1000, got 0"),
        (["mvdream", "a cone", "--seed", "-1"], "seed"),
        (["mvdream", "a cone", "--world", "sd21", "--set", "world.mvdream.folder=/nowhere"], "/nowhere"),
        (["mvdream", " "], "blank"),
    ],
)
def test_mistakes_are_told(given, message, tmp_path, capsys):
    assert cli.main(["preview-teacher", *given, "--output", str(tmp_path / "sheet.png"), "--device", "cpu"]) == 2
    shown = capsys.readouterr().err
    assert message in shown and "Traceback" not in shown and not (tmp_path / "sheet.png").exists()
