"""Encoded prompts on disk: found again, complete or absent, written by several processes at once, and never above their limit."""

import logging
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from prd_lightning import text_cache
from prd_lightning.errors import ConfigurationError, OutputNotWritableError
from prd_lightning.text import PromptEncoder
from prd_lightning.text_cache import EmbeddingCache
from prd_lightning.weights import resolve_folder


def row(number: int, words: int = 3, width: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(number)
    return torch.randn(words, width, generator=draw), torch.randn(width, generator=draw)


def key(number: int) -> bytes:
    return EmbeddingCache.key("encoder", number)


def fill(cache: EmbeddingCache, numbers: range, **shape: int) -> EmbeddingCache:
    for number in numbers:
        cache.put(key(number), *row(number, **shape))
    cache.flush()
    return cache


def holds(cache: EmbeddingCache, number: int, **shape: int) -> bool:
    found = cache.get(key(number))
    if found is None:
        return False
    assert all(torch.equal(actual, expected) for actual, expected in zip(found, row(number, **shape), strict=True))
    return True


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"), key=os.path.getmtime)


def test_rows_are_found_at_once_and_by_later_processes(tmp_path):
    cache = EmbeddingCache(tmp_path)
    cache.put(key(1), *row(1))
    assert holds(cache, 1) and not holds(cache, 2) and shards(tmp_path) == []
    fill(cache, range(2, 5))
    assert len(shards(tmp_path)) == 1 and all(holds(EmbeddingCache(tmp_path), number) for number in range(1, 5))


def test_a_shard_is_one_safetensors_file_with_keys(tmp_path):
    fill(EmbeddingCache(tmp_path), range(3))
    tensors = load_file(shards(tmp_path)[0])
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    assert shapes == {"keys": (3, 16), "tokens": (3, 3, 4), "pooled": (3, 4)}
    assert tensors["keys"][1].numpy().tobytes() == key(1)


def test_an_open_cache_sees_what_others_write(tmp_path):
    reader, writer = EmbeddingCache(tmp_path), EmbeddingCache(tmp_path)
    assert not holds(reader, 0)
    fill(writer, range(2))
    assert holds(reader, 0) and holds(reader, 1)
    fill(writer, range(2, 3))
    assert holds(reader, 2)


def test_encoders_of_any_width_share_a_folder(tmp_path):
    cache = EmbeddingCache(tmp_path)
    for number in range(6):
        cache.put(key(number), *row(number, width=8 if number % 2 else 4))
    cache.flush()
    again = EmbeddingCache(tmp_path)
    assert all(holds(again, number, width=8 if number % 2 else 4) for number in range(6))


def test_shards_are_written_by_size_and_by_age(tmp_path, monkeypatch):
    monkeypatch.setattr(text_cache, "SHARD_BYTES", 200)  # rows have 64 bytes
    cache = EmbeddingCache(tmp_path)
    for number in range(8):
        cache.put(key(number), *row(number))
    assert len(shards(tmp_path)) == 2
    monkeypatch.setattr(text_cache, "SHARD_SECONDS", 0.0)
    cache.put(key(9), *row(9))
    assert len(shards(tmp_path)) == 3


def test_the_oldest_shards_leave_when_the_limit_is_reached(tmp_path):
    size = 0
    cache = EmbeddingCache(tmp_path, limit=1e-9 * 10_000)
    reader = EmbeddingCache(tmp_path)
    for shard in range(8):
        fill(cache, range(40 * shard, 40 * shard + 40))
        assert holds(reader, 40 * shard)
        os.utime(shards(tmp_path)[-1], (shard, shard))
        size = sum(path.stat().st_size for path in shards(tmp_path))
        assert size <= 10_000
    kept = len(shards(tmp_path))
    assert 1 < kept < 8 and size > 5_000
    later = EmbeddingCache(tmp_path)
    assert [holds(later, 40 * shard) for shard in range(8)] == [False] * (8 - kept) + [True] * kept
    assert holds(reader, 0), "it still has the shard open"


def test_a_shard_larger_than_the_limit_is_kept_alone(tmp_path):
    cache = EmbeddingCache(tmp_path, limit=1e-9)
    fill(cache, range(3))
    fill(cache, range(3, 6))
    assert len(shards(tmp_path)) == 1 and holds(EmbeddingCache(tmp_path), 4)


def test_a_damaged_or_foreign_file_is_no_entry(tmp_path, caplog):
    fill(EmbeddingCache(tmp_path), range(3))
    fill(EmbeddingCache(tmp_path), range(3, 5))
    damaged = shards(tmp_path)[0]
    number = 0 if holds(EmbeddingCache(tmp_path), 0) and len(load_file(damaged)["keys"]) == 3 else 3
    damaged.write_bytes(damaged.read_bytes()[:100])
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "mine.safetensors")
    cache = EmbeddingCache(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert not holds(cache, number) and holds(cache, 3 - number)
    assert "damaged and are made again" in caplog.text and not damaged.exists() and (tmp_path / "mine.safetensors").exists()


def test_a_full_disk_is_a_warning(tmp_path, monkeypatch, caplog):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(text_cache, "save_file", full)
    cache = EmbeddingCache(tmp_path)
    cache.put(key(0), *row(0))
    cache.flush()
    assert "No space left on device" in caplog.text and list(tmp_path.iterdir()) == [] and not holds(cache, 0)


def test_places_and_limits_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputNotWritableError, match="no text cache in"):
        EmbeddingCache(tmp_path / "file" / "cache")
    with pytest.raises(ConfigurationError, match="must be positive, got 0 GB"):
        EmbeddingCache(tmp_path, limit=0)


def write_many(folder: str, process: int, done: "multiprocessing.Queue") -> None:
    """Each process writes its own rows and some that others write as well, reads what it finds, and makes room meanwhile."""
    cache = EmbeddingCache(folder, limit=1e-9 * 60_000)
    wrong = 0
    for number in range(120):
        mine = number if number % 3 == 0 else 1000 * process + number
        cache.put(key(mine), *row(mine))
        if number % 10 == 9:
            cache.flush()
        for other in (number - 30, 1000 * ((process + 1) % 4) + number - 1):
            found = cache.get(key(other)) if other >= 0 else None
            wrong += found is not None and not torch.equal(found[0], row(other)[0])
    cache.flush()
    done.put(wrong)


@pytest.mark.parametrize("processes", [2, 4])
def test_several_writers_at_once(tmp_path, processes):
    context = multiprocessing.get_context("spawn")
    done = context.Queue()
    workers = [context.Process(target=write_many, args=(str(tmp_path), number, done)) for number in range(processes)]
    for worker in workers:
        worker.start()
    assert [done.get(timeout=120) for _ in workers] == [0] * processes
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]
    cache = EmbeddingCache(tmp_path)
    newest = load_file(shards(tmp_path)[-1])
    for index, name in enumerate(newest["keys"]):
        assert torch.equal(cache.get(name.numpy().tobytes())[0], newest["tokens"][index])
    assert sum(path.stat().st_size for path in shards(tmp_path)) <= 60_000


@pytest.mark.parametrize("width", [1024, 768])
def test_both_text_encoders_of_stable_diffusion_are_kept_exactly(tmp_path, width):
    """One layer of the width of 2.1 and of 1.5, in the same class, with the shipped tokenizer."""
    tokenizer = CLIPTokenizer.from_pretrained(resolve_folder("tinyworld:stable_diffusion") / "tokenizer")
    torch.manual_seed(width)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=1,
        intermediate_size=64,
        num_attention_heads=width // 64,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = CLIPTextModel(config)
    first = PromptEncoder(tokenizer, model, cache_folder=tmp_path)
    expected = first.encode(["a red cube", "a blue cone"])
    first.disk_cache.flush()
    later = PromptEncoder(tokenizer, model, cache_folder=tmp_path)
    found = later.encode(["a blue cone", "a red cube"])
    assert later.encoded_count == 0 and found.tokens.shape == (2, 77, width) and found.pooled.shape == (2, width)
    assert torch.equal(found.tokens, expected.tokens.flip(0)) and torch.equal(found.pooled, expected.pooled.flip(0))
