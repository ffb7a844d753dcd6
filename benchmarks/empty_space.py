"""The volume renderer with and without rays that pass the surface at a distance (``empty_margin``)."""

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.measuring import Result, Settings, graph_bytes, make_cases, measure
from prd_lightning.building import instantiate
from prd_lightning.cameras import sample_training_cameras
from prd_lightning.configuration import compose_config
from prd_lightning.pipeline import TextToMeshPipeline
from prd_lightning.rendering import WhiteBackground
from prd_lightning.sampling import sample_planes
from prd_lightning.tinyworld.dataset import CAMERAS
from prd_lightning.tinyworld.grammar import describe, held_out_compositions

EVERY, NEAR = "every ray", "rays within 0.1 of the surface"


def build(settings: Settings) -> Result:
    """Forward and backward pass of the normals of generated compositions."""
    count, size = (1, 8) if settings.smallest else (8, 32)
    pipeline = TextToMeshPipeline.from_pretrained("tiny", device=settings.device)
    field, prompts = pipeline.parts.field, [describe(scene) for scene in held_out_compositions(count)]
    with torch.no_grad():
        planes = sample_planes(pipeline.parts, prompts, [0] * count, pipeline.architecture.steps)
    cameras = sample_training_cameras(count, CAMERAS, torch.Generator().manual_seed(0)).to(settings.device)
    background = WhiteBackground()

    def renderer(margin: float | None) -> torch.nn.Module:
        sizes = [f"world.volume.image_size={size}", f"world.volume.empty_margin={'null' if margin is None else margin}"]
        return instantiate(compose_config(["renderer=volume", *sizes]).renderer)["volume"]

    def loss(render: torch.nn.Module) -> Tensor:
        shown = replace(planes, geometry=planes.geometry.detach().requires_grad_())
        return render(field, shown, cameras, background).normal_camera.square().mean()

    cases = {EVERY: renderer(None), NEAR: renderer(0.1)}
    rounds = measure({name: lambda render=render: loss(render).backward() for name, render in cases.items()}, settings)
    graphs = {name: graph_bytes(lambda render=render: loss(render)) for name, render in cases.items()}
    sizes = {"objects": count, "views": 4, "image_size": size}
    return Result("volume renderer, forward and backward", sizes, make_cases(rounds, EVERY, graphs=graphs))
