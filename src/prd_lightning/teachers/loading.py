"""Parts of teachers from diffusers folders, or straight from the original checkpoints, which are converted in memory.

A location is a folder in diffusers layout, a file as its owner published it (``sd-v2.1-base-4view.pt``, ``nd_mv_ema.ckpt``), or a
folder with that one file in it. What such a file does not hold, tokenizer and text encoder, is taken from beside it, else from
the base model that its weight card names.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from prd_lightning.cards import card_of_folder
from prd_lightning.diffusion import NoiseSchedule
from prd_lightning.errors import CheckpointFormatError, ConfigurationError
from prd_lightning.tensorfiles import PICKLE_SUFFIXES, SAFETENSORS_SUFFIX, read_tensors
from prd_lightning.text import PromptEncoder
from prd_lightning.weights import (
    SHIPPED_PREFIX,
    check_text_width,
    load_network,
    local_path,
    resolve_folder,
    weights_directory,
)

if TYPE_CHECKING:
    from prd_lightning.formats import Conversion

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CAMERA_NUMBERS = 16


def _precision(name: str) -> torch.dtype:
    if name not in PRECISIONS:
        raise ConfigurationError(f"unknown precision {name!r}; known: {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def load_denoiser(
    folder: str | Path, precision: str = "float32", cameras: bool = False, text_width: int | None = None
) -> tuple[UNet2DConditionModel, PromptEncoder, NoiseSchedule]:
    """Noise predictor, text encoder and noise schedule of a location.

    Raises:
        MissingWeightsError: a part is missing.
        CheckpointFormatError: the network takes cameras where it should not, or the other way round; or it does not read the
            text of the encoder beside it, or of ``text_width`` numbers a token; or a file is damaged or of an unknown format.
    """
    original = original_file(folder)
    if original is None:
        folder = text_folder = resolve_folder(folder)
        unet = load_network(UNet2DConditionModel, folder, "unet", _precision(precision))
        schedule = None
    else:
        unet, text_folder, schedule = _denoiser_of_file(original, _precision(precision), text_width)
        folder = original
    takes_cameras = unet.config.class_embed_type == "projection"
    if takes_cameras != cameras:
        raise CheckpointFormatError(
            f"the network of {folder} {'takes' if takes_cameras else 'does not take'} cameras (class_embed_type="
            f"{unet.config.class_embed_type!r}), but this teacher needs a {'multi-view' if cameras else 'single-view'} network"
        )
    prompt_encoder = PromptEncoder.from_folder(text_folder)
    check_text_width(folder, unet.config.cross_attention_dim, prompt_encoder.width, text_width)
    return unet, prompt_encoder, schedule or NoiseSchedule.from_folder(folder / "scheduler")


def load_autoencoder(folder: str | Path, precision: str = "float32") -> AutoencoderKL:
    """The frozen VAE of a location."""
    original = original_file(folder)
    if original is None:
        vae = load_network(AutoencoderKL, resolve_folder(folder), "vae", _precision(precision))
    else:
        conversion = _converted(original)
        if "vae" in conversion.folders:
            vae = load_network(AutoencoderKL, conversion.folders["vae"].parent, "vae", _precision(precision))
        else:
            vae = _network(AutoencoderKL, conversion, "vae", original, _precision(precision))
    return vae.requires_grad_(False).eval()


def original_file(location: str | Path) -> Path | None:
    """The checkpoint that a location names, or that lies alone in the folder it names, or that waits elsewhere among the
    downloaded weights where the folder of its conversion does not exist; None for a model that ships or a diffusers folder.
    """
    if str(location).startswith(SHIPPED_PREFIX):
        return None
    place = local_path(location)
    if place.is_file():
        return place
    if not place.is_dir():
        card = card_of_folder(location, weights_directory())
        return None if card is None else card.original(weights_directory())
    if (place / "unet").exists():
        return None
    found = [path for path in place.iterdir() if path.suffix in (*PICKLE_SUFFIXES, SAFETENSORS_SUFFIX) and path.is_file()]
    return found[0] if len(found) == 1 else None


def _denoiser_of_file(
    path: Path, precision: torch.dtype, text_width: int | None
) -> tuple[UNet2DConditionModel, Path, NoiseSchedule]:
    """Noise predictor, folder of the text encoder, and noise schedule of an original checkpoint."""
    conversion = _converted(path, text_width)
    unet = _network(UNet2DConditionModel, conversion, "unet", path, precision)
    schedule = NoiseSchedule.from_config(conversion.configs["scheduler/scheduler_config.json"], path)
    return unet, conversion.folders["text_encoder"].parent, schedule


def _converted(path: Path, text_width: int | None = None) -> "Conversion":
    """Our layout of an original checkpoint; the width of its text is checked first, against ``text_width`` if given."""
    # Imported here: the formats are built on this package's ``conversion``.
    from prd_lightning.convert import default_base
    from prd_lightning.formats import MultiViewFormat, find_format

    state = read_tensors(path)
    chosen = find_format(state, path)
    if not isinstance(chosen, MultiViewFormat):
        raise CheckpointFormatError(f"{path} is {chosen.title}, which is no teacher; name the file of a teacher")
    check_text_width(path, chosen.unet["cross_attention_dim"], chosen.unet["cross_attention_dim"], text_width)
    beside = path.parent if (path.parent / "text_encoder").is_dir() else None
    return chosen.convert(state, beside or default_base(chosen.name))


def _network(kind: type, conversion: "Conversion", part: str, path: Path, precision: torch.dtype) -> nn.Module:
    """A network with converted tensors; the conversion has checked that they fill it.

    Raises:
        CheckpointFormatError: the file's model has no such part.
    """
    named = [name for name in conversion.tensors if name.startswith(f"{part}/")]
    if not named:
        raise CheckpointFormatError(f"{path} holds no {part}, and this teacher needs one: it is the file of another model")
    config = {key: value for key, value in conversion.configs[f"{part}/config.json"].items() if not key.startswith("_")}
    with torch.device("meta"):
        network = kind(**config)
    network.load_state_dict(conversion.tensors[named[0]], assign=True)
    return network.to(precision)
