"""An endless stream of prompts, cut up among ranks and worker processes.

Prompts have positions 0, 1, 2, ... in one stream that all ranks share. With R ranks and B prompts in a batch, optimizer step
s uses the positions from s R B on, and rank r those that leave r when divided by R. What a step sees therefore depends on R B
alone, not on the number of workers. No prompt of an epoch is left out or seen twice, whether or not R B divides the number of
prompts: the next epoch begins within a step.
"""

import itertools
import random
from collections.abc import Iterator

import numpy
from torch.utils.data import IterableDataset, get_worker_info

from prd_lightning.data.order import ordered
from prd_lightning.data.source import PromptSource
from prd_lightning.data.store import PromptStore
from prd_lightning.errors import PromptError

_READ_AT_ONCE = 4096


class PromptStream(IterableDataset):
    """The part of an endless prompt stream that belongs to one rank and one worker.

    Args:
        source: of prompts; started over when it ends.
        rank, world_size: of the process.
        shuffle_buffer: 0 keeps the source's order. Of a source that is only streamed, prompts among which the next one is drawn;
            a stored one is shuffled as a whole, anew in each epoch.
        seed: of the draws.
        start: position at which this stream begins, the first one that no rank has used yet.
        batch_size: prompts in a batch; workers take turns batch by batch.
        store: numbered copy of the source; None streams it.
    """

    def __init__(
        self,
        source: PromptSource,
        rank: int,
        world_size: int,
        shuffle_buffer: int,
        seed: int,
        start: int = 0,
        batch_size: int = 1,
        store: PromptStore | None = None,
    ) -> None:
        super().__init__()
        self.source, self.rank, self.world_size = source, rank, world_size
        self.shuffle_buffer, self.seed, self.start, self.batch_size = shuffle_buffer, seed, start, batch_size
        self.store = store

    def __iter__(self) -> Iterator[str]:
        """Prompts without end."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        return self._stored(number, workers) if self.store is not None else self._streamed(number, workers)

    def _stored(self, number: int, workers: int) -> Iterator[str]:
        batches = max(1, _READ_AT_ONCE // self.batch_size)
        within = numpy.arange(self.batch_size, dtype=numpy.int64)
        seed = self.seed if self.shuffle_buffer else None
        for first in itertools.count(step=batches):
            turns = number + workers * numpy.arange(first, first + batches, dtype=numpy.int64)
            own = (turns[:, None] * self.batch_size + within).ravel()
            positions = self.start + own * self.world_size + self.rank
            yield from self.store.read(ordered(positions, len(self.store), seed))

    def _streamed(self, number: int, workers: int) -> Iterator[str]:
        own = itertools.islice(self._shuffled(self._endless()), self.start + self.rank, None, self.world_size)
        if workers == 1:
            return own
        return self._turns(own, number, workers)

    def _turns(self, own: Iterator[str], number: int, workers: int) -> Iterator[str]:
        """Every ``workers``-th batch of the rank's prompts."""
        while True:
            turn = list(itertools.islice(own, self.batch_size * workers))
            yield from turn[number * self.batch_size : (number + 1) * self.batch_size]

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
