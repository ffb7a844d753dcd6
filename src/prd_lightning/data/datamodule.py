"""Prompts for training: an endless stream, cut into batches, each repeated K times with fresh cameras.

One unroll step is one micro-batch, so a batch is repeated *after* the data loader: its worker processes interleave their
batches and would tear a cycle apart. The stream starts over when its source ends, so an epoch never ends inside a cycle and
all ranks have equally much to do; training is bounded by ``max_steps``. Where a resumed training goes on follows from the
optimizer steps that were done and from the position in the stream that the checkpoint names.
"""

import logging
import random
from collections.abc import Iterator
from typing import Any, Literal

import lightning
from torch.utils.data import DataLoader

from prd_lightning.cameras import CameraSettings, sample_training_cameras
from prd_lightning.data.batch import PromptBatch
from prd_lightning.data.source import PromptSource
from prd_lightning.data.store import PromptStore
from prd_lightning.data.stream import PromptStream
from prd_lightning.draws import PromptDraws
from prd_lightning.errors import ConfigurationError, PromptError

logger = logging.getLogger(__name__)


class UnrollCycles:
    """Repeats every batch of a loader K times, with fresh cameras and seeds that depend on ``seed`` and the stream alone.

    A prompt's cameras and noise follow from its position in the stream that all ranks share: how prompts are dealt out to ranks
    and batches does not matter.

    Args:
        loader: of a rank's batches of prompts.
        unroll_steps: K.
        cameras: distribution of the cameras.
        seed: of everything.
        first_cycle: optimizer steps that went before.
        start: position of the first prompt of all ranks.
        rank, world_size: of the process.
    """

    def __init__(
        self,
        loader: DataLoader,
        unroll_steps: int,
        cameras: CameraSettings,
        seed: int,
        first_cycle: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.loader, self.unroll_steps, self.cameras = loader, unroll_steps, cameras
        self.seed, self.first_cycle = seed, first_cycle
        self.start, self.rank, self.world_size = start, rank, world_size

    def __iter__(self) -> Iterator[PromptBatch]:
        """Micro-batches without end."""
        position = self.start + self.rank
        for cycle, prompts in enumerate(self.loader, start=self.first_cycle):
            positions = [position + index * self.world_size for index in range(len(prompts))]
            position += len(prompts) * self.world_size
            for unroll_step in range(self.unroll_steps):
                noise_seed = self._seed("step", cycle, unroll_step)
                prompt_seeds = [self._seed("prompt", number, unroll_step) for number in positions]
                draws = PromptDraws(noise_seed, prompt_seeds, "cameras")
                cameras = sample_training_cameras(len(prompts), self.cameras, draws)
                yield PromptBatch(prompts, cameras, unroll_step, noise_seed, prompt_seeds)

    def _seed(self, kind: str, number: int, unroll_step: int) -> int:
        return random.Random(f"{self.seed}/{kind}/{number}/{unroll_step}").randrange(2**62)


class PromptDataModule(lightning.LightningDataModule):
    """Streams prompts in cycles of K micro-batches.

    Args:
        source: of prompts. One that can be copied is copied when training begins, so that it may change meanwhile.
        batch_size: prompts per process.
        unroll_steps: K, equal to the module's.
        cameras: distribution of the training cameras.
        seed: of cameras, noise and shuffling.
        shuffle_buffer: see ``PromptStream``.
        num_workers: processes that read prompts; reading is cheap, so 0 is rarely too few.
        changed_source: whether a training may go on with prompts other than those that it began with: ``refuse`` or ``accept``.

    Raises:
        ConfigurationError: a size is out of range, or ``changed_source`` is unknown.
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
        changed_source: Literal["refuse", "accept"] = "refuse",
    ) -> None:
        super().__init__()
        least = {"batch_size": 1, "unroll_steps": 1, "num_workers": 0, "shuffle_buffer": 0}
        given = (batch_size, unroll_steps, num_workers, shuffle_buffer)
        for (name, smallest), value in zip(least.items(), given):
            if value < smallest:
                raise ConfigurationError(f"{name} must be at least {smallest}, got {value}")
        if seed < 0:
            raise ConfigurationError(f"seed must not be negative, got {seed}")
        if changed_source not in ("refuse", "accept"):
            raise ConfigurationError(f"changed_source must be 'refuse' or 'accept', got {changed_source!r}")
        self.source, self.batch_size, self.unroll_steps = source, batch_size, unroll_steps
        self.cameras, self.seed = cameras or CameraSettings(), seed
        self.shuffle_buffer, self.num_workers, self.changed_source = shuffle_buffer, num_workers, changed_source
        self._store: PromptStore | None = None
        self._has_looked = False
        self._known_step, self._known_position = 0, 0

    @property
    def store(self) -> PromptStore | None:
        """The copy of the prompts, made at first use; None if the source is only streamed."""
        if not self._has_looked:
            self._store, self._has_looked = self.source.snapshot(), True
        return self._store

    def setup(self, stage: str) -> None:
        """Copies the prompts; a bad entry is found before the first step."""
        if self.store is not None:
            logger.info("%s prompts in %s", f"{len(self.store):,}", self.store.folder)

    def train_dataloader(self) -> UnrollCycles:
        """Micro-batches of this rank, from where a resumed training stopped."""
        rank, world_size, step = 0, 1, 0
        if self.trainer is not None:
            rank, world_size, step = self.trainer.global_rank, self.trainer.world_size, self.trainer.global_step
        start = self._position(step, world_size)
        stream = PromptStream(
            self.source, rank, world_size, self.shuffle_buffer, self.seed, start, self.batch_size, self.store
        )
        loader = DataLoader(stream, batch_size=self.batch_size, collate_fn=list, num_workers=self.num_workers)
        return UnrollCycles(loader, self.unroll_steps, self.cameras, self.seed, step, start, rank, world_size)

    def _position(self, step: int, world_size: int) -> int:
        """Prompts that all ranks together have used up after ``step`` optimizer steps."""
        return self._known_position + (step - self._known_step) * self.batch_size * world_size

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is; part of every checkpoint. Numbers of ranks and prompts per batch may change at a resumption."""
        step = self.trainer.global_step if self.trainer is not None else 0
        world_size = self.trainer.world_size if self.trainer is not None else 1
        state = {"step": step, "position": self._position(step, world_size)}
        if self.store is not None:
            state |= {"prompts": len(self.store), "fingerprint": self.store.fingerprint}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from ``state_dict``.

        Raises:
            PromptError: the prompts are not those of the checkpoint, and ``changed_source`` is ``refuse``.
        """
        self._known_step, self._known_position = state_dict["step"], state_dict["position"]
        known = state_dict.get("fingerprint")
        found = None if self.store is None else self.store.fingerprint
        if known == found:
            return
        count = "a stream" if self.store is None else f"{len(self.store)} prompts"
        message = (
            f"the prompts have changed since the checkpoint was made: then {state_dict.get('prompts', 'a stream')} prompts "
            f"({known and known[:12]}), now {count} ({found and found[:12]})"
        )
        if self.changed_source == "refuse":
            raise PromptError(f"{message}; put the earlier ones back, or go on with these by data.changed_source=accept")
        logger.warning("%s; training goes on at position %d of the new ones", message, self._known_position)

    def teardown(self, stage: str) -> None:
        """Says how many entries were left out."""
        if self.source.skipped_count:
            logger.warning("%d bad prompt entries were left out", self.source.skipped_count)
