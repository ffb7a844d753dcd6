"""Streams of random numbers that belong to prompts."""

from functools import partial

import pytest
import torch

from prd_lightning.draws import PromptDraws, integers, normal, shared, uniform

DRAWS = [normal, uniform, partial(integers, 3, 9000)]


@pytest.mark.parametrize("draw", DRAWS)
def test_a_prompt_draws_the_same_numbers_in_any_batch(draw):
    together = draw((12, 5), PromptDraws(0, [7, 8]), 3).unflatten(0, (3, 2, 2))
    for index, seed in enumerate((7, 8)):
        alone = draw((6, 5), PromptDraws(1, [seed]), 3).unflatten(0, (3, 1, 2))
        assert torch.equal(together[:, index], alone[:, 0])
    assert not torch.equal(together[:, 0], together[:, 1])
    assert together.unique().numel() > 50, "samples of a prompt differ"


def test_a_generator_draws_as_torch_does():
    draws, again = (torch.Generator().manual_seed(2) for _ in range(2))
    assert torch.equal(normal((4, 3), draws), torch.randn(4, 3, generator=again))
    assert torch.equal(uniform((4, 3), draws), torch.rand(4, 3, generator=again))
    assert torch.equal(integers(3, 9, (5,), draws), torch.randint(3, 9, (5,), generator=again))


def test_purposes_are_unrelated_and_the_shared_stream_is_shared():
    first, second = PromptDraws(5, [1], "latents"), PromptDraws(5, [1], "teachers")
    assert not torch.equal(normal((3,), first), normal((3,), second))
    ranks = [PromptDraws(5, [seed], "volume") for seed in (1, 2)]
    assert len({int(torch.randint(2**40, (), generator=shared(draws))) for draws in ranks}) == 1
    assert shared(None) is None


def test_samples_that_prompts_cannot_share_are_refused():
    with pytest.raises(ValueError, match="cannot be shared"):
        normal((5, 2), PromptDraws(0, [1, 2]))
