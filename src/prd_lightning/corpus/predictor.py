"""Lightning's ``predict`` over a corpus: each process makes its share of the meshes and writes down what became of them."""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy
from torch.utils.data import DataLoader, Dataset

from prd_lightning.corpus.journal import DONE, FAILED, Entry, Journal
from prd_lightning.corpus.plan import CorpusPlan
from prd_lightning.errors import OutputNotWritableError, PRDError
from prd_lightning.pipeline import GeneratedMesh, TextToMeshPipeline

logger = logging.getLogger(__name__)

Task = tuple[str, int]
Make = Callable[[list[str], list[int]], Iterator[GeneratedMesh]]
Write = Callable[[str, int, GeneratedMesh], tuple[Path | None, dict[str, Any], PRDError | None]]


class Shares(Dataset):
    """Batches of one rank: every R-th of the tasks that are left.

    Args:
        plan: names tasks.
        numbers: of the tasks that are left.
        rank, world_size: of the process.
        batch_size: prompts that are denoised together.
    """

    def __init__(self, plan: CorpusPlan, numbers: numpy.ndarray, rank: int, world_size: int, batch_size: int) -> None:
        self.plan, self.numbers, self.batch_size = plan, numbers[rank::world_size], batch_size

    def __len__(self) -> int:
        """Batches."""
        return -(-len(self.numbers) // self.batch_size)

    def __getitem__(self, index: int) -> list[Task]:
        """Prompts and seeds."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.plan.tasks(self.numbers[index * self.batch_size : (index + 1) * self.batch_size])


class CorpusPredictor(lightning.LightningModule):
    """Makes meshes, writes them, and retries what failed at the end of its share.

    Args:
        pipeline: is moved to the process's device.
        make: prompts and seeds to meshes, one after the other.
        write: a mesh to its files; returns the mesh's path, numbers for the journal, and an error if there is no file.
        journal: of the folder.
        attempts: how often tasks were tried in earlier runs.
        retries: further attempts for a task that failed.
    """

    def __init__(
        self,
        pipeline: TextToMeshPipeline,
        make: Make,
        write: Write,
        journal: Journal,
        attempts: Mapping[Task, int],
        retries: int = 1,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer tasks than processes are left
        self.pipeline, self.make, self.write, self.journal = pipeline, make, write, journal
        self.attempts, self.retries = dict(attempts), retries
        self._failed: list[Task] = []

    def on_predict_start(self) -> None:
        """Moves the pipeline to this process's device."""
        self.pipeline.to(self.device)

    def predict_step(self, batch: list[Task], batch_idx: int) -> None:
        """Makes one batch; whatever goes wrong with it is written down, and the next batch follows."""
        self._failed += self._process(batch)

    def on_predict_end(self) -> None:
        """Tries again, one at a time, what failed."""
        for _ in range(self.retries):
            again, self._failed = self._failed, []
            for task in again:
                self._failed += self._process([task])

    def _process(self, batch: list[Task]) -> list[Task]:
        """Makes and records the tasks of a batch; returns those that failed."""
        entries: list[Entry] = []
        try:
            results = self.make([prompt for prompt, _ in batch], [seed for _, seed in batch])
            for (prompt, seed), result in zip(batch, results, strict=True):
                entries.append(self._finish(prompt, seed, result))
                self.journal.add(entries[-1:])
        except OutputNotWritableError:
            raise  # a full disk would fail every one that follows
        except (RuntimeError, ValueError, ArithmeticError, OSError, ImportError) as error:
            message = f"{type(error).__name__}: {error}"
            logger.warning("%d prompts from %r on failed: %s", len(batch) - len(entries), batch[len(entries)][0], message)
            lost = [self._entry(*task, FAILED, error=message) for task in batch[len(entries) :]]
            self.journal.add(lost)
            entries += lost
        return [(entry.prompt, entry.seed) for entry in entries if entry.status == FAILED]

    def _finish(self, prompt: str, seed: int, result: GeneratedMesh) -> Entry:
        path, numbers, error = self.write(prompt, seed, result)
        if path is None:
            return self._entry(prompt, seed, FAILED, error=str(error), seconds=result.seconds)
        name = path.relative_to(self.journal.folder).as_posix()
        return self._entry(prompt, seed, DONE, file=name, seconds=result.seconds, numbers=numbers)

    def _entry(self, prompt: str, seed: int, status: str, seconds: float | None = None, **values: Any) -> Entry:
        count = self.attempts[prompt, seed] = self.attempts.get((prompt, seed), 0) + 1
        spent = None if seconds is None else round(seconds, 3)
        return Entry(prompt, seed, status, seconds=spent, attempts=count, process=self.global_rank, **values)


class CorpusData(lightning.LightningDataModule):
    """Gives each process its share; see ``Shares``."""

    def __init__(self, plan: CorpusPlan, numbers: numpy.ndarray, batch_size: int) -> None:
        super().__init__()
        self.plan, self.numbers, self.batch_size = plan, numbers, batch_size

    def predict_dataloader(self) -> DataLoader:
        """Batches of this rank."""
        shares = Shares(self.plan, self.numbers, self.trainer.global_rank, self.trainer.world_size, self.batch_size)
        return DataLoader(shares, batch_size=None, shuffle=False)
