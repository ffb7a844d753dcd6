"""The volume renderer with and without rays that pass the surface at a distance (``empty_margin``)."""

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.measuring import Result, Settings, graph_bytes, make_cases, measure
from prd_lightning.cameras import sample_training_cameras
from prd_lightning.pipeline import TextToMeshPipeline
from prd_lightning.rendering import VolumeRenderer, WhiteBackground
from prd_lightning.sampling import sample_planes
from prd_lightning.tinyworld.dataset import CAMERAS
from prd_lightning.tinyworld.grammar import describe, held_out_compositions

EVERY, NEAR = "every ray", "rays within 0.1 of the surface"
SAMPLES = {"proposal_samples": 16, "fine_samples": 12, "color_samples": 3, "inverse_standard_deviation": 80.0}
"""Of ``conf/world/tiny.yaml``."""


def build(settings: Settings) -> Result:
    """Forward and backward pass of the normals of generated compositions."""
    count, size = (1, 8) if settings.smallest else (8, 32)
    pipeline = TextToMeshPipeline.from_pretrained("tiny", device=settings.device)
    field, prompts = pipeline.parts.field, [describe(scene) for scene in held_out_compositions(count)]
    with torch.no_grad():
        planes = sample_planes(pipeline.parts, prompts, [0] * count, pipeline.architecture.steps)
    cameras = sample_training_cameras(count, CAMERAS, torch.Generator().manual_seed(0)).to(settings.device)
    background = WhiteBackground()

    def loss(margin: float | None) -> Tensor:
        shown = replace(planes, geometry=planes.geometry.detach().requires_grad_())
        render = VolumeRenderer(size, None, bounding_radius=0.85, empty_margin=margin, **SAMPLES)
        return render(field, shown, cameras, background).normal_camera.square().mean()

    cases = {EVERY: None, NEAR: 0.1}
    rounds = measure({name: lambda margin=margin: loss(margin).backward() for name, margin in cases.items()}, settings)
    graphs = {name: graph_bytes(lambda margin=margin: loss(margin)) for name, margin in cases.items()}
    sizes = {"objects": count, "views": 4, "image_size": size}
    return Result("volume renderer, forward and backward", sizes, make_cases(rounds, EVERY, graphs=graphs))
