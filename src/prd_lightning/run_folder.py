"""What a run's folder holds, and what happens when it holds a run already."""

import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from prd_lightning.errors import (
    CheckpointFormatError,
    MissingWeightsError,
    OutputExistsError,
    OutputNotWritableError,
    PRDError,
)

logger = logging.getLogger(__name__)

CONFIG_FILE, EVALUATION_FILE, METRICS_FILE = "config.yaml", "evaluation.json", "metrics.csv"
OVERRIDES_FILE, LOCK_FILE = "overrides.yaml", ".lock"
_locks: dict[Path, TextIO] = {}
"""Open files of the folders that this process has reserved."""
CHECKPOINTS, PREVIEWS, MESHES = "checkpoints", "previews", "meshes"
_PLACES_HINT = f"ckpt_path takes a folder under RUN/{CHECKPOINTS}, or `last`"


def check_run_folder(folder: Path, may_exist: bool) -> None:
    """Checks that a run can be written to ``folder``.

    Raises:
        OutputExistsError: it holds a run and ``may_exist`` is false.
        OutputNotWritableError: it cannot be created.
    """
    if (folder / CONFIG_FILE).exists() and not may_exist and "LOCAL_RANK" not in os.environ:
        raise OutputExistsError(
            f"{folder} holds a run; choose another `output`, resume with ckpt_path=last, or pass overwrite=true"
        )
    create_folder(folder)


def create_folder(folder: Path) -> None:
    """Creates a run folder, unless it is there.

    Raises:
        OutputNotWritableError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputNotWritableError(f"the run folder {folder} cannot be created: {error.strerror or error}") from error


def lock_run_folder(folder: Path) -> None:
    """Reserves ``folder`` until this process ends, so that no second training writes into it at the same time.

    Raises:
        OutputExistsError: a training that is still running writes there.
    """
    if _locks.get(folder) is not None:
        return
    file = open(folder / LOCK_FILE, "a+")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise OutputExistsError(f"a training is running in {folder} ({owner}); end it or choose another `output`") from error
    except OSError as error:  # a file system without locks
        logger.warning("%s cannot be locked against a second training: %s", folder, error)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    _locks[folder] = file


def make_room(folder: Path, keep_outputs: bool) -> None:
    """Sets the metrics of a run that goes on aside; removes the outputs of a run that is overwritten."""
    if keep_outputs:
        earlier = len(list(folder.glob("metrics_part*.csv"))) + 1
        if (folder / METRICS_FILE).is_file():
            (folder / METRICS_FILE).rename(folder / f"metrics_part{earlier}.csv")
        return
    for name in (CHECKPOINTS, PREVIEWS, MESHES):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in (*folder.glob("metrics*.csv"), folder / EVALUATION_FILE):
        path.unlink(missing_ok=True)


def find_checkpoint(location: str | None, folder: Path, read: Callable[[Path], object] | None = None) -> Path | None:
    """The checkpoint folder that ``ckpt_path`` names.

    Args:
        location: None, ``last`` for the newest that can be read, or a folder.
        folder: of the run.
        read: raises CheckpointFormatError where a checkpoint is damaged; ``last`` then falls back to the one before.

    Raises:
        MissingWeightsError: there is none.
        CheckpointFormatError: none can be read; the error is the newest one's.
    """
    if location is None:
        return None
    if location != "last":
        path = Path(location).expanduser()
        if not path.is_dir():
            raise MissingWeightsError(f"there is no checkpoint {path}; {_PLACES_HINT}")
        return path
    candidates = complete_checkpoints(folder)
    if not candidates:
        raise MissingWeightsError(f"there is no checkpoint {folder / CHECKPOINTS / 'last'}; {_PLACES_HINT}")
    return _first_readable(candidates, read)


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that ``last`` of a run's folder may mean, in the order in which they are tried."""
    checkpoints = folder / CHECKPOINTS
    newest = [path for path in (checkpoints / "last", checkpoints / ".last.previous") if path.is_dir()]
    return newest + sorted((path for path in checkpoints.glob("step_*") if path.is_dir()), reverse=True)


def _first_readable(candidates: list[Path], read: Callable[[Path], object] | None) -> Path:
    failures: list[PRDError] = []
    for path in candidates:
        try:
            if read is not None:
                read(path)
        except (CheckpointFormatError, MissingWeightsError) as error:
            logger.warning("the checkpoint %s is damaged, the one before is tried: %s", path, error)
            failures.append(error)
            continue
        if failures or path.name != "last":
            logger.warning("going on from %s, since the last checkpoint cannot be used", path)
        return path
    raise failures[0]
