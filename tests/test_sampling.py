"""Prompts to planes."""

import pytest
import torch

from prd_lightning.architecture import Architecture, GeneratorParts
from prd_lightning.errors import ConfigurationError, PromptError
from prd_lightning.sampling import LARGEST_SEED, check_prompts, initial_noise, sample_planes


@pytest.fixture(scope="module")
def parts() -> GeneratorParts:
    return Architecture("tinyworld:stable_diffusion", plane_channels=8, rank=2, latent_size=8, hidden=16).build()


def test_noise_depends_on_the_seed_and_on_nothing_else():
    together = initial_noise([3, 5], (4, 8, 8))
    assert together.shape == (12, 4, 8, 8)
    assert torch.equal(together[6:], initial_noise([5], (4, 8, 8)))
    assert not torch.equal(together[:6], together[6:])
    assert together.std().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("seed", [-1, LARGEST_SEED + 1])
def test_seeds_out_of_range_are_refused(seed: int):
    with pytest.raises(ConfigurationError, match=f"got {seed}"):
        initial_noise([seed], (4, 8, 8))


def test_the_largest_seed_works():
    assert torch.isfinite(initial_noise([LARGEST_SEED], (4, 2, 2))).all()


def test_planes_are_those_of_the_generator_and_deterministic(parts: GeneratorParts):
    prompts, seeds = ["a red cube", "a blue cone"], [3, 5]
    both = sample_planes(parts, prompts, seeds, steps=2)
    text = parts.prompt_encoder.encode(prompts).tokens
    expected = parts.field.prepare(parts.generator.sample(text, initial_noise(seeds, (4, 8, 8)), parts.noise_schedule, 2))
    torch.testing.assert_close(both.geometry, expected.geometry)
    assert both.batch == 2 and not both.geometry.requires_grad


def test_a_scene_does_not_depend_on_its_company(parts: GeneratorParts):
    both = sample_planes(parts, ["a red cube", "a blue cone"], [3, 5], steps=2)
    alone = sample_planes(parts, ["a blue cone"], [5], steps=2)
    torch.testing.assert_close(both.item(1).geometry, alone.geometry, rtol=1e-3, atol=1e-4)


def test_mistakes_are_named(parts: GeneratorParts):
    with pytest.raises(ConfigurationError, match="2 prompts need as many seeds, got 1"):
        sample_planes(parts, ["a", "b"], [1])
    with pytest.raises(PromptError, match="no prompt"):
        sample_planes(parts, [], [])
    with pytest.raises(PromptError, match="prompt 2 of 2 is blank"):
        check_prompts(["a", "  \t"])
