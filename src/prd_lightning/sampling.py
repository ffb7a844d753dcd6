"""Prompts to planes: what inference, previews and evaluation share."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from prd_lightning.architecture import GeneratorParts
from prd_lightning.errors import ConfigurationError, PromptError
from prd_lightning.field import PreparedPlanes
from prd_lightning.generator.adapters import PLANES

LARGEST_SEED = 2**63 - 1


def initial_noise(seeds: Sequence[int], latent_shape: tuple[int, int, int]) -> Float[Tensor, "planes channels height width"]:
    """[6 B, C, h, w] Gaussian latents, six for each seed; a scene's noise does not depend on its company in the batch.

    Raises:
        ConfigurationError: a seed is negative or does not fit 63 bits.
    """
    check_seeds(seeds)
    draws = [torch.randn(PLANES, *latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.cat(draws)


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises ConfigurationError if a seed is negative or does not fit 63 bits."""
    for seed in seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise ConfigurationError(f"a seed must lie between 0 and {LARGEST_SEED}, got {seed}")


def check_prompts(prompts: Sequence[str]) -> None:
    """Raises PromptError if there is no prompt, or one is not text or blank."""
    if not len(prompts):
        raise PromptError("no prompt was given")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt.strip():
            raise PromptError(f"prompt {index + 1} of {len(prompts)} is blank or not text: {prompt!r}")


@torch.no_grad()
def sample_planes(parts: GeneratorParts, prompts: Sequence[str], seeds: Sequence[int], steps: int = 4) -> PreparedPlanes:
    """Planes of B prompts, ready for look-up, by ``steps`` DDIM steps without guidance.

    Args:
        parts: of a generator.
        prompts: B texts.
        seeds: B seeds of the first noise.
        steps: K.

    Raises:
        PromptError: a prompt is blank.
        ConfigurationError: a seed is out of range, or there are not as many seeds as prompts.
    """
    check_prompts(prompts)
    if len(seeds) != len(prompts):
        raise ConfigurationError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
    text = parts.prompt_encoder.encode(list(prompts))
    noise = initial_noise(seeds, parts.generator.latent_shape).to(text.tokens)
    return parts.field.prepare(parts.generator.sample(text.tokens, noise, parts.noise_schedule, steps))
