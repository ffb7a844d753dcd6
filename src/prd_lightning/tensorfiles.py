"""Files of tensors from anywhere: read without running code that they may hold, and written whole or not at all."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.files import atomic_write

SAFETENSORS_SUFFIX = ".safetensors"
PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
_FOREIGN_OBJECT = re.compile(r"GLOBAL:? ([\w.]+)")
"""In PyTorch's message, what a pickle wanted to call."""
_DAMAGE = (SafetensorError, UnpicklingError, OSError, RuntimeError, ValueError, EOFError, LookupError)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file, or of a file that ``torch.save`` wrote (their ``state_dict`` if they have one).

    Raises:
        MissingWeightsError: there is no such file.
        CheckpointFormatError: the file is truncated, or holds objects that only running its code would make.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingWeightsError(f"there is no checkpoint {path}")
    try:
        if path.suffix == SAFETENSORS_SUFFIX:
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        if isinstance(error, UnpicklingError) and (named := _FOREIGN_OBJECT.search(str(error))):
            raise CheckpointFormatError(
                f"{path} holds code: reading it would call {named[1]}. A pickle with more than tensors and plain values is "
                "never run; save its tensors as safetensors where you trust it, or get the file from its owner's page"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointFormatError(
            f"{path} is truncated, or holds more than tensors ({reason}). Download it again; a pickle with other objects is "
            "never run: save its tensors as safetensors where you trust it"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointFormatError(f"{path} is not a table of tensors, and has no table named 'state_dict'")
    return state


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file; it appears under its name only when it is complete."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_write(path, overwrite=True) as temporary:
        save_file(plain, temporary, dict(metadata or {"format": "pt"}))


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file of any size."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
