"""Models with the topology of the real ones (every layer is there) and few channels, with random weights."""

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from prd_lightning.field import TriplaneField
from prd_lightning.formats.multiview import VAE
from prd_lightning.formats.triplaneturbo import SD21_UNET
from prd_lightning.generator import TriplaneGenerator
from prd_lightning.generator.official import official_view
from prd_lightning.teachers.conversion import MVDREAM_UNET, NORMAL_DEPTH_UNET
from prd_lightning.tinyworld import weights_root

TEXT_WIDTH = 64
"""Of the tiny world's text encoder, which stands in for the real one."""
_WIDTHS = {"block_out_channels": (8, 16, 32, 32), "norm_num_groups": 4}
_NARROW = _WIDTHS | {"cross_attention_dim": TEXT_WIDTH, "attention_head_dim": 2}
UNET = SD21_UNET | _NARROW | {"sample_size": 16}
MULTIVIEW_UNET = MVDREAM_UNET | _NARROW
NORMAL_DEPTH = NORMAL_DEPTH_UNET | _NARROW
NARROW_VAE = VAE | _WIDTHS | {"sample_size": 128}
CHANNELS, RANK, HIDDEN = 8, 2, 16


def build_base(folder: Path) -> Path:
    """A Stable Diffusion 2.1 in diffusers layout."""
    torch.manual_seed(11)
    UNet2DConditionModel(**UNET).save_pretrained(folder / "unet")
    AutoencoderKL(**NARROW_VAE).save_pretrained(folder / "vae")
    for part in ("tokenizer", "text_encoder", "scheduler"):
        shutil.copytree(weights_root() / "stable_diffusion" / part, folder / part)
    return folder


def trained_parts(folder: Path) -> tuple[TriplaneGenerator, TriplaneField]:
    """A generator on ``folder`` and a field, none of whose adapters is zero."""
    torch.manual_seed(12)
    generator, field = (
        TriplaneGenerator.from_folder(folder, plane_channels=CHANNELS, ranks=RANK),
        TriplaneField(CHANNELS // 2, HIDDEN),
    )
    with torch.no_grad():
        for value in generator.trainable_state_dict().values():
            value.add_(0.05 * torch.randn_like(value))
    return generator, field


def official_state(folder: Path) -> dict[str, Tensor]:
    """Random weights in the authors' layout, for the base in ``folder``."""
    view = {key: value.clone() for key, value in official_view(*trained_parts(folder)).items()}
    return {"geometry.bbox": torch.tensor([[-1.0] * 3, [1.0] * 3])} | view


def save_official(state: dict[str, Tensor], path: Path) -> Path:
    """The file as the authors' code writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 0, "global_step": 0, "pytorch-lightning_version": "2.0.0", "state_dict": state}, path)
    return path
