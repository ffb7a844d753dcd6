"""Folders in diffusers layout: checked tensor by tensor, and brought to safetensors with today's names.

Old folders hold pickles (read without running code), autoencoders whose attention has other names, and text encoders with a
``text_model.`` prefix and a table of positions.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.formats.base import Conversion
from prd_lightning.teachers.conversion import check_fits
from prd_lightning.tensorfiles import read_tensors
from prd_lightning.weights import IGNORABLE, check_text_width

NETWORK_FILE, TEXT_FILE = "diffusion_pytorch_model.safetensors", "model.safetensors"
STEMS = {"unet": ("diffusion_pytorch_model",), "vae": ("diffusion_pytorch_model",), "text_encoder": ("model", "pytorch_model")}
ENDINGS = (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")
OPTIONAL = ("vae",)
"""Parts that a teacher without autoencoder lacks."""
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def is_diffusers_folder(folder: Path) -> bool:
    """Whether there is a ``unet`` with a configuration."""
    return (folder / "unet" / "config.json").is_file()


def weight_file(folder: Path, part: str) -> Path:
    """The file that holds the tensors of a part; whole safetensors files come first.

    Raises:
        MissingWeightsError: there is none; the message lists the names that were looked for.
    """
    names = [f"{stem}{ending}" for ending in ENDINGS for stem in STEMS[part]]
    for name in names:
        if (folder / part / name).is_file():
            return folder / part / name
    raise MissingWeightsError(f"no weights of {part} in {folder / part}; looked for {', '.join(names)}")


def read_part(folder: Path, part: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of a part.

    Raises:
        MissingWeightsError: one of them is missing.
        CheckpointFormatError: one of them is damaged.
    """
    path = folder / part / "config.json"
    if not path.is_file():
        what = "text encoder" if part == "text_encoder" else part
        raise MissingWeightsError(f"no {what} in {folder}: {path} does not exist")
    try:
        config = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointFormatError(f"{path} is not valid JSON: {error}") from error
    return config, read_tensors(weight_file(folder, part))


def convert_folder(folder: Path) -> Conversion:
    """Our layout of a diffusers folder.

    Raises:
        MissingWeightsError: UNet, text encoder, tokenizer or noise schedule are missing.
        CheckpointFormatError: tensors do not fit their configuration, or UNet and text encoder do not fit each other.
    """
    conversion = Conversion({})
    parts = [part for part in STEMS if part not in OPTIONAL or (folder / part).is_dir()]
    for part in parts:
        config, state = read_part(folder, part)
        kept, dropped = _todays_names(part, state)
        check_fits(_network(part, config), kept, f"{part} of {folder}")
        conversion.tensors[f"{part}/{TEXT_FILE if part == 'text_encoder' else NETWORK_FILE}"] = kept
        conversion.configs[f"{part}/config.json"] = config
        if dropped:
            conversion.left_out[f"{part}: {IGNORABLE}"] = dropped
    written = conversion.configs["text_encoder/config.json"]["hidden_size"]
    check_text_width(folder, conversion.configs["unet/config.json"]["cross_attention_dim"], written)
    for part in ("tokenizer", "scheduler"):
        if not (folder / part).is_dir():
            raise MissingWeightsError(f"no {part} in {folder}: {folder / part} does not exist")
        conversion.folders[part] = folder / part
    return conversion


def _network(part: str, config: Mapping[str, Any]) -> nn.Module:
    with torch.device("meta"):
        if part == "text_encoder":
            return CLIPTextModel(CLIPTextConfig.from_dict(dict(config)))
        return {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part].from_config(dict(config))


def _todays_names(part: str, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Tensors by the names of today's classes, and how many were left out since they are no weights."""
    if part == "text_encoder":
        kept = {key: value for key, value in state.items() if not key.endswith(IGNORABLE)}
        return {key.removeprefix("text_model."): value for key, value in kept.items()}, len(state) - len(kept)
    if part == "vae":
        return {_attention_name(key): _matrix(key, value) for key, value in state.items()}, 0
    return dict(state), 0


def _attention_name(key: str) -> str:
    match = re.fullmatch(r"(.+\.attentions\.\d+)\.(\w+)\.(weight|bias)", key)
    return f"{match[1]}.{_OLD_ATTENTION[match[2]]}.{match[3]}" if match and match[2] in _OLD_ATTENTION else key


def _matrix(key: str, value: Tensor) -> Tensor:
    """A 1x1 kernel of an attention as the matrix that it is."""
    return value.flatten(1) if ".attentions." in key and value.ndim == 4 else value
