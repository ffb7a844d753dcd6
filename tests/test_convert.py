"""``prd convert`` as a user types it: folders with cards, the way back, and one line for every mistake."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from reduced import MULTIVIEW_UNET, NARROW_VAE, build_base, official_state, save_official
from safetensors.torch import load_file

from prd_lightning import cli
from prd_lightning.checkpoints import GENERATOR_FILE, load_generator
from prd_lightning.convert import CARD_FILE
from prd_lightning.tensorfiles import file_sha256


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``base`` and the authors' file for it."""
    folder = tmp_path_factory.mktemp("models")
    build_base(folder / "base")
    save_official(official_state(folder / "base"), folder / "triplane_turbo_sd_v1.pth")
    return folder


@pytest.fixture
def convert(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRD_WEIGHTS", str(tmp_path / "weights"))

    def call(source: str | Path, *arguments: str) -> int:
        return cli.main(["convert", str(models / source), *map(str, arguments)])

    return call


def test_the_authors_file_becomes_a_generator_with_a_card(convert, models, tmp_path, capsys):
    source = models / "triplane_turbo_sd_v1.pth"
    assert convert(source, "--to", "weights/triplaneturbo", "--base", models / "base") == 0
    assert capsys.readouterr().out.split() == ["weights/triplaneturbo"]
    folder = tmp_path / "weights" / "triplaneturbo"
    assert sorted(path.name for path in folder.iterdir()) == [CARD_FILE, GENERATOR_FILE]
    card, (tensors, header) = json.loads((folder / CARD_FILE).read_text()), load_generator(folder / GENERATOR_FILE)
    assert (card["format"], card["source"], card["sha256"]) == ("triplaneturbo", source.name, file_sha256(source))
    assert (card["bytes"], card["tensors"], card["left_out"]) == (source.stat().st_size, 1110, {"geometry.bbox": 1})
    assert "licence" in card and card["base"] == str(models / "base")
    listed = card["files"][GENERATOR_FILE]
    assert listed["sha256"] == file_sha256(folder / GENERATOR_FILE) and listed["tensors"] == len(tensors)
    assert listed["values"] == card["values"] - 6 and listed["precisions"] == ["float32"]
    assert header["base"] == str((models / "base").resolve())


def test_there_and_back(convert, tmp_path, models):
    assert convert("triplane_turbo_sd_v1.pth", "--to", "ours", "--base", models / "base") == 0
    for name in ("back.safetensors", "back.pth"):
        assert convert(tmp_path / "ours", "--to", name, "--export", "triplaneturbo") == 0
    given = torch.load(models / "triplane_turbo_sd_v1.pth", weights_only=True)["state_dict"]
    first, second = load_file(tmp_path / "back.safetensors"), torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    for back in (first, second):
        assert back.keys() == given.keys() - {"geometry.bbox"} and all(torch.equal(back[key], given[key]) for key in back)


def test_a_multi_view_file_of_another_size(convert, models, tmp_path):
    from diffusers import UNet2DConditionModel

    from prd_lightning.teachers.conversion_back import unet_state_to_ldm

    torch.save({"state_dict": unet_state_to_ldm(UNet2DConditionModel(**MULTIVIEW_UNET).state_dict())}, tmp_path / "narrow.pt")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"_class_name": "UNet2DConditionModel", **MULTIVIEW_UNET}))
    options = ("--to", "mv", "--format", "mvdream", "--unet-config", config, "--base", models / "base")
    assert convert(tmp_path / "narrow.pt", *options) == 0
    names = {path.name for path in (tmp_path / "mv").iterdir()}
    assert names == {CARD_FILE, "unet", "vae", "scheduler", "tokenizer", "text_encoder"}
    assert json.loads((tmp_path / "mv" / "vae" / "config.json").read_text())["block_out_channels"] == list(
        NARROW_VAE["block_out_channels"]
    )


def test_a_diffusers_folder(convert, tmp_path):
    assert convert("base", "--to", "copy") == 0
    card = json.loads((tmp_path / "copy" / CARD_FILE).read_text())
    assert card["format"] == "diffusers" and set(card["files"]) == set(card["sha256"]) and len(card["files"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["triplane_turbo_sd_v1.pth", "--to", "new"], "width 64, but width 1024"),  # the built-in base is Stable Diffusion 2.1
        (["triplane_turbo_sd_v1.pth", "--to", "new", "--format", "mvdream"], "has no UNet|no known part"),
        (["triplane_turbo_sd_v1.pth", "--to", "new", "--base", "nowhere"], "no weight folder nowhere"),
        (["triplane_turbo_sd_v1.pth", "--to", "taken"], "taken exists and is not empty; .* --overwrite"),
        (["triplane_turbo_sd_v1.pth", "--to", "taken/file"], "taken/file is a file"),
        (
            ["triplane_turbo_sd_v1.pth", "--to", "new", "--format", "triplaneturbo", "--unet-config", "x.json"],
            "multi-view format only",
        ),
        (["absent.pth", "--to", "new"], "no checkpoint .*absent.pth"),
        (["", "--to", "new"], "no folder in diffusers layout"),
        (["base", "--to", "taken/file", "--export", "mvdream"], "taken/file exists"),
        (["base", "--to", "back.pt", "--export", "triplaneturbo"], "no generator file"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(convert, tmp_path, capsys, arguments, message):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    assert convert(*arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("prd convert: error:") and "Traceback" not in shown
    import re

    assert re.search(message, shown), shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"] and (tmp_path / "taken" / "file").read_text() == "mine"


def test_a_file_of_no_known_format_is_told_what_is_known(convert, tmp_path, capsys):
    torch.save({"model.weight": torch.zeros(2)}, tmp_path / "other.pt")
    assert convert(tmp_path / "other.pt", "--to", "new") == 2
    shown = capsys.readouterr().err
    assert "model.weight" in shown and all(name in shown for name in ("mvdream", "richdreamer", "triplaneturbo", "diffusers"))


def test_overwrite_replaces_the_folder_as_a_whole(convert, models, tmp_path):
    shutil.copytree(models / "base", tmp_path / "taken")
    assert convert("triplane_turbo_sd_v1.pth", "--to", "taken", "--base", models / "base", "--overwrite") == 0
    assert sorted(path.name for path in (tmp_path / "taken").iterdir()) == [CARD_FILE, GENERATOR_FILE]
