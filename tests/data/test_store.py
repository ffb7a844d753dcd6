"""The copy of a prompt file: complete, made once, kept apart from later changes, and streamed exactly by any number of ranks."""

import itertools
import logging
import multiprocessing
import os
import pickle
import tracemalloc
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from prd_lightning.data import FilePrompts, PromptDataModule, PromptStream
from prd_lightning.data.store import PromptStore, stored, write_store
from prd_lightning.errors import OutputNotWritableError, PromptError

PROMPTS = [f"prompt {index}{'ü' * (index % 5)}" for index in range(23)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("PRD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prompts"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS), encoding="utf-8")
    return file


def module(path: Path, step: int = 0, rank: int = 0, ranks: int = 1, **settings: object) -> PromptDataModule:
    """The data module of one rank after ``step`` optimizer steps."""
    made = PromptDataModule(FilePrompts(path), **{"batch_size": 2, "unroll_steps": 1, "shuffle_buffer": 1, "seed": 5} | settings)
    made.trainer = SimpleNamespace(global_rank=rank, world_size=ranks, global_step=step)
    return made


def prompts(made: PromptDataModule, cycles: int) -> list[str]:
    return [prompt for batch in itertools.islice(made.train_dataloader(), cycles) for prompt in batch.prompts]


def test_prompts_are_read_by_number_and_the_copy_is_made_once(path, cache):
    store = FilePrompts(path).snapshot()
    assert len(store) == 23 and store.read([22, 0, 3]) == [PROMPTS[22], PROMPTS[0], PROMPTS[3]]
    made = os.stat(store.folder / "prompts.bin").st_mtime_ns
    again = FilePrompts(path).snapshot()
    assert again.folder == store.folder and os.stat(again.folder / "prompts.bin").st_mtime_ns == made
    assert pickle.loads(pickle.dumps(store)).read([1]) == [PROMPTS[1]]
    assert {entry.suffix for entry in cache.iterdir()} == {"", ".lock"}


def test_another_version_column_or_treatment_of_errors_is_another_copy(path, tmp_path):
    first = FilePrompts(path).snapshot()
    lenient = FilePrompts(path, on_error="skip").snapshot()
    path.write_text("a cube\na cone\n")
    second = FilePrompts(path).snapshot()
    assert len({first.folder, lenient.folder, second.folder}) == 3
    assert first.fingerprint == lenient.fingerprint != second.fingerprint
    assert first.read([0]) == [PROMPTS[0]] and second.read([1]) == ["a cone"]


def test_borders_belong_to_the_fingerprint(tmp_path):
    for name, prompts_ in (("a", ["ab", "c"]), ("b", ["a", "bc"])):
        write_store(tmp_path / name, prompts_)
    assert PromptStore(tmp_path / "a").fingerprint != PromptStore(tmp_path / "b").fingerprint


def test_bad_entries_are_found_before_the_first_step_or_counted(path):
    path.write_text("a cube\n  \na cone\n")
    with pytest.raises(PromptError, match="line 2: the prompt is blank"):
        module(path).setup("fit")
    for _ in range(2):  # the second one reads the copy
        source = FilePrompts(path, on_error="skip")
        assert len(source.snapshot()) == 2 and source.skipped_count == 1
    path.write_text("  \n  \n")
    with pytest.raises(PromptError, match="no usable prompt"):
        FilePrompts(path, on_error="skip").snapshot()


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("shuffle_buffer", [0, 1])
def test_each_epoch_has_every_prompt_once_whatever_the_number_of_ranks(path, ranks, shuffle_buffer):
    """23 prompts, two in a batch: no number of ranks divides them."""
    cycles = 23 * 2
    shares = [prompts(module(path, rank=rank, ranks=ranks, shuffle_buffer=shuffle_buffer), cycles) for rank in range(ranks)]
    stream = [shares[index % ranks][index // ranks] for index in range(cycles * 2 * ranks)]
    for epoch in range(4):
        assert Counter(stream[epoch * 23 : epoch * 23 + 23]) == Counter(PROMPTS)
    assert (stream[:23] == PROMPTS) == (shuffle_buffer == 0) and (stream[:23] == stream[23:46]) == (shuffle_buffer == 0)


def test_a_step_sees_the_same_prompts_whoever_shares_them(path):
    """One process with four prompts, two with two, four with one."""
    whole = prompts(module(path, batch_size=4), 12)
    for ranks in (2, 4):
        shares = [prompts(module(path, rank=rank, ranks=ranks, batch_size=4 // ranks), 12) for rank in range(ranks)]
        for step in range(12):
            size = 4 // ranks
            seen = [prompt for share in shares for prompt in share[step * size : (step + 1) * size]]
            assert Counter(seen) == Counter(whole[4 * step : 4 * step + 4])


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_change_nothing(path, workers):
    assert prompts(module(path, rank=1, ranks=2, num_workers=workers), 15) == prompts(module(path, rank=1, ranks=2), 15)


def test_the_state_goes_on_exactly_also_with_another_number_of_ranks(path):
    whole = prompts(module(path), 30)
    state = module(path, step=7).state_dict()
    assert state == {"step": 7, "position": 14, "prompts": 23, "fingerprint": FilePrompts(path).snapshot().fingerprint}
    resumed = module(path, step=7)
    resumed.load_state_dict(state)
    assert prompts(resumed, 5) == whole[14:24]
    shares = []
    for rank in range(2):
        two = module(path, step=7, rank=rank, ranks=2)
        two.load_state_dict(state)
        shares.append(prompts(two, 4))
        two.trainer.global_step = 9
        assert two.state_dict()["position"] == 14 + 2 * 2 * 2
    assert [shares[index % 2][index // 2] for index in range(16)] == whole[14:30]


def test_the_file_may_change_or_disappear_while_training(path):
    running = module(path)
    batches = iter(running.train_dataloader())
    expected = prompts(module(path), 12)
    seen = next(batches).prompts
    path.write_text("something else\n")
    seen += next(batches).prompts
    path.unlink()
    seen += [prompt for batch in itertools.islice(batches, 10) for prompt in batch.prompts]
    assert seen == expected


def test_a_training_goes_on_with_other_prompts_only_if_told_so(path, caplog):
    state = module(path, step=2).state_dict()
    path.write_text("a cube\na cone\n")
    with pytest.raises(PromptError, match="then 23 prompts .* now 2 prompts .*data.changed_source=accept"):
        module(path, step=2).load_state_dict(state)
    accepted = module(path, step=2, changed_source="accept")
    with caplog.at_level(logging.WARNING):
        accepted.load_state_dict(state)
    assert "the prompts have changed" in caplog.text and set(prompts(accepted, 3)) == {"a cube", "a cone"}
    path.unlink()
    with pytest.raises(PromptError, match="there is no prompt file"):
        module(path)


def test_a_file_that_changes_while_it_is_copied_is_refused(path, monkeypatch):
    source = FilePrompts(path)
    versions = iter([(1, 1), (2, 2)])
    monkeypatch.setattr(FilePrompts, "_version", lambda self: next(versions))
    with pytest.raises(PromptError, match="changed while it was read"):
        source.snapshot()


def test_a_place_that_cannot_be_written_and_damaged_copies_are_named(path, tmp_path, monkeypatch):
    store = FilePrompts(path).snapshot()
    (store.folder / "offsets.npy").write_bytes(b"")
    with pytest.raises(PromptError, match="is damaged .*delete it"):
        PromptStore(store.folder).read([0])
    (store.folder / "store.json").write_text("{}")
    with pytest.raises(PromptError, match="no complete copy"):
        PromptStore(store.folder)
    monkeypatch.setenv("PRD_CACHE", str(path / "below a file"))
    with pytest.raises(OutputNotWritableError, match="PRD_CACHE names another place"):
        FilePrompts(path).snapshot()


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    def full():
        yield "a cube"
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputNotWritableError, match="No space left on device"):
        write_store(tmp_path / "stores" / "one", full())
    assert list((tmp_path / "stores").iterdir()) == []


def copy(number: int) -> tuple[str, str]:
    store = stored(["shared"], (f"{index} of {number}" for index in range(20_000)))
    return store.fingerprint, store.read([19_999])[0]


def test_processes_that_copy_at_the_same_time_end_up_with_one_copy(cache):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(copy, range(3), chunksize=1)
    assert len(set(found)) == 1 and not list(cache.glob("*.partial"))


def test_a_long_file_takes_little_memory(tmp_path):
    """25 000 prompts of 600 bytes are 15 MB; copying and streaming an epoch of them holds what is read at once, 4096 prompts."""
    path = tmp_path / "long.txt"
    with path.open("w") as file:
        file.writelines(f"prompt number {number:06d} {'word ' * 116}\n" for number in range(25_000))
    tracemalloc.start()
    source = FilePrompts(path)
    stream = PromptStream(source, 0, 1, 1, seed=0, batch_size=8, store=source.snapshot())
    count = sum(1 for _ in itertools.islice(stream, 25_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 25_000 and peak < 6e6
