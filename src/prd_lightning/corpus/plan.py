"""Which meshes a corpus asks for: every different prompt with every seed, by number, in little memory."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy

from prd_lightning.corpus.journal import DONE, Entry, Journal
from prd_lightning.data.store import PromptStore
from prd_lightning.mesh import file_stem

_READ_AT_ONCE = 4096
_HASH = numpy.dtype([("high", numpy.uint64), ("low", numpy.uint64)])


class CorpusPlan:
    """The tasks of a corpus, numbered prompt by prompt, seed by seed.

    Args:
        store: prompts; of equal ones the first counts.
        seeds: every prompt is made with each of them.
    """

    def __init__(self, store: PromptStore, seeds: Sequence[int]) -> None:
        self.store, self.seeds = store, list(dict.fromkeys(seeds))
        _, first = numpy.unique(_hashes(store), return_index=True)
        self._prompts = numpy.sort(first)
        self._long_names = self._clashes()

    def __len__(self) -> int:
        """Meshes in all."""
        return len(self._prompts) * len(self.seeds)

    @property
    def repeated(self) -> int:
        """Prompts of the corpus that are there more than once."""
        return len(self.store) - len(self._prompts)

    def tasks(self, numbers: Sequence[int] | numpy.ndarray) -> list[tuple[str, int]]:
        """Prompt and seed of tasks."""
        places, seeds = numpy.divmod(numpy.asarray(numbers, dtype=numpy.int64), len(self.seeds))
        return list(zip(self.store.read(self._prompts[places]), (self.seeds[seed] for seed in seeds)))

    def all(self) -> Iterator[tuple[str, int]]:
        """Prompt and seed of all tasks."""
        for start in range(0, len(self), _READ_AT_ONCE):
            yield from self.tasks(numpy.arange(start, min(start + _READ_AT_ONCE, len(self))))

    def stem(self, prompt: str, seed: int) -> str:
        """File name without suffix, different for each task."""
        stem = file_stem(prompt, seed)
        if self._long_names and _digest(stem.encode()) in self._long_names:
            return f"{stem.rpartition('_seed')[0]}_{hashlib.sha256(prompt.encode()).hexdigest()}_seed{seed}"
        return stem

    def remaining(self, journal: Journal) -> tuple[numpy.ndarray, dict[tuple[str, int], int]]:
        """Numbers of the tasks that are not done, and how often those that failed were tried before.

        A task whose file has been deleted is not done.
        """
        latest: dict[bytes, tuple[bool, int]] = {}
        for entry in journal.entries():
            latest[_key(entry.prompt, entry.seed)] = self._is_done(entry, journal.folder), entry.attempts
        left, attempts = [], {}
        for number, (prompt, seed) in enumerate(self.all()):
            done, count = latest.get(_key(prompt, seed), (False, 0))
            if not done:
                left.append(number)
            if not done and count:
                attempts[prompt, seed] = count
        return numpy.asarray(left, dtype=numpy.int64), attempts

    @staticmethod
    def _is_done(entry: Entry, folder: Path) -> bool:
        return entry.status == DONE and entry.file is not None and (folder / entry.file).is_file()

    def _clashes(self) -> set[bytes]:
        """Hashes of the names that two different prompts would share."""
        names = numpy.empty(len(self._prompts), dtype=_HASH)
        for start in range(0, len(self._prompts), _READ_AT_ONCE):
            prompts = self.store.read(self._prompts[start : start + _READ_AT_ONCE])
            joined = b"".join(_digest(file_stem(prompt, self.seeds[0]).encode()) for prompt in prompts)
            names[start : start + len(prompts)] = numpy.frombuffer(joined, dtype=_HASH)
        found, counts = numpy.unique(names, return_counts=True)
        if (counts == 1).all():
            return set()
        shared = {value.tobytes() for value in found[counts > 1]}
        prompts = (prompt for prompt, seed in self.all() if seed == self.seeds[0])
        clashing = [prompt for prompt in prompts if _digest(file_stem(prompt, self.seeds[0]).encode()) in shared]
        return {_digest(file_stem(prompt, seed).encode()) for prompt in clashing for seed in self.seeds}


def _hashes(store: PromptStore) -> numpy.ndarray:
    found = numpy.empty(len(store), dtype=_HASH)
    for start in range(0, len(store), _READ_AT_ONCE):
        prompts = store.read(numpy.arange(start, min(start + _READ_AT_ONCE, len(store))))
        joined = b"".join(_digest(prompt.encode()) for prompt in prompts)
        found[start : start + len(prompts)] = numpy.frombuffer(joined, dtype=_HASH)
    return found


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _key(prompt: str, seed: int) -> bytes:
    return _digest(f"{seed}\n{prompt}".encode())
