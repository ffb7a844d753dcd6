"""Where weights are (a folder of the user, or a model that ships with the package), and how a network of them is loaded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.tinyworld import weights_folder

SHIPPED_PREFIX, DOWNLOADED_PREFIX = "tinyworld:", "weights:"
WEIGHTS_VARIABLE = "PRD_WEIGHTS"
IGNORABLE = "position_ids"
"""A table of 0, 1, 2, ... that old text encoders stored; it is no weight."""


def weights_directory() -> Path:
    """Where downloaded weights are: the folder that PRD_WEIGHTS names, else ``weights`` in the working directory."""
    return Path(os.environ.get(WEIGHTS_VARIABLE, "weights")).expanduser()


def local_path(location: str | Path) -> Path:
    """The path that a location of the user's own weights names (``weights:NAME`` or a path); it may not exist."""
    if str(location).startswith(DOWNLOADED_PREFIX):
        location = weights_directory() / str(location).removeprefix(DOWNLOADED_PREFIX)
    return Path(location).expanduser()


def resolve_folder(location: str | Path) -> Path:
    """The folder of a model.

    Args:
        location: a path, ``tinyworld:NAME`` for a model that ships with the package, or ``weights:NAME`` for a folder of that
            name where downloaded weights are (``weights_directory``).

    Raises:
        MissingWeightsError: there is no such folder.
        ConfigurationError: ``NAME`` is not a shipped model.
    """
    if str(location).startswith(SHIPPED_PREFIX):
        return weights_folder(str(location).removeprefix(SHIPPED_PREFIX))
    folder = local_path(location)
    if not folder.is_dir():
        raise MissingWeightsError(
            f"there is no weight folder {folder}; `prd weights` downloads what a config needs, and {WEIGHTS_VARIABLE} names the "
            f"folder that holds what you have; or name a folder in diffusers layout (docs/real_weights.md), or a shipped model "
            f"such as {SHIPPED_PREFIX}stable_diffusion"
        )
    return folder


def load_network(kind: type, folder: Path, part: str, precision: torch.dtype = torch.float32) -> torch.nn.Module:
    """A diffusers or transformers network from the sub-folder ``part``: safetensors only, and complete.

    Raises:
        MissingWeightsError: the sub-folder is missing.
        CheckpointFormatError: its weights are truncated, incomplete, not safetensors, or do not fit its configuration.
    """
    source = folder / part
    if not (source / "config.json").is_file():
        raise MissingWeightsError(f"no {part} in {folder}: {source / 'config.json'} does not exist; {_remedy(folder)}")
    settings = {"torch_dtype": precision, "use_safetensors": True, "output_loading_info": True, "variant": _variant(source)}
    try:
        with _without_progress_bars():
            network, report = kind.from_pretrained(source, **settings)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointFormatError(f"the weights of {source} cannot be loaded: {error}; {_remedy(folder)}") from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointFormatError(f"the weights of {source} lack {len(missing)} tensors, e.g. {', '.join(missing[:3])}")
    if unknown := sorted(key for key in report["unexpected_keys"] if not key.endswith(IGNORABLE)):
        raise CheckpointFormatError(
            f"the weights of {source} hold {len(unknown)} tensors that its config.json has no place for, e.g. "
            f"{', '.join(unknown[:3])}: the file and config.json belong to different networks"
        )
    return network


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Reading a local file takes no time that a bar could shorten."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


def _variant(source: Path) -> str | None:
    """``fp16`` if the folder has half-precision files only."""
    whole = [path for path in source.glob("*.safetensors") if ".fp16" not in path.name]
    return "fp16" if not whole and list(source.glob("*.fp16*.safetensors")) else None


def _remedy(folder: Path) -> str:
    return f"put the complete model there (docs/real_weights.md); if {folder} holds pickled weights, `prd convert` it"


def check_text_width(folder: Path, unet_width: int, encoder_width: int, expected: int | None = None) -> None:
    """Checks that a noise predictor reads the text that an encoder writes, and that it is of the expected family.

    Args:
        folder: named in the message.
        unet_width, encoder_width: widths of a token.
        expected: 1024 for Stable Diffusion 2.1, 768 for 1.5; None takes any.

    Raises:
        CheckpointFormatError: the widths differ; the message names both.
    """
    if expected is not None and unet_width != expected:
        raise CheckpointFormatError(
            f"the UNet of {folder} reads text of width {unet_width}{width_name(unet_width)}, but this place needs "
            f"width {expected}{width_name(expected)}: name the folder of the other model"
        )
    if unet_width != encoder_width:
        raise CheckpointFormatError(
            f"the UNet of {folder} reads text of width {unet_width}{width_name(unet_width)}, but the text encoder beside it "
            f"writes width {encoder_width}{width_name(encoder_width)}: they belong to different models"
        )


def width_name(width: int) -> str:
    """The family of Stable Diffusion whose text has that width, in brackets after a space; empty if it is none."""
    return {768: " (Stable Diffusion 1.x)", 1024: " (Stable Diffusion 2.x)"}.get(width, "")
