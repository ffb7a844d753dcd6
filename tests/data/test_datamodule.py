"""Cycles of micro-batches, the shares of ranks and workers, and where a resumed stream goes on."""

import itertools
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from prd_lightning.cameras import CameraSettings
from prd_lightning.data import ListPrompts, PromptBatch, PromptDataModule, PromptSource, PromptStream
from prd_lightning.errors import ConfigurationError, PromptError

K = 3
PROMPTS = [f"prompt {index}" for index in range(12)]


class CountingSource(PromptSource):
    """Endless numbered prompts; counts how many were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    def __iter__(self) -> Iterator[str]:
        for index in itertools.count():
            self.read += 1
            yield str(index)


def take(count: int, step: int = 0, rank: int = 0, ranks: int = 1, **settings: object) -> list[PromptBatch]:
    """The first micro-batches of a rank, as if ``step`` optimizer steps had been done."""
    source = settings.pop("source", ListPrompts(PROMPTS))
    given = {"batch_size": 2, "unroll_steps": K, "cameras": CameraSettings(views_per_prompt=2)} | settings
    module = PromptDataModule(source, **given)
    module.trainer = SimpleNamespace(global_rank=rank, world_size=ranks, global_step=step)
    return list(itertools.islice(module.train_dataloader(), count))


def same(first: PromptBatch, second: PromptBatch) -> bool:
    matrices = torch.equal(first.cameras.camera_to_world, second.cameras.camera_to_world)
    names = ("prompts", "unroll_step", "noise_seed", "prompt_seeds")
    return matrices and all(getattr(first, name) == getattr(second, name) for name in names)


def test_the_same_prompts_k_times_with_fresh_cameras_and_noise():
    batches = take(2 * K)
    assert [batch.unroll_step for batch in batches] == [0, 1, 2] * 2
    assert [batch.prompts for batch in batches] == [PROMPTS[:2]] * K + [PROMPTS[2:4]] * K
    assert len({batch.noise_seed for batch in batches}) == 2 * K
    assert len({seed for batch in batches for seed in batch.prompt_seeds}) == 2 * K * 2
    assert len({tuple(batch.cameras.azimuth.tolist()) for batch in batches}) == 2 * K
    assert all(len(batch.cameras) == 4 for batch in batches)


def test_an_epoch_never_ends():
    """Five cycles of five prompts over a source of twelve: the source starts over within a batch."""
    batches = take(5 * K, batch_size=5)
    assert batches[2 * K].prompts == [*PROMPTS[10:], *PROMPTS[:3]]


@pytest.mark.parametrize("step", [0, 3])
def test_what_a_prompt_sees_does_not_depend_on_how_prompts_are_dealt_out(step: int):
    """One process with batches of 4, two with 2, four with 1: the same prompts with the same seeds and cameras in each step."""

    def dealt(ranks: int) -> list[dict[int, tuple[str, list[float], int]]]:
        shares = [take(2 * K, step, rank, ranks, batch_size=4 // ranks) for rank in range(ranks)]
        return [
            {
                seed: (prompt, batch.cameras.azimuth.view(-1, 2)[index].tolist(), batch.noise_seed)
                for batch in batches
                for index, (prompt, seed) in enumerate(zip(batch.prompts, batch.prompt_seeds, strict=True))
            }
            for batches in zip(*shares, strict=True)
        ]

    assert dealt(1) == dealt(2) == dealt(4)
    assert all(len(seen) == 4 for seen in dealt(4))


def test_cameras_and_noise_depend_on_seed_and_position_alone():
    assert all(same(first, second) for first, second in zip(take(7, seed=4), take(7, seed=4), strict=True))
    assert take(1, seed=4)[0].noise_seed != take(1, seed=5)[0].noise_seed
    assert take(1, seed=4)[0].prompt_seeds != take(1, seed=5)[0].prompt_seeds
    first, second = take(1, ranks=2)[0], take(1, ranks=2, rank=1)[0]
    assert first.noise_seed == second.noise_seed, "the unroll's timesteps are those of all processes"
    assert not set(first.prompt_seeds) & set(second.prompt_seeds)


@pytest.mark.parametrize("shuffle_buffer", [0, 4])
def test_a_resumed_stream_goes_on_where_it_stopped(shuffle_buffer: int):
    whole = take(5 * K, shuffle_buffer=shuffle_buffer)
    resumed = take(2 * K, step=3, shuffle_buffer=shuffle_buffer)
    assert all(same(first, second) for first, second in zip(whole[3 * K :], resumed, strict=True))


@pytest.mark.parametrize("shuffle_buffer", [0, 4])
def test_ranks_share_the_prompts_without_overlap_or_omission(shuffle_buffer: int):
    seen = [
        [prompt for batch in take(2 * K, rank=rank, ranks=3, shuffle_buffer=shuffle_buffer)[::K] for prompt in batch.prompts]
        for rank in range(3)
    ]
    everything = [prompt for share in seen for prompt in share]
    if shuffle_buffer:
        plain = list(itertools.islice(PromptStream(ListPrompts(PROMPTS), 0, 1, shuffle_buffer, 0), 12))
        assert Counter(everything) == Counter(plain)
    else:
        assert sorted(everything) == sorted(PROMPTS)


def test_a_world_size_that_does_not_divide_the_prompts_leaves_none_out():
    """Three ranks with two prompts each over five prompts: every prompt once in each epoch, which begins within a step."""
    source = ListPrompts(PROMPTS[:5])
    shares = [[batch.prompts for batch in take(5 * K, rank=rank, ranks=3, source=source)[::K]] for rank in range(3)]
    in_order = [shares[rank][cycle][index] for cycle in range(5) for index in range(2) for rank in range(3)]
    assert in_order == PROMPTS[:5] * 6


@pytest.mark.parametrize("step", [0, 2])
def test_workers_share_the_prompts_and_cycles_stay_whole(step: int):
    batches = take(6 * K, step=step, num_workers=2)
    for cycle in (
        itertools.batched(batches, K) if hasattr(itertools, "batched") else [batches[i : i + K] for i in range(0, 6 * K, K)]
    ):
        assert [batch.unroll_step for batch in cycle] == list(range(K))
        assert len({tuple(batch.prompts) for batch in cycle}) == 1
    counted = Counter(prompt for batch in batches[::K] for prompt in batch.prompts)
    assert counted == Counter(PROMPTS)


def test_a_resumed_stream_with_workers_goes_on_where_it_stopped():
    for done in (1, 2, 3):
        whole, resumed = take((done + 4) * K, num_workers=2), take(4 * K, step=done, num_workers=2)
        before = [prompt for batch in whole[: done * K : K] for prompt in batch.prompts]
        after = [prompt for batch in resumed[::K] for prompt in batch.prompts]
        assert after == [prompt for batch in whole[done * K :: K] for prompt in batch.prompts], (done, before)


def test_prompts_are_read_as_they_are_needed():
    source = CountingSource()
    take(4 * K, source=source)
    assert source.read <= 4 * 2 + 2
    shuffled = CountingSource()
    take(4 * K, source=shuffled, shuffle_buffer=10)
    assert shuffled.read <= 4 * 2 + 10 + 2


def test_shuffling_draws_from_the_buffer_and_loses_nothing():
    stream = PromptStream(CountingSource(), 0, 1, shuffle_buffer=8, seed=1)
    drawn = list(map(int, itertools.islice(stream, 200)))
    assert len(set(drawn)) == 200 and drawn != sorted(drawn)
    assert all(value <= position + 8 for position, value in enumerate(drawn))


def test_a_source_smaller_than_the_shuffle_buffer():
    drawn = list(itertools.islice(PromptStream(ListPrompts(PROMPTS), 0, 1, shuffle_buffer=50, seed=1), 120))
    assert set(drawn) == set(PROMPTS)


def test_a_source_without_a_usable_prompt_is_named():
    with pytest.raises(PromptError, match="no usable prompt"):
        take(1, source=ListPrompts([" ", ""], on_error="skip"))


def test_left_out_entries_are_reported_at_the_end(caplog: pytest.LogCaptureFixture):
    module = PromptDataModule(ListPrompts(["a cube", " "], on_error="skip"), batch_size=3)
    next(iter(module.train_dataloader()))
    module.teardown("fit")
    assert "bad prompt entries were left out" in caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0},
        {"unroll_steps": 0},
        {"num_workers": -1},
        {"shuffle_buffer": -1},
        {"seed": -1},
        {"changed_source": "ignore"},
    ],
)
def test_sizes_out_of_range_are_refused(settings: dict):
    with pytest.raises(ConfigurationError, match=f"{next(iter(settings))} must"):
        PromptDataModule(ListPrompts(PROMPTS), **settings)


def test_a_batch_moves_its_cameras():
    (batch,) = take(1)
    moved = batch.to("meta")
    assert moved.cameras.camera_to_world.device.type == "meta" and moved.prompts == batch.prompts
