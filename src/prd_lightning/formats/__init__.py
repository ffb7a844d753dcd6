"""Foreign weight formats by name, and which of them a file is in."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from prd_lightning.errors import CheckpointFormatError, ConfigurationError
from prd_lightning.formats.base import CheckpointFormat, Conversion
from prd_lightning.formats.diffusers_folder import convert_folder, is_diffusers_folder
from prd_lightning.formats.multiview import MultiViewFormat
from prd_lightning.formats.mvdream import MVDREAM
from prd_lightning.formats.richdreamer import RICHDREAMER
from prd_lightning.formats.triplaneturbo import TRIPLANETURBO

FILE_FORMATS: dict[str, CheckpointFormat] = {each.name: each for each in (MVDREAM, RICHDREAMER, TRIPLANETURBO)}
FOLDER_FORMAT = "diffusers"
FORMATS = (*FILE_FORMATS, FOLDER_FORMAT)

__all__ = [
    "FILE_FORMATS", "FOLDER_FORMAT", "FORMATS", "MVDREAM", "RICHDREAMER", "TRIPLANETURBO",
    "CheckpointFormat", "Conversion", "MultiViewFormat", "convert_folder", "find_format", "format_named", "is_diffusers_folder",
]  # fmt: skip


def format_named(name: str) -> CheckpointFormat:
    """The file format of that name.

    Raises:
        ConfigurationError: there is none.
    """
    if name not in FILE_FORMATS:
        raise ConfigurationError(f"unknown weight format {name!r}; known: {', '.join(FILE_FORMATS)}")
    return FILE_FORMATS[name]


def find_format(state: Mapping[str, Tensor], path: Path) -> CheckpointFormat:
    """The format whose keys a file has.

    Raises:
        CheckpointFormatError: none; the message names some keys and the formats that are known.
    """
    for known in FILE_FORMATS.values():
        if known.recognizes(state):
            return known
    titles = ", ".join(f"{known.name} ({known.title})" for known in FILE_FORMATS.values())
    raise CheckpointFormatError(
        f"{path} is in no known format: it has {len(state)} tensors such as {', '.join(sorted(state)[:3])}; known are {titles}, "
        "and folders in diffusers layout. A single-view Stable Diffusion is taken as a diffusers folder only"
    )
