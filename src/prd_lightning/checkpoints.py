"""Generator files: the trained tensors as safetensors, with the architecture that they belong to in the header.

Tensors are named ``generator.*``, ``field.*`` and ``background.*``. The frozen base is never in the file; the header names it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.files import atomic_write

FORMAT = "prd_lightning.generator.1"
GENERATOR_FILE = "generator.safetensors"


def save_generator(path: str | Path, tensors: Mapping[str, Tensor], architecture: Mapping[str, Any]) -> None:
    """Writes a generator file; it appears under its name only when it is complete."""
    metadata = {"format": FORMAT, "architecture": json.dumps(dict(architecture), sort_keys=True)}
    with atomic_write(path, overwrite=True) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary, metadata)


def load_generator(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and architecture of a generator file.

    Raises:
        MissingWeightsError: there is no such file.
        CheckpointFormatError: the file is truncated, is not safetensors, or is not a generator of this library.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingWeightsError(f"there is no generator file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointFormatError(
            f"{path} is not a complete safetensors file ({error}); only safetensors files are read, never pickles"
        ) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointFormatError(
            f"{path} is a safetensors file but no generator of this library (format {metadata.get('format')!r})"
        )
    try:
        architecture = json.loads(metadata["architecture"])
    except (KeyError, json.JSONDecodeError) as error:
        raise CheckpointFormatError(f"{path} does not say which architecture it belongs to: {error}") from error
    if not isinstance(architecture, dict):
        raise CheckpointFormatError(
            f"{path} does not say which architecture it belongs to: its header holds {architecture!r:.80}"
        )
    return tensors, architecture
