"""Outputs that are either complete under their final name or not there at all."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prd_lightning.errors import OutputExistsError, OutputNotWritableError


def check_output(path: str | Path, overwrite: bool = False) -> Path:
    """Checks, before any work is done, that a file can be written at ``path``; creates its folder.

    Raises:
        OutputExistsError: the file is there and ``overwrite`` is false.
        OutputNotWritableError: the folder cannot be created or written, or ``path`` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputNotWritableError(f"{path} is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists; choose another name or pass --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputNotWritableError(f"cannot write into {path.parent}: {error.strerror or error}") from error
    return path


@contextmanager
def atomic_write(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary path in the same folder, and renames it to ``path`` when the block ends without an error.

    The temporary file keeps the suffix of ``path``, so that libraries that choose a format by suffix work.

    Raises:
        OutputExistsError, OutputNotWritableError: as ``check_output``; also when the disk is full.
    """
    path = check_output(path, overwrite)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OutputNotWritableError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write_all(paths: Iterable[str | Path], overwrite: bool = False) -> Iterator[dict[Path, Path]]:
    """As ``atomic_write`` for files that belong together: none gets its name before all are complete, and if giving the names
    fails, those that were not there before are taken away again.

    Args:
        paths: the last one gets its name last; it should be the one that refers to the others.
        overwrite: replace files of those names.

    Yields:
        The temporary path of each path.
    """
    checked = [check_output(path, overwrite) for path in paths]
    temporaries = {path: path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}") for path in checked}
    fresh: list[Path] = []
    try:
        yield temporaries
        for path, temporary in temporaries.items():
            fresh += [] if path.exists() else [path]
            os.replace(temporary, path)
        fresh = []
    except OSError as error:
        raise OutputNotWritableError(f"cannot write {checked[-1]}: {error.strerror or error}") from error
    finally:
        for path in (*temporaries.values(), *fresh):
            path.unlink(missing_ok=True)
