"""Encoded prompts on disk, found by what they were made from: text encoder, tokenizer, length and prompt.

A cache is a folder of shards, safetensors files with ``keys`` [n, 16], ``tokens`` [n, L, D] and ``pooled`` [n, D']. Shards
are memory mapped, so a row that is read costs that row. A shard appears under its name only when it is complete and is never
changed; names are never used twice. So any number of processes may write, with nothing to wait for: what two of them encode
at once is there twice. When the folder outgrows its limit, the oldest shards go; a process that still has one open reads on.
"""

import atexit
import hashlib
import logging
import os
import time
import uuid
import weakref
from collections import OrderedDict
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prd_lightning.errors import ConfigurationError, OutputNotWritableError
from prd_lightning.files import atomic_write

logger = logging.getLogger(__name__)

FORMAT = "prd_lightning.text.1"
KEY_BYTES = 16
GIGABYTE = 1_000_000_000
SHARD_BYTES, SHARD_SECONDS = 16_000_000, 60.0
"""A shard is written when so much is waiting, or something has been waiting for so long."""
MOST_OPEN = 64


class EmbeddingCache:
    """Rows of encoded prompts by key.

    Args:
        folder: of the shards; it is created. Caches of different encoders may share it.
        limit: gigabytes that all shards together may take, but for the newest one.

    Raises:
        OutputNotWritableError: the folder cannot be created.
        ConfigurationError: the limit is not positive.
    """

    def __init__(self, folder: str | Path, limit: float = 20.0) -> None:
        if limit <= 0:
            raise ConfigurationError(f"the limit of a text cache must be positive, got {limit} GB")
        self.folder, self.limit_bytes = Path(folder).expanduser(), int(limit * GIGABYTE)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputNotWritableError(f"no text cache in {self.folder}: {error.strerror or error}") from error
        self._places: dict[bytes, tuple[str, int]] = {}
        self._known: set[str] = set()
        self._looked = -1
        self._open: OrderedDict[str, safe_open] = OrderedDict()
        self._waiting: dict[bytes, tuple[Tensor, Tensor]] = {}
        self._waiting_bytes, self._waiting_since = 0, 0.0
        atexit.register(_flush_at_exit, weakref.ref(self))

    @staticmethod
    def key(*parts: object) -> bytes:
        """The name of what ``parts`` determine."""
        return hashlib.sha256("\n".join(str(part) for part in parts).encode()).digest()[:KEY_BYTES]

    def get(self, key: bytes) -> tuple[Tensor, Tensor] | None:
        """Tokens [L, D] and pooled [D'] of a key, None if no shard has it."""
        if key in self._waiting:
            return self._waiting[key]
        if key not in self._places:
            self._look()
        while (place := self._places.get(key)) is not None:
            try:
                return self._row(*place)
            except (OSError, SafetensorError) as error:
                self._forget(place[0], error)
        return None

    def put(self, key: bytes, tokens: Tensor, pooled: Tensor) -> None:
        """Keeps a row; it is written together with others."""
        if not self._waiting:
            self._waiting_since = time.monotonic()
        row = tokens.detach().cpu().contiguous(), pooled.detach().cpu().contiguous()
        if self._waiting and self._shapes(next(iter(self._waiting.values()))) != self._shapes(row):
            self.flush()  # of another encoder
        self._waiting[key] = row
        self._waiting_bytes += sum(part.nbytes for part in row)
        if self._waiting_bytes >= SHARD_BYTES or time.monotonic() - self._waiting_since >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what is waiting; where the disk is full, a warning takes its place, since a cache is no result."""
        if not self._waiting:
            return
        keys = torch.frombuffer(bytearray(b"".join(self._waiting)), dtype=torch.uint8).reshape(-1, KEY_BYTES)
        tokens, pooled = (torch.stack(parts) for parts in zip(*self._waiting.values()))
        name = f"{uuid.uuid4().hex}.safetensors"
        try:
            with atomic_write(self.folder / name) as temporary:
                save_file({"keys": keys, "tokens": tokens, "pooled": pooled}, temporary, {"format": FORMAT})
            self._index(name)
            self._make_room(name)
        except OutputNotWritableError as error:
            logger.warning("encoded prompts are not kept: %s", error)
        except SafetensorError as error:  # its writer wraps what the system says
            logger.warning("encoded prompts are not kept: cannot write %s: %s", self.folder / name, error)
        self._waiting, self._waiting_bytes = {}, 0

    def _row(self, name: str, number: int) -> tuple[Tensor, Tensor]:
        if name not in self._open:
            self._open[name] = safe_open(self.folder / name, framework="pt")
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(name)
        shard = self._open[name]
        return shard.get_slice("tokens")[number], shard.get_slice("pooled")[number]

    def _look(self) -> None:
        """Reads the keys of shards that have come since the last look."""
        try:
            changed = self.folder.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed == self._looked:
            return
        # A change within the clock's grain after this look must be seen by the next one.
        self._looked = changed if time.time_ns() - changed > 50_000_000 else -1
        for path in self.folder.glob("*.safetensors"):
            if not path.name.startswith(".") and path.name not in self._known:
                self._index(path.name)

    def _index(self, name: str) -> None:
        self._known.add(name)
        try:
            with safe_open(self.folder / name, framework="pt") as shard:
                if (shard.metadata() or {}).get("format") != FORMAT:
                    return
                keys = shard.get_tensor("keys").numpy().tobytes()
        except FileNotFoundError:
            return
        except (OSError, SafetensorError) as error:
            self._forget(name, error)
            return
        for number in range(len(keys) // KEY_BYTES):
            self._places[keys[number * KEY_BYTES : (number + 1) * KEY_BYTES]] = name, number

    def _forget(self, name: str, error: Exception) -> None:
        """Drops a shard that has gone, or is damaged."""
        self._places = {key: place for key, place in self._places.items() if place[0] != name}
        self._open.pop(name, None)
        path = self.folder / name
        if path.exists():
            logger.warning("the encoded prompts in %s are damaged and are made again (%s)", path, error)
            path.unlink(missing_ok=True)

    def _make_room(self, newest: str) -> None:
        """Deletes the oldest shards until all fit into the limit; one process at a time."""
        if self._total() <= self.limit_bytes:
            return
        with FileLock(self.folder / ".room.lock"):
            shards = sorted((entry.stat().st_mtime_ns, entry.stat().st_size, entry) for entry in self._shards())
            total = sum(size for _, size, _ in shards)
            for _, size, path in shards:
                if total <= self.limit_bytes:
                    break
                if path.name != newest:
                    path.unlink(missing_ok=True)
                    total -= size

    def _total(self) -> int:
        total = 0
        for path in self._shards():
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue  # another process made room
        return total

    def _shards(self) -> list[Path]:
        return [path for path in self.folder.glob("*.safetensors") if not path.name.startswith(".")]

    @staticmethod
    def _shapes(row: tuple[Tensor, Tensor]) -> tuple[object, ...]:
        return tuple((part.shape, part.dtype) for part in row)


def _flush_at_exit(reference: "weakref.ref[EmbeddingCache]") -> None:
    cache = reference()
    if cache is not None and os.path.isdir(cache.folder):
        cache.flush()
