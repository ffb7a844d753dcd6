"""What a finished training leaves, as plain data that can be compared bit for bit."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from prd_lightning.callbacks import FolderCheckpointIO
from prd_lightning.run_folder import CHECKPOINTS


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor and plain value of nested state, by its place."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{name}/{number}")
    else:
        yield name, value


def checkpoint_contents(folder: Path) -> dict[str, Any]:
    """The last checkpoint as plain data; tensors as their type, shape and bytes; paths without the run's folder."""
    state = FolderCheckpointIO().load_checkpoint(folder / CHECKPOINTS / "last")
    contents: dict[str, Any] = {"names": sorted(path.name for path in (folder / CHECKPOINTS).iterdir())}
    for place, value in leaves(state):
        name = place.replace(str(folder), "")  # some state is kept by the path of a checkpoint
        if isinstance(value, torch.Tensor):
            contents[name] = (value.dtype, value.shape, value.contiguous().numpy().tobytes())
        else:
            contents[name] = str(value).replace(str(folder), "")
    return contents


def recorded_numbers(folder: Path) -> dict[str, str]:
    """Every number of every ``metrics*.csv`` by step and name, as written; of steps that were done again, the last."""
    files = sorted(folder.glob("metrics_part*.csv"), key=lambda path: int(path.stem.removeprefix("metrics_part")))
    found: dict[str, str] = {}
    for path in [*files, folder / "metrics.csv"]:
        if not path.is_file():
            continue  # killed between two renames
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                found |= {f"step {row['step']} {name}": value for name, value in row.items() if value}
    return found
