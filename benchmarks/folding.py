"""What adapters cost at inference: beside their base weights, merged into them in every call, or folded away for good."""

from collections.abc import Callable
from dataclasses import replace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from benchmarks.measuring import Result, Settings, make_cases, measure
from prd_lightning.architecture import Architecture, GeneratorParts
from prd_lightning.diffusion import unroll_timesteps
from prd_lightning.weights import load_network, resolve_folder

FOLDED, BASE = "folded", "Stable Diffusion alone"


def build(settings: Settings) -> Result:
    """One prompt: six latents through four denoising steps and the decoder."""
    steps = 1 if settings.smallest else 4
    architecture = Architecture("tinyworld:stable_diffusion", latent_size=4 if settings.smallest else 16)
    variants = {compute: replace(architecture, compute=compute).build() for compute in ("branch", "merged")}
    variants[FOLDED] = architecture.build()
    variants[FOLDED].generator.fold()
    torch.manual_seed(0)
    shape = (6, *variants[FOLDED].generator.latent_shape)
    noise = torch.randn(shape).to(settings.device)
    text = variants[FOLDED].prompt_encoder.encode(["a red cone"]).tokens.to(settings.device)
    cases = {name: sampling(parts, text, noise, steps, settings.device) for name, parts in variants.items()}
    cases[BASE] = sampling_base(architecture, text, noise, steps, settings.device)
    sizes = {"latents": shape[0], "latent_size": shape[-1], "steps": steps}
    return Result("sampling with adapters", sizes, make_cases(measure(cases, settings), FOLDED))


def sampling(
    parts: GeneratorParts, text: Tensor, noise: Tensor, steps: int, device: torch.device
) -> Callable[[], Tensor]:
    """Samples planes with a generator."""
    generator, schedule = parts.generator.to(device).eval(), parts.noise_schedule.to(device)
    return lambda: generator.sample(text, noise, schedule, steps)


def sampling_base(
    architecture: Architecture, text: Tensor, noise: Tensor, steps: int, device: torch.device
) -> Callable[[], Tensor]:
    """The same calls of the networks that the generator was made of, each latent by itself."""
    folder = resolve_folder(architecture.base)
    unet = load_network(UNet2DConditionModel, folder, "unet").to(device).eval()
    vae = load_network(AutoencoderKL, folder, "vae").to(device).eval()
    words = text.expand(len(noise), -1, -1)

    @torch.no_grad()
    def run() -> Tensor:
        for t in unroll_timesteps(steps, 1000):
            predicted = unet(noise, t, encoder_hidden_states=words).sample
        return vae.decode(predicted).sample

    return run
