"""Numbered prompts on disk: any of millions is read by its number, and none is held in memory.

A store is a folder with ``prompts.bin`` (UTF-8, one after the other), ``offsets.npy`` (where each begins, and where the last
ends) and ``store.json``. It is made once from a source, appears under its name only when it is complete, and is never changed.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy
from filelock import FileLock

from prd_lightning.errors import OutputNotWritableError, PromptError

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "PRD_CACHE"
TEXT_FILE, OFFSETS_FILE, ABOUT_FILE = "prompts.bin", "offsets.npy", "store.json"
FORMAT = "prd_lightning.prompts.1"
_OFFSET_BLOCK = 65_536


def cache_directory() -> Path:
    """Where copies are kept: the folder that PRD_CACHE names, else ``~/.cache/prd_lightning``."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "prd_lightning"


class PromptStore:
    """Reads the prompts of a folder by their numbers.

    Args:
        folder: that ``write_store`` made.

    Raises:
        PromptError: the folder is not a complete store.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            about = json.loads((self.folder / ABOUT_FILE).read_text(encoding="utf-8"))
            self._count, self.fingerprint, self.skipped_count = about["count"], about["sha256"], about["skipped"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PromptError(f"{self.folder} holds no complete copy of prompts ({error}); delete it") from error
        self._opened: tuple[int, int, numpy.ndarray] | None = None

    def __len__(self) -> int:
        """Prompts in the store."""
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        """Files are opened anew in each process."""
        return {**self.__dict__, "_opened": None}

    def __del__(self) -> None:
        """Closes the file."""
        if getattr(self, "_opened", None) and self._opened[0] == os.getpid():
            os.close(self._opened[1])

    def read(self, numbers: Sequence[int] | numpy.ndarray) -> list[str]:
        """The prompts with these numbers, 0 ... len - 1."""
        text, offsets = self._files()
        numbers = numpy.asarray(numbers, dtype=numpy.int64)
        starts, ends = offsets[numbers].tolist(), offsets[numbers + 1].tolist()
        return [os.pread(text, end - start, start).decode() for start, end in zip(starts, ends)]

    def _files(self) -> tuple[int, numpy.ndarray]:
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                text = os.open(self.folder / TEXT_FILE, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
                offsets = numpy.load(self.folder / OFFSETS_FILE, mmap_mode="r")
            except (OSError, ValueError, EOFError) as error:
                raise PromptError(f"the copy of the prompts in {self.folder} is damaged ({error}); delete it") from error
            self._opened = os.getpid(), text, offsets
        return self._opened[1], self._opened[2]


def write_store(folder: Path, prompts: Iterable[str], skipped: Sequence[int] | None = None) -> None:
    """Writes prompts of any number into ``folder``, which appears when it is complete.

    Args:
        folder: must not exist.
        prompts: read once.
        skipped: a list whose length, at the end, is the number of bad entries; None for none.

    Raises:
        PromptError: there is no prompt.
        OutputNotWritableError: the disk is full, or the place cannot be written.
    """
    partial = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
        count, digest = _write_prompts(partial, prompts)
        about = {"format": FORMAT, "count": count, "sha256": digest, "skipped": len(skipped or ())}
        (partial / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        if not count:
            raise PromptError("the prompt source has no usable prompt")
        partial.rename(folder)
    except OSError as error:
        raise OutputNotWritableError(
            f"the prompts cannot be copied to {folder.parent}: {error.strerror or error}; {CACHE_VARIABLE} names another place"
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _write_prompts(folder: Path, prompts: Iterable[str]) -> tuple[int, str]:
    """Number of prompts and SHA-256 of prompts and their borders."""
    digest, count, end = hashlib.sha256(), 0, 0
    offsets = array("q", [0])
    with (folder / TEXT_FILE).open("wb") as text, (folder / ".offsets").open("wb") as raw:
        for prompt in prompts:
            data = prompt.encode()
            text.write(data)
            digest.update(data + b"\0")
            end, count = end + len(data), count + 1
            offsets.append(end)
            if len(offsets) >= _OFFSET_BLOCK:
                offsets.tofile(raw)
                offsets = array("q")
        offsets.tofile(raw)
    borders = numpy.memmap(folder / ".offsets", dtype=numpy.int64, mode="r")
    numpy.save(folder / OFFSETS_FILE, borders)
    (folder / ".offsets").unlink()
    return count, digest.hexdigest()


def stored(key: Sequence[object], prompts: Iterable[str], skipped: Sequence[int] | None = None) -> PromptStore:
    """The store of ``key`` in the cache; it is made from ``prompts`` if it is not there.

    Processes that ask for the same one at the same time wait for the first.

    Args:
        key: whatever the prompts depend on.
        prompts, skipped: see ``write_store``.
    """
    name = hashlib.sha256(json.dumps([FORMAT, *map(str, key)]).encode()).hexdigest()[:32]
    root = cache_directory() / "prompts"
    folder = root / name
    if not (folder / ABOUT_FILE).is_file():
        try:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f"{name}.lock"):
                if not (folder / ABOUT_FILE).is_file():
                    shutil.rmtree(folder, ignore_errors=True)
                    write_store(folder, prompts, skipped)
                    logger.info("prompts copied to %s", folder)
        except OSError as error:
            if isinstance(error, OutputNotWritableError):
                raise
            raise OutputNotWritableError(
                f"the prompts cannot be copied to {root}: {error.strerror or error}; {CACHE_VARIABLE} names another place"
            ) from error
    return PromptStore(folder)
