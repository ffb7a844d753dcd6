"""Parts of teachers from diffusers folders."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from prd_lightning.diffusion import NoiseSchedule
from prd_lightning.errors import CheckpointFormatError, ConfigurationError
from prd_lightning.text import PromptEncoder
from prd_lightning.weights import check_text_width, load_network, resolve_folder

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CAMERA_NUMBERS = 16


def _precision(name: str) -> torch.dtype:
    if name not in PRECISIONS:
        raise ConfigurationError(f"unknown precision {name!r}; known: {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def load_denoiser(
    folder: str | Path, precision: str = "float32", cameras: bool = False, text_width: int | None = None
) -> tuple[UNet2DConditionModel, PromptEncoder, NoiseSchedule]:
    """Noise predictor, text encoder and noise schedule of a folder.

    Raises:
        MissingWeightsError: a part is missing.
        CheckpointFormatError: the network takes cameras where it should not, or the other way round; or it does not read the
            text of the encoder beside it, or of ``text_width`` numbers a token.
    """
    folder = resolve_folder(folder)
    unet = load_network(UNet2DConditionModel, folder, "unet", _precision(precision))
    takes_cameras = unet.config.class_embed_type == "projection"
    if takes_cameras != cameras:
        raise CheckpointFormatError(
            f"{folder / 'unet'} {'takes' if takes_cameras else 'does not take'} cameras (class_embed_type="
            f"{unet.config.class_embed_type!r}), but this teacher needs a {'multi-view' if cameras else 'single-view'} network"
        )
    prompt_encoder = PromptEncoder.from_folder(folder)
    check_text_width(folder, unet.config.cross_attention_dim, prompt_encoder.width, text_width)
    return unet, prompt_encoder, NoiseSchedule.from_folder(folder / "scheduler")


def load_autoencoder(folder: str | Path, precision: str = "float32") -> AutoencoderKL:
    """The frozen VAE of a folder."""
    return load_network(AutoencoderKL, resolve_folder(folder), "vae", _precision(precision)).requires_grad_(False).eval()
