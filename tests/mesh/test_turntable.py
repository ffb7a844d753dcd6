"""Turntables in motion: as many frames as asked for, the object turns, both halves are in place; and what cannot be written."""

import importlib.util
import sys

import numpy
import pytest
from PIL import Image
from small_disk import largest_file

from prd_lightning.errors import (
    BackendUnavailableError,
    ConfigurationError,
    OutputExistsError,
    OutputNotWritableError,
)
from prd_lightning.mesh import check_turntable, save_turntable

FRAMES, SIZE = 6, 48
needs_av = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="PyAV is not installed (extra: video)")


def gif_frames(path) -> list[numpy.ndarray]:
    picture = Image.open(path)
    return [numpy.asarray(picture.convert("RGB")) for number in range(picture.n_frames) if not picture.seek(number)]


def mp4_frames(path) -> list[numpy.ndarray]:
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("kind", ["gif", pytest.param("mp4", marks=needs_av)])
def test_the_object_turns(wedge, tmp_path, kind):
    path = save_turntable(wedge, "a wedge", tmp_path / f"turn.{kind}", frames=FRAMES, size=SIZE)
    frames = gif_frames(path) if kind == "gif" else mp4_frames(path)
    assert len(frames) == FRAMES and all(frame.shape == (SIZE, 2 * SIZE, 3) for frame in frames)
    for frame in frames:
        assert (frame[2, 2] > 245).all() and abs(frame[2, SIZE + 4] - numpy.array([128, 128, 255.0])).max() < 16
    colors = numpy.stack([frame[:, :SIZE] for frame in frames]).astype(int)
    seen = (colors < 235).any(axis=-1)
    red = [colors[number][seen[number]][:, 0].mean() for number in range(FRAMES)]  # red grows towards the front
    assert red[0] > red[FRAMES // 2] + 40
    assert abs(colors[1] - colors[FRAMES - 1]).max() > 50  # left and right differ: it does turn


def test_a_sheet_by_the_same_name(wedge, tmp_path):
    assert Image.open(save_turntable(wedge, "a wedge", tmp_path / "turn.PNG")).width == 8 * 192


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("turn.avi", {}, "unknown kind of turntable 'avi'; known: png, gif, mp4"),
        ("turn.gif", {"frames": 1}, "two frames"),
        ("turn.gif", {"size": 47}, "even size"),
    ],
)
def test_mistakes(wedge, tmp_path, name, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        save_turntable(wedge, "a wedge", tmp_path / name, **arguments)
    assert not list(tmp_path.iterdir())


def test_mp4_without_pyav_is_told_before_any_work(monkeypatch, wedge, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match=r"prd_lightning\[video\]"):
        check_turntable("mp4")
    with pytest.raises(BackendUnavailableError):
        save_turntable(wedge, "a wedge", tmp_path / "turn.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["png", "gif", pytest.param("mp4", marks=needs_av)])
def test_a_full_disk_leaves_nothing_behind(wedge, tmp_path, kind):
    with largest_file(500), pytest.raises(OutputNotWritableError, match="cannot write"):
        save_turntable(wedge, "a wedge", tmp_path / f"turn.{kind}", frames=2, size=SIZE)
    assert not list(tmp_path.iterdir())


def test_existing_files_stay(wedge, tmp_path):
    (tmp_path / "turn.gif").write_text("mine")
    with pytest.raises(OutputExistsError):
        save_turntable(wedge, "a wedge", tmp_path / "turn.gif", frames=2, size=SIZE)
    assert (tmp_path / "turn.gif").read_text() == "mine"
