"""What a run's folder holds, and what happens when it holds a run already."""

import os
import shutil
from pathlib import Path

from prd_lightning.errors import MissingWeightsError, OutputExistsError, OutputNotWritableError

CONFIG_FILE, EVALUATION_FILE, METRICS_FILE = "config.yaml", "evaluation.json", "metrics.csv"
CHECKPOINTS, PREVIEWS, MESHES = "checkpoints", "previews", "meshes"


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


def find_checkpoint(location: str | None, folder: Path) -> Path | None:
    """The checkpoint folder that ``ckpt_path`` names.

    Raises:
        MissingWeightsError: there is none.
    """
    if location is None:
        return None
    path = folder / CHECKPOINTS / "last" if location == "last" else Path(location).expanduser()
    if not path.is_dir():
        raise MissingWeightsError(f"there is no checkpoint {path}; ckpt_path takes a folder under RUN/{CHECKPOINTS}, or `last`")
    return path
