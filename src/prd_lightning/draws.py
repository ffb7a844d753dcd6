"""Random numbers that belong to a prompt, not to the batch that it happens to be in.

Every prompt of a batch draws from a stream of its own, so that two prompts in one process and one prompt in each of two processes
see the same numbers. What a batch has only one of (an unroll step's timestep, a patch of the picture) is drawn from a stream that
all processes share. All streams are on the CPU: the numbers do not depend on the device.
"""

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class PromptDraws:
    """One stream for each prompt and one that all share.

    Args:
        shared_seed: of the shared stream, the same in all processes.
        prompt_seeds: of the B prompts' streams.
        purpose: streams of different purposes are unrelated.
    """

    def __init__(self, shared_seed: int, prompt_seeds: Sequence[int], purpose: str = "") -> None:
        self.shared = _stream(shared_seed, purpose)
        self.prompts = [_stream(seed, purpose) for seed in prompt_seeds]


Draws = torch.Generator | PromptDraws | None
"""Where random numbers come from; None is torch's own stream."""


def normal(shape: Sequence[int], draws: Draws, groups: int = 1) -> Tensor:
    """Standard normal numbers; see ``_drawn`` for ``groups``."""
    return _drawn(torch.randn, tuple(shape), draws, groups)


def uniform(shape: Sequence[int], draws: Draws, groups: int = 1) -> Tensor:
    """Numbers in [0, 1); see ``_drawn`` for ``groups``."""
    return _drawn(torch.rand, tuple(shape), draws, groups)


def integers(low: int, high: int, shape: Sequence[int], draws: Draws, groups: int = 1) -> Tensor:
    """Whole numbers from ``low`` to below ``high``; see ``_drawn`` for ``groups``."""
    return _drawn(lambda size, generator: torch.randint(low, high, size, generator=generator), tuple(shape), draws, groups)


def shared(draws: Draws) -> torch.Generator | None:
    """The stream of what a batch has only one of."""
    return draws.shared if isinstance(draws, PromptDraws) else draws


def _drawn(kind: Callable[..., Tensor], shape: tuple[int, ...], draws: Draws, groups: int) -> Tensor:
    """Numbers whose first axis holds ``groups`` times B prompts times equally many samples, in this order."""
    if not isinstance(draws, PromptDraws):
        return kind(shape, generator=draws)
    count, rest = divmod(shape[0], groups * len(draws.prompts))
    if rest:
        raise ValueError(f"{shape[0]} samples cannot be shared among {groups} groups of {len(draws.prompts)} prompts")
    parts = [kind((groups, count, *shape[1:]), generator=stream) for stream in draws.prompts]
    return torch.stack(parts, dim=1).flatten(0, 2)


def _stream(seed: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(random.Random(f"{seed}/{purpose}").randrange(2**62))
