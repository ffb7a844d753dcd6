"""What has become of every prompt: one JSON line each, in ``results.jsonl``.

While meshes are made, each process appends to a file of its own, ``.results/NAME.jsonl``, so that nothing is interleaved on any
file system. At the end they are merged. A line that a kill has cut off is ignored, and its mesh is made again.
"""

import itertools
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from prd_lightning.errors import ConfigurationError, OutputExistsError, OutputNotWritableError
from prd_lightning.files import atomic_write, check_output

logger = logging.getLogger(__name__)

RESULTS_FILE, SETTINGS_FILE, PARTS, LOCK_FILE = "results.jsonl", "corpus.json", ".results", ".lock"
DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class Entry:
    """One line.

    Attributes:
        prompt, seed: what was asked for.
        status: ``done`` or ``failed``.
        file: the mesh, relative to the folder; None if it failed.
        seconds: its share of the batch's denoising plus its own extraction, clean-up and texture.
        error: why it failed.
        attempts: how often it was tried, in all runs together.
        process: rank that made it.
        numbers: faces, vertices and what else is known of the mesh.
    """

    prompt: str
    seed: int
    status: str
    file: str | None = None
    seconds: float | None = None
    error: str | None = None
    attempts: int = 1
    process: int = 0
    numbers: dict[str, Any] = field(default_factory=dict)

    def to_line(self) -> str:
        """JSON and a line end; numbers stand beside the others."""
        values = asdict(self)
        return json.dumps({**values, **values.pop("numbers")}, ensure_ascii=False) + "\n"

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> "Entry":
        """The entry of a line; raises KeyError or TypeError if it is none."""
        own = {key: values[key] for key in ("prompt", "seed", "status")}
        optional = {key: values[key] for key in ("file", "seconds", "error", "attempts", "process") if key in values}
        rest = {key: value for key, value in values.items() if key not in own and key not in optional and key != "numbers"}
        return cls(**own, **optional, numbers=rest)


class Journal:
    """The results of one folder.

    Args:
        folder: of the meshes.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path, self.parts = self.folder / RESULTS_FILE, self.folder / PARTS
        self._file = self.parts / f"{uuid.uuid4().hex}.jsonl"
        self._lock: FileLock | None = None

    def open(self, settings: dict[str, Any], overwrite: bool) -> None:
        """Takes the folder for one run, and checks that what is there was made in the same way.

        Args:
            settings: all that a mesh depends on beside its prompt and seed, as JSON values.
            overwrite: forget earlier results.

        Raises:
            OutputExistsError: another process is at work in the folder.
            ConfigurationError: earlier meshes were made with other settings; the message names the differences.
            OutputNotWritableError: the folder cannot be written.
        """
        check_output(self.folder / RESULTS_FILE, overwrite=True)
        self._lock = FileLock(self.folder / LOCK_FILE, timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise OutputExistsError(f"another `prd generate` is writing into {self.folder}; wait for its end") from error
        if overwrite:
            shutil.rmtree(self.parts, ignore_errors=True)
            for name in (RESULTS_FILE, SETTINGS_FILE):
                (self.folder / name).unlink(missing_ok=True)
        if self.settings() is None:
            with atomic_write(self.folder / SETTINGS_FILE, overwrite=True) as temporary:
                temporary.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        self.check(settings)

    def check(self, settings: dict[str, Any]) -> None:
        """Raises ConfigurationError if the meshes of the folder were made with other settings."""
        known = self.settings()
        if known is not None and known != settings:
            raise ConfigurationError(
                f"the meshes in {self.folder} were made with other settings ({_differences(known, settings)}); name another "
                "folder, or pass --overwrite to make all of them again"
            )

    def settings(self) -> dict[str, Any] | None:
        """How the meshes of the folder are made; None for a folder without results."""
        try:
            return json.loads((self.folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{self.folder / SETTINGS_FILE} cannot be read ({error}); pass --overwrite") from error

    def add(self, entries: Iterable[Entry]) -> None:
        """Appends lines; they are on disk when this returns.

        Raises:
            OutputNotWritableError: the disk is full.
        """
        try:
            self.parts.mkdir(exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.writelines(entry.to_line() for entry in entries)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputNotWritableError(f"cannot write {self._file}: {error.strerror or error}") from error

    def entries(self) -> Iterator[Entry]:
        """All lines, older files first; the last one of a prompt and seed counts."""
        return (entry for entry, *_ in self._places())

    def _places(self) -> Iterator[tuple[Entry, Path, int]]:
        """All lines with their files and offsets."""
        parts = sorted(self.parts.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns) if self.parts.is_dir() else []
        for path in ([self.path] if self.path.is_file() else []) + parts:
            offset = 0
            with path.open("rb") as file:
                for line in file:
                    try:
                        yield Entry.from_values(json.loads(line)), path, offset
                    except (ValueError, KeyError, TypeError):
                        logger.warning("a line of %s is cut off; its mesh is made again", path)
                    offset += len(line)

    def merge(self, order: Iterable[tuple[str, int]]) -> list[Entry]:
        """Writes ``results.jsonl`` with one line for each prompt and seed.

        Args:
            order: of the lines; those of prompts that are no longer asked for come after.

        Returns:
            The entries that failed.
        """
        latest: dict[tuple[str, int], tuple[Path, int]] = {}
        for entry, *place in self._places():
            latest[entry.prompt, entry.seed] = tuple(place)
        failed = []
        with atomic_write(self.path, overwrite=True) as temporary, temporary.open("wb") as file, ExitStack() as stack:
            opened = {path: stack.enter_context(path.open("rb")) for path in {path for path, _ in latest.values()}}
            for key in itertools.chain(order, list(latest)):
                if (place := latest.pop(key, None)) is None:
                    continue
                opened[place[0]].seek(place[1])
                line = opened[place[0]].readline().rstrip(b"\n") + b"\n"
                file.write(line)
                if (entry := Entry.from_values(json.loads(line))).status == FAILED:
                    failed.append(entry)
        shutil.rmtree(self.parts, ignore_errors=True)
        return failed

    def close(self) -> None:
        """Gives the folder free."""
        if self._lock is not None:
            self._lock.release()


def _differences(known: dict[str, Any], wanted: dict[str, Any]) -> str:
    names = [name for name in {**known, **wanted} if known.get(name) != wanted.get(name)]
    return "; ".join(f"{name}: then {known.get(name)!r:.60}, now {wanted.get(name)!r:.60}" for name in names)
