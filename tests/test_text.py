"""The text encoder: the real CLIP's numbers, a cache, and prompts that are too long."""

import logging
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from prd_lightning.errors import MissingWeightsError
from prd_lightning.text import PromptEncoder, share_encoders
from prd_lightning.text_cache import EmbeddingCache
from prd_lightning.weights import resolve_folder

FOLDER = resolve_folder("tinyworld:stable_diffusion")


def encoder(**settings: object) -> PromptEncoder:
    return PromptEncoder.from_folder(FOLDER, **settings)


def test_embeddings_are_those_of_the_text_model():
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")
    model = CLIPTextModel.from_pretrained(FOLDER / "text_encoder", dtype=torch.float32).eval()
    prompts = ["a red cube", "a green torus on a blue disk"]
    ids = tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model(ids)
    actual = encoder().encode(prompts)
    torch.testing.assert_close(actual.tokens, expected.last_hidden_state)
    torch.testing.assert_close(actual.pooled, expected.pooler_output)
    assert actual.tokens.shape == (2, 77, 64) and actual.pooled.shape == (2, encoder().pooled_width)


def test_a_prompt_is_encoded_once_and_order_and_repetition_are_kept():
    one = encoder()
    first = one.encode(["a red cube", "a blue cone", "a red cube"])
    assert one.encoded_count == 2
    again = one.encode(["a blue cone", "a red cube", "a pink dome"])
    assert one.encoded_count == 3
    assert torch.equal(first.tokens[0], first.tokens[2])
    assert torch.equal(again.tokens[0], first.tokens[1]) and torch.equal(again.tokens[1], first.tokens[0])


def test_an_embedding_does_not_depend_on_the_batch_it_came_in():
    alone, together = encoder().encode(["a red cube"]), encoder().encode(["a blue cone", "a red cube"])
    assert torch.equal(alone.tokens[0], together.tokens[1]) and torch.equal(alone.pooled[0], together.pooled[1])


def test_the_least_recently_used_prompt_leaves_the_cache():
    small = encoder(cache_size=2)
    for prompt in ("one", "two", "one", "three"):
        small.encode([prompt])
    assert small.encoded_count == 3
    small.encode(["one"])
    assert small.encoded_count == 3
    small.encode(["two"])
    assert small.encoded_count == 4


def test_a_batch_larger_than_the_cache_is_encoded():
    assert encoder(cache_size=1).encode(["one", "two", "three", "one"]).tokens.shape[0] == 4


def test_later_runs_read_the_cache_folder(tmp_path: Path):
    first = encoder(cache_folder=tmp_path)
    expected = first.encode(["a red cube"])
    first.disk_cache.flush()
    later = encoder(cache_folder=tmp_path)
    assert torch.equal(later.encode(["a red cube"]).tokens, expected.tokens)
    assert (first.encoded_count, later.encoded_count) == (1, 0)


def test_other_weights_do_not_read_the_same_entries(tmp_path: Path):
    first = encoder(cache_folder=tmp_path)
    first.encode(["a red cube"])
    first.disk_cache.flush()
    other = encoder(cache_folder=tmp_path)
    with torch.no_grad():
        other.text_encoder.get_parameter("final_layer_norm.weight").mul_(2)
    other.encode(["a red cube"])
    assert other.encoded_count == 1


def test_memory_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("prd_lightning.text.MEMORY_BYTES", 45_000)  # two prompts of 77 x 64 and 64 numbers
    small = encoder()
    for prompt in ("one", "two", "one", "three", "one"):
        small.encode([prompt])
    assert small.encoded_count == 3
    small.encode(["two"])
    assert small.encoded_count == 4


def test_modules_with_equal_encoders_share_one(tmp_path: Path):
    """The generator's encoder and a teacher's are equal; another teacher's is of another model."""
    owners = [torch.nn.Module() for _ in range(4)]
    for owner in owners[:3]:
        owner.prompt_encoder = encoder()
    with torch.no_grad():
        owners[2].prompt_encoder.text_encoder.get_parameter("final_layer_norm.weight").mul_(2)
    cache = EmbeddingCache(tmp_path)
    first, third = share_encoders(owners, cache)
    assert owners[0].prompt_encoder is owners[1].prompt_encoder is first and owners[2].prompt_encoder is third is not first
    first.encode(["a red cube"])
    owners[1].prompt_encoder.encode(["a red cube"])
    third.encode(["a red cube"])
    assert (first.encoded_count, third.encoded_count) == (1, 1) and first.disk_cache is third.disk_cache is cache


def test_the_fingerprint_knows_weights_precision_and_length():
    found = {encoder().fingerprint}
    assert encoder().fingerprint in found
    half = encoder()
    half.text_encoder.half()
    short = encoder()
    short.tokenizer.model_max_length = 20
    found |= {half.fingerprint, short.fingerprint}
    assert len(found) == 3


def test_long_prompts_are_cut_counted_and_reported_once(caplog: pytest.LogCaptureFixture):
    one = encoder()
    long = " ".join(["red cube"] * 60)
    with caplog.at_level(logging.WARNING, logger="prd_lightning.text"):
        assert one.encode([long, "a red cube"]).tokens.shape == (2, 77, 64)
        one.encode([f"{long} and a cone"])
        one.encode([long])
    assert one.truncated_count == 2
    assert [record.getMessage() for record in caplog.records if "longer than 77 tokens" in record.getMessage()] == [
        "1 of 2 prompts are longer than 77 tokens and are cut; later ones are only counted"
    ]


def test_a_prompt_of_exactly_the_limit_is_not_cut():
    one = encoder()
    one.encode([" ".join(["red"] * 75)])
    assert one.truncated_count == 0
    one.encode([" ".join(["red"] * 76)])
    assert one.truncated_count == 1


def test_frozen_and_always_in_evaluation_mode():
    one = encoder().train()
    assert not any(module.training for module in one.modules())
    assert not [value for value in one.parameters() if value.requires_grad]
    assert not one.encode(["a red cube"]).tokens.requires_grad


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(MissingWeightsError, match="tokenizer does not exist"):
        PromptEncoder.from_folder(tmp_path)
