"""A training checkpoint as a folder: a generator file and what resuming needs beside it."""

import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from prd_lightning.callbacks.averaging import AVERAGED_STATE
from prd_lightning.checkpoints import GENERATOR_FILE, load_generator, save_generator
from prd_lightning.errors import CheckpointFormatError, MissingWeightsError, OutputNotWritableError
from prd_lightning.shards import check_complete, check_sharding

TRAINER_FILE = "trainer_state.ckpt"


class FolderCheckpointIO(TorchCheckpointIO):
    """A checkpoint is a folder: ``generator.safetensors`` (what ``prd generate`` loads) and ``trainer_state.ckpt``.

    The second file holds optimizer, loops and callbacks, everything that resuming needs beside the weights. Where an average of
    the weights is kept, the first file holds the average and the second one the weights that are trained. The folder appears
    under its final name only when both are complete.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes the folder ``path``; a folder of that name is replaced once the new one is complete.

        Raises:
            OutputNotWritableError: the disk is full or the place cannot be written; an earlier checkpoint stays.
        """
        path = Path(path)
        with partial_folder(path) as partial:
            shutil.rmtree(partial, ignore_errors=True)
            write_checkpoint(checkpoint, partial)
            put_in_place(partial, path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads what ``save_checkpoint`` wrote.

        Raises:
            MissingWeightsError: there is no such folder.
            CheckpointFormatError: a file of it is missing or damaged.
            ConfigurationError: DeepSpeed wrote it, and alone can go on from it.
        """
        check_sharding(Path(path))
        return read_checkpoint(path, map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Deletes a checkpoint folder."""
        shutil.rmtree(path, ignore_errors=True)


def read_checkpoint(path: str | Path, map_location: Any | None = None) -> dict[str, Any]:
    """Everything of a checkpoint's folder but what only DeepSpeed can read, which must be there all the same.

    Raises:
        MissingWeightsError: there is no such folder.
        CheckpointFormatError: a file of it is missing or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise MissingWeightsError(f"there is no checkpoint {path}")
    if not (path / TRAINER_FILE).is_file():
        raise CheckpointFormatError(f"{path} is not a training checkpoint: it has no {TRAINER_FILE}")
    check_complete(path)
    tensors, architecture = load_generator(path / GENERATOR_FILE)
    try:
        state = torch.load(path / TRAINER_FILE, map_location=map_location or "cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message advises to unpickle everything
        raise CheckpointFormatError(
            f"{path / TRAINER_FILE} cannot be read: it is damaged, or holds objects other than tensors and plain values"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointFormatError(f"{path / TRAINER_FILE} cannot be read: {error}") from error
    own = AVERAGED_STATE if "state_dict" in state else "state_dict"
    return {**state, own: tensors, "architecture": architecture}


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """Where the checkpoint ``path`` is written until it is complete.

    Raises:
        OutputNotWritableError: what was written inside of the block did not fit or may not be written; it is gone then.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
    except (OSError, RuntimeError) as error:
        if (cause := _disk_error(error)) is None:
            raise
        shutil.rmtree(partial, ignore_errors=True)
        raise OutputNotWritableError(f"the checkpoint {path} cannot be written: {cause.strerror or cause}") from error


def write_checkpoint(checkpoint: dict[str, Any], folder: Path) -> None:
    """Writes both files and has them on the disk before it returns."""
    folder.mkdir(parents=True, exist_ok=True)
    state = dict(checkpoint)
    tensors = state.pop(AVERAGED_STATE) if AVERAGED_STATE in state else state.pop("state_dict")
    save_generator(folder / GENERATOR_FILE, tensors, state.pop("architecture", {}))
    with open(folder / TRAINER_FILE, "wb") as file:
        _save_state(state, file)
        file.flush()
        os.fsync(file.fileno())


def _save_state(state: dict[str, Any], file: BinaryIO) -> None:
    """``torch.save`` with the operating system's own error where the disk is full."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        if (cause := _disk_error(error)) is None:
            raise
        raise cause from error


def _disk_error(error: OSError | RuntimeError) -> OSError | None:
    """What the operating system said; ``torch.save`` reports a full disk as a RuntimeError of its own."""
    if isinstance(error, OSError):
        return error
    cause = error.__context__ or error.__cause__
    return cause if isinstance(cause, OSError) else None


def put_in_place(partial: Path, path: Path) -> None:
    """Gives a complete folder its name. A folder cannot be replaced in one step: a process that is killed in between leaves the
    earlier one as ``.NAME.previous``, where ``run_folder.find_checkpoint`` looks too."""
    previous = path.with_name(f".{path.name}.previous")
    if path.exists():
        shutil.rmtree(previous, ignore_errors=True)
        path.rename(previous)
    partial.rename(path)
    shutil.rmtree(previous, ignore_errors=True)
