"""Folders in diffusers layout, old and new: today's names, safetensors, and what is missing or does not fit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prd_lightning.convert import convert
from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.formats import convert_folder
from prd_lightning.formats.diffusers_folder import NETWORK_FILE, TEXT_FILE
from prd_lightning.teachers import StableDiffusionTeacher
from prd_lightning.tinyworld import weights_root

OLD_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(weights_root() / "stable_diffusion", tmp_path / "old")
    return tmp_path / "old"


def rewrite(path: Path, change) -> dict[str, torch.Tensor]:
    tensors = change(load_file(path))
    save_file(tensors, path, {"format": "pt"})
    return tensors


def old_name(key: str) -> str:
    if "attentions" in key:
        for today, old in OLD_NAMES.items():
            key = key.replace(today, old)
    return key


def make_old(folder: Path) -> None:
    """As folders of 2022 were: pickles, old names, 1x1 kernels, a prefix and a table of positions."""
    tensors = load_file(folder / "vae" / NETWORK_FILE)
    renamed = {
        old_name(key): value[..., None, None] if "attentions" in key and value.ndim == 2 else value
        for key, value in tensors.items()
    }
    torch.save(renamed, folder / "vae" / "diffusion_pytorch_model.bin")
    (folder / "vae" / NETWORK_FILE).unlink()
    text = load_file(folder / "text_encoder" / TEXT_FILE)
    text = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in text.items()}
    torch.save(
        text | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, folder / "text_encoder" / "pytorch_model.bin"
    )
    (folder / "text_encoder" / TEXT_FILE).unlink()
    torch.save(load_file(folder / "unet" / NETWORK_FILE), folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / "unet" / NETWORK_FILE).unlink()


def test_an_old_folder_becomes_today_s_and_means_the_same(folder, tmp_path):
    make_old(folder)
    card = convert(folder, tmp_path / "new")
    assert card["format"] == "diffusers" and card["left_out"] == {"text_encoder: position_ids": 1}
    assert set(card["sha256"]) == {
        "vae/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.bin",
        "text_encoder/pytorch_model.bin",
    }
    new, shipped = (StableDiffusionTeacher.from_folder(place) for place in (tmp_path / "new", "tinyworld:stable_diffusion"))
    for ours, theirs in (
        (new.unet, shipped.unet),
        (new.vae, shipped.vae),
        (new.prompt_encoder.text_encoder, shipped.prompt_encoder.text_encoder),
    ):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_an_old_safetensors_folder_loads_as_it_is(folder):
    rewrite(folder / "vae" / NETWORK_FILE, lambda tensors: {old_name(key): value for key, value in tensors.items()})
    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    rewrite(
        folder / "text_encoder" / TEXT_FILE,
        lambda tensors: {f"text_model.{key.removeprefix('text_model.')}": value for key, value in tensors.items()} | positions,
    )
    old, shipped = (StableDiffusionTeacher.from_folder(place) for place in (folder, "tinyworld:stable_diffusion"))
    assert all(torch.equal(value, shipped.vae.state_dict()[name]) for name, value in old.vae.state_dict().items())
    tokens = [teacher.prompt_encoder.encode(["a red cone"]).tokens for teacher in (old, shipped)]
    assert torch.equal(*tokens)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_loads_also_under_its_own_file_name(folder, precision):
    path = folder / "unet" / NETWORK_FILE
    rewrite(path, lambda tensors: {key: value.to(precision) for key, value in tensors.items()})
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    teacher = StableDiffusionTeacher.from_folder(folder)
    assert teacher.unet.dtype == torch.float32
    assert {value.dtype for value in convert_folder(folder).tensors[f"unet/{NETWORK_FILE}"].values()} == {precision}


def test_extra_keys_are_refused_by_name(folder):
    """A safetensors with extra keys: when it is loaded, and when it is converted."""
    rewrite(folder / "unet" / NETWORK_FILE, lambda tensors: tensors | {"extra.weight": torch.zeros(2)})
    with pytest.raises(CheckpointFormatError, match=r"hold 1 tensors that its config.json has no place for, e.g. extra.weight"):
        StableDiffusionTeacher.from_folder(folder)
    with pytest.raises(CheckpointFormatError, match=r"1 are left over \(extra.weight\)"):
        convert_folder(folder)


def test_a_unet_of_another_family_is_refused_with_both_widths(folder):
    """A UNet for text of width 64 beside a text encoder of another width."""
    config = folder / "text_encoder" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(
        json.dumps(values | {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1})
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    narrow = CLIPTextModel(CLIPTextConfig.from_dict(json.loads(config.read_text())))
    save_file(
        {key: value.contiguous() for key, value in narrow.state_dict().items()},
        folder / "text_encoder" / TEXT_FILE,
        {"format": "pt"},
    )
    for load in (StableDiffusionTeacher.from_folder, convert_folder):
        with pytest.raises(CheckpointFormatError, match="reads text of width 64, but the text encoder beside it writes width 32"):
            load(folder)


def test_a_folder_for_another_slot_is_refused_with_both_widths(folder):
    with pytest.raises(
        CheckpointFormatError, match=r"reads text of width 64, but this place needs width 1024 \(Stable Diffusion 2.x\)"
    ):
        StableDiffusionTeacher.from_folder(folder, text_width=1024)


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "scheduler", "unet"])
def test_missing_parts_are_named(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(MissingWeightsError, match=f"no {'text encoder' if part == 'text_encoder' else part} in"):
        convert_folder(folder)


def test_missing_weights_are_named_with_what_was_looked_for(folder):
    (folder / "vae" / NETWORK_FILE).unlink()
    with pytest.raises(MissingWeightsError, match="no weights of vae.*diffusion_pytorch_model.fp16.safetensors"):
        convert_folder(folder)


def test_truncated_weights_are_refused(folder):
    path = folder / "unet" / NETWORK_FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointFormatError, match="is truncated"):
        convert_folder(folder)
