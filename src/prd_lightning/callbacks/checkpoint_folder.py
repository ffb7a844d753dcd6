"""A training checkpoint as a folder: a generator file and what resuming needs beside it."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from prd_lightning.callbacks.averaging import AVERAGED_STATE
from prd_lightning.checkpoints import GENERATOR_FILE, load_generator, save_generator
from prd_lightning.errors import CheckpointFormatError, MissingWeightsError

TRAINER_FILE = "trainer_state.ckpt"


class FolderCheckpointIO(TorchCheckpointIO):
    """A checkpoint is a folder: ``generator.safetensors`` (what ``prd generate`` loads) and ``trainer_state.ckpt``.

    The second file holds optimizer, loops and callbacks, everything that resuming needs beside the weights. Where an average of
    the weights is kept, the first file holds the average and the second one the weights that are trained. The folder appears
    under its final name only when both are complete.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes the folder ``path``; a folder of that name is replaced once the new one is complete."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        state = dict(checkpoint)
        tensors = state.pop(AVERAGED_STATE) if AVERAGED_STATE in state else state.pop("state_dict")
        save_generator(partial / GENERATOR_FILE, tensors, state.pop("architecture", {}))
        torch.save(state, partial / TRAINER_FILE)
        if path.exists():
            previous = path.with_name(f".{path.name}.previous")
            shutil.rmtree(previous, ignore_errors=True)
            path.rename(previous)
            partial.rename(path)
            shutil.rmtree(previous)
        else:
            partial.rename(path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads what ``save_checkpoint`` wrote.

        Raises:
            MissingWeightsError: there is no such folder.
            CheckpointFormatError: a file of it is missing or damaged.
        """
        path = Path(path)
        if not path.exists():
            raise MissingWeightsError(f"there is no checkpoint {path}")
        if not (path / TRAINER_FILE).is_file():
            raise CheckpointFormatError(f"{path} is not a training checkpoint: it has no {TRAINER_FILE}")
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

    def remove_checkpoint(self, path: str | Path) -> None:
        """Deletes a checkpoint folder."""
        shutil.rmtree(path, ignore_errors=True)
