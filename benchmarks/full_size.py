"""One prompt at the published size, from noise to a coloured mesh, with random weights: ``python -m benchmarks.full_size``.

Weights are random because they are not needed to know time and memory. It takes minutes on a CPU and about 8 GB, so it is not
among the benchmarks that ``python -m benchmarks`` runs.
"""

import json
import math
import resource
import time
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from prd_lightning.configuration import compose_config, plain
from prd_lightning.diffusion import unroll_timesteps
from prd_lightning.errors import EmptyMeshError
from prd_lightning.field import TriplaneField
from prd_lightning.formats.multiview import VAE
from prd_lightning.formats.triplaneturbo import SD21_UNET
from prd_lightning.generator import TriplaneGenerator
from prd_lightning.mesh import extract_mesh

RECIPE = ("experiment=triplaneturbo_sd21", "data.source.path=prompts.txt")


def full_size(numbers: dict[str, Any], device: str) -> tuple[TriplaneGenerator, TriplaneField]:
    """Generator and field of ``conf/generator/sd21.yaml``; on the device ``meta`` they take no memory."""
    with torch.device(device):
        unet, vae = UNet2DConditionModel(**SD21_UNET), AutoencoderKL(**VAE)
        generator = TriplaneGenerator(unet, vae, numbers["plane_channels"], numbers["rank"], numbers["per_plane"])
        return generator, TriplaneField(numbers["plane_channels"] // 2, numbers["hidden"], numbers["sphere_radius"])


@torch.no_grad()
def fill_at_random(module: torch.nn.Module) -> None:
    """Values of the usual size, quickly: a stretch of random numbers over and over."""
    stretch = torch.rand(1 << 20) - 0.5
    for parameter in module.parameters():
        flat, width = parameter.data.view(-1), parameter[0].numel() if parameter.ndim > 1 else 0
        if not width:
            flat.fill_(1.0)
            continue
        for start in range(0, flat.numel(), stretch.numel()):
            part = flat[start : start + stretch.numel()]
            torch.mul(stretch[: part.numel()], 3.0 / math.sqrt(width), out=part)


@torch.no_grad()
def main() -> None:
    """Prints seconds of each part and the peak of memory as JSON."""
    numbers, begun = plain(compose_config(RECIPE))["generator"], time.perf_counter()
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        nonlocal begun
        seconds[name] = round(time.perf_counter() - begun, 1)
        print(name, seconds[name], flush=True)
        begun = time.perf_counter()

    generator, field = (part.to_empty(device="cpu") for part in full_size(numbers, "meta"))
    fill_at_random(generator), fill_at_random(field)
    generator.fold()
    lap("build")
    size = numbers["latent_size"]
    latents, text = torch.randn(6, 4, size, size), torch.randn(1, 77, numbers["text_width"])
    for t in unroll_timesteps(numbers["steps"]):
        latents = latents - 0.1 * generator.predict(latents, t, text)
    lap("denoise")
    planes = field.prepare(generator.decode(latents))
    lap("decode")
    try:
        faces = len(extract_mesh(field, planes, 160).faces)
    except EmptyMeshError:  # random weights need not make a surface
        faces = 0
    lap("mesh")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "threads": torch.get_num_threads(), "faces": faces, "peak_gib": round(peak, 1)}))


if __name__ == "__main__":
    main()
