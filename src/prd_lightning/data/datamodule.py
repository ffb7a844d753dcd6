"""Prompts for training: an endless stream, cut into batches, each repeated K times with fresh cameras.

One unroll step is one micro-batch, so a batch is repeated *after* the data loader: its worker processes interleave their batches
and would tear a cycle apart. The stream starts over when its source ends, so an epoch never ends inside a cycle and all ranks
have equally much to do; training is bounded by ``max_steps``.
"""

import itertools
import logging
import random
from collections.abc import Iterator

import lightning
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from prd_lightning.cameras import CameraSettings, sample_training_cameras
from prd_lightning.data.batch import PromptBatch
from prd_lightning.data.prompts import PromptSource
from prd_lightning.errors import ConfigurationError, PromptError

logger = logging.getLogger(__name__)


class PromptStream(IterableDataset):
    """The part of an endless prompt stream that belongs to one rank and one worker.

    Args:
        source: of prompts; started over when it ends.
        rank, world_size: of the process.
        shuffle_buffer: prompts among which the next one is drawn; 0 keeps the source's order.
        seed: of the draws.
        skip: batches of this rank that were used up before a resumption.
        batch_size: prompts in a batch; workers take turns batch by batch.
    """

    def __init__(
        self,
        source: PromptSource,
        rank: int,
        world_size: int,
        shuffle_buffer: int,
        seed: int,
        skip: int = 0,
        batch_size: int = 1,
    ) -> None:
        super().__init__()
        self.source, self.rank, self.world_size = source, rank, world_size
        self.shuffle_buffer, self.seed, self.skip, self.batch_size = shuffle_buffer, seed, skip, batch_size

    def __iter__(self) -> Iterator[str]:
        """Prompts without end."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        number = (number + self.skip) % workers  # the first worker goes on for the one whose turn it was
        done = (self.skip + workers - 1 - number) // workers
        share, shares = self.rank * workers + number, self.world_size * workers
        own = itertools.islice(self._shuffled(self._endless()), share, None, shares)
        return itertools.islice(own, done * self.batch_size, None)

    def _endless(self) -> Iterator[str]:
        while True:
            is_empty = True
            for prompt in self.source:
                is_empty = False
                yield prompt
            if is_empty:
                raise PromptError("the prompt source has no usable prompt")

    def _shuffled(self, prompts: Iterator[str]) -> Iterator[str]:
        if not self.shuffle_buffer:
            yield from prompts
        draw = random.Random(self.seed)
        buffer = list(itertools.islice(prompts, self.shuffle_buffer))
        for prompt in prompts:
            index = draw.randrange(len(buffer))
            buffer[index], chosen = prompt, buffer[index]
            yield chosen


class UnrollCycles:
    """Repeats every batch of a loader K times, with fresh cameras and noise seeds that depend on position and seed alone."""

    def __init__(self, loader: DataLoader, unroll_steps: int, cameras: CameraSettings, seed: int, first_cycle: int = 0) -> None:
        self.loader, self.unroll_steps, self.cameras = loader, unroll_steps, cameras
        self.seed, self.first_cycle = seed, first_cycle

    def __iter__(self) -> Iterator[PromptBatch]:
        """Micro-batches without end."""
        for cycle, prompts in enumerate(self.loader, start=self.first_cycle):
            for unroll_step in range(self.unroll_steps):
                noise_seed = random.Random(f"{self.seed}/{cycle}/{unroll_step}").randrange(2**62)
                cameras = sample_training_cameras(len(prompts), self.cameras, torch.Generator().manual_seed(noise_seed))
                yield PromptBatch(prompts, cameras, unroll_step, noise_seed)


class PromptDataModule(lightning.LightningDataModule):
    """Streams prompts in cycles of K micro-batches.

    Args:
        source: of prompts.
        batch_size: prompts per process.
        unroll_steps: K, equal to the module's.
        cameras: distribution of the training cameras.
        seed: of cameras, noise and shuffling.
        shuffle_buffer: see ``PromptStream``.
        num_workers: processes that read prompts; reading is cheap, so 0 is rarely too few.

    Raises:
        ConfigurationError: a size is out of range.
    """

    def __init__(
        self,
        source: PromptSource,
        batch_size: int = 4,
        unroll_steps: int = 4,
        cameras: CameraSettings | None = None,
        seed: int = 0,
        shuffle_buffer: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        sizes = (("batch_size", batch_size, 1), ("unroll_steps", unroll_steps, 1), ("num_workers", num_workers, 0))
        for name, value, least in sizes:
            if value < least:
                raise ConfigurationError(f"{name} must be at least {least}, got {value}")
        if seed < 0:
            raise ConfigurationError(f"seed must not be negative, got {seed}")
        self.source, self.batch_size, self.unroll_steps = source, batch_size, unroll_steps
        self.cameras, self.seed = cameras or CameraSettings(), seed
        self.shuffle_buffer, self.num_workers = shuffle_buffer, num_workers

    def train_dataloader(self) -> UnrollCycles:
        """Micro-batches of this rank, from where a resumed training stopped."""
        rank, world_size, done = 0, 1, 0
        if self.trainer is not None:
            rank, world_size, done = self.trainer.global_rank, self.trainer.world_size, self.trainer.global_step
        stream = PromptStream(self.source, rank, world_size, self.shuffle_buffer, self.seed, done, self.batch_size)
        loader = DataLoader(stream, batch_size=self.batch_size, collate_fn=list, num_workers=self.num_workers)
        return UnrollCycles(loader, self.unroll_steps, self.cameras, seed=self.seed * 1_000_003 + rank, first_cycle=done)

    def teardown(self, stage: str) -> None:
        """Says how many entries were left out."""
        if self.source.skipped_count:
            logger.warning("%d bad prompt entries were left out", self.source.skipped_count)
