"""What DeepSpeed adds to a checkpoint's folder: each process's share of the weights and of the optimizer's state.

Beside the adapter file and the trainer's state, which are those of any other strategy, such a folder holds DeepSpeed's own files,
the shares in ``checkpoint/``, and a list of all files, with the stage and the number of processes that wrote them, in
``deepspeed.json``. DeepSpeed reads the shares under the same stage and number alone.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from prd_lightning.checkpoints import GENERATOR_FILE
from prd_lightning.errors import CheckpointFormatError, ConfigurationError

SHARDS_FILE = "deepspeed.json"


@dataclass(frozen=True)
class Shards:
    """A checkpoint's shares.

    Attributes:
        stage: of ZeRO.
        world_size: processes, each of which has a share.
        files: bytes of every file, by its path in the checkpoint's folder.
    """

    stage: int
    world_size: int
    files: dict[str, int]

    @property
    def needed(self) -> str:
        """The strategy that can go on from them."""
        return f"strategy=deepspeed_stage_{self.stage} with {self.world_size} processes in all"


def write_shards(folder: Path, stage: int, world_size: int) -> None:
    """Lists what was written into ``folder``, and has all of it on the disk before it returns."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        files[str(path.relative_to(folder))] = path.stat().st_size
    with open(folder / SHARDS_FILE, "w") as file:
        json.dump(asdict(Shards(stage, world_size, files)), file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def read_shards(folder: Path) -> Shards | None:
    """What ``write_shards`` listed; None where DeepSpeed did not write the checkpoint.

    Raises:
        CheckpointFormatError: the list is damaged.
    """
    path = folder / SHARDS_FILE
    if not path.is_file():
        return None
    try:
        shards = Shards(**json.loads(path.read_text()))
        return Shards(int(shards.stage), int(shards.world_size), {str(name): int(size) for name, size in shards.files.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointFormatError(f"{path} is damaged: {error}") from error


def check_complete(folder: Path) -> None:
    """Raises CheckpointFormatError unless every listed file is there in its full size; without a list nothing is checked."""
    shards = read_shards(folder)
    for name, size in shards.files.items() if shards else ():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise CheckpointFormatError(f"the checkpoint {folder} is not whole: {name} {state}")


def check_sharding(folder: Path, stage: int | None = None, world_size: int = 1) -> None:
    """Checks that a training can go on from a checkpoint with all that belongs to it.

    Args:
        folder: of the checkpoint.
        stage: of DeepSpeed, None for any other strategy.
        world_size: processes that go on; matters to DeepSpeed alone.

    Raises:
        ConfigurationError: DeepSpeed is to read what another strategy, stage or number of processes wrote, or another strategy
            what DeepSpeed wrote. The message names what goes on from it, and how to begin with its weights alone.
    """
    shards = read_shards(folder)
    if shards is None and stage is None or shards and (shards.stage, shards.world_size) == (stage, world_size):
        return
    begin = f"or begin a new training with its weights alone: start_from={folder / GENERATOR_FILE} and another `output`"
    if shards is None:
        raise ConfigurationError(
            f"the checkpoint {folder} was saved without DeepSpeed, which takes over no other optimizer's state; go on with "
            f"strategy=auto, ddp or fsdp, {begin}"
        )
    given = "another strategy" if stage is None else f"stage {stage} with {world_size}"
    raise ConfigurationError(
        f"the checkpoint {folder} holds the shares of {shards.world_size} processes of DeepSpeed's stage {shards.stage}, and "
        f"{given} cannot take them over; go on with {shards.needed}, {begin}"
    )
