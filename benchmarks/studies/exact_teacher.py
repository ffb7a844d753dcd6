"""What do renders tell about a shape? A free field (no generator) is fitted to true renders of one object.

    python -m benchmarks.studies.exact_teacher --steps 100

Planes and networks are optimised directly, with the exact teacher of the tiny world, through the volume renderer, the mesh or
both; ``points`` fits the true distances themselves. What is printed is the IoU with the true object and the ratio of volumes: a
ratio above 1 with renders that agree means that the renders leave the object free to swell.
"""

import argparse
import json

import torch

from prd_lightning.cameras import CameraSettings, sample_training_cameras
from prd_lightning.field import TriplaneField
from prd_lightning.losses import eikonal
from prd_lightning.module import surrogate_loss
from prd_lightning.rendering import MeshRenderer, VolumeRenderer, WhiteBackground
from prd_lightning.tinyworld.evaluation import grid_points, intersection_over_union
from prd_lightning.tinyworld.grammar import parse
from prd_lightning.tinyworld.oracle import OracleTeacher
from prd_lightning.tinyworld.shapes import scene_distance

MAPS = ("normal_camera", "opacity", "disparity")
PROMPTS = ("a red cube", "a red torus", "a red cross")
TEACHER_WEIGHT, EIKONAL_WEIGHT = 300.0, 1.0
VARIANTS = {
    "points": {},
    "volume, 12 + 8 samples, k = 40": {"volume": (12, 8, 40.0)},
    "volume, 16 + 12 samples, k = 80": {"volume": (16, 12, 80.0)},
    "volume, 64 + 64 samples, k = 100": {"volume": (64, 64, 100.0)},
    "mesh of 24 cells": {"mesh": 24},
    "mesh of 48 cells": {"mesh": 48},
    "volume, 16 + 12 samples, k = 80, and mesh of 24 cells": {"volume": (16, 12, 80.0), "mesh": 24},
}


def make_renderers(volume: tuple[int, int, float] | None = None, mesh: int | None = None) -> dict[str, torch.nn.Module]:
    """The renderers of a variant, in training mode."""
    renderers: dict[str, torch.nn.Module] = {}
    if volume:
        proposal, fine, sharpness = volume
        renderers["volume"] = VolumeRenderer(
            16, None, proposal_samples=proposal, fine_samples=fine, color_samples=3, bounding_radius=0.85,
            inverse_standard_deviation=sharpness,
        )  # fmt: skip
    if mesh:
        renderers["mesh"] = MeshRenderer(mesh, 32, rasterizer="torch", sdf_gradient_scale=1.0, depth="ray")
    return {name: renderer.train() for name, renderer in renderers.items()}


def fit(prompt: str, steps: int, seed: int = 0, **settings: object) -> dict[str, float]:
    """IoU and ratio of volumes of a field after ``steps``."""
    torch.manual_seed(seed)
    field, scene = TriplaneField(16, 32), parse(prompt)
    planes = (0.1 * torch.randn(1, 6, 16, 16, 16)).requires_grad_()
    optimizer = torch.optim.Adam(
        [{"params": [planes], "lr": 2e-2}, {"params": field.parameters(), "lr": 2e-3}], betas=(0.9, 0.99)
    )
    renderers = make_renderers(**settings)
    teacher = OracleTeacher(maps=MAPS, renderers=tuple(renderers) or ("volume",))
    for step in range(steps):
        prepared = field.prepare(planes)
        if renderers:
            cameras = sample_training_cameras(1, CameraSettings(), torch.Generator().manual_seed(step))
            maps = {name: render(field, prepared, cameras, WhiteBackground()) for name, render in renderers.items()}
            loss = TEACHER_WEIGHT * surrogate_loss(maps, teacher.map_gradients(maps, [prompt], cameras, step))
            if "volume" in maps:
                loss = loss + EIKONAL_WEIGHT * eikonal(maps["volume"].sdf_gradient)
        else:
            points = torch.rand(1, 4096, 3) * 1.6 - 0.8
            loss = (field.sdf(prepared, points)[0] - scene_distance(scene, points[0])).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        points = grid_points(96)
        ours, true = field.sdf(field.prepare(planes), points[None])[0] < 0, scene_distance(scene, points) < 0
    return {
        "iou": round(intersection_over_union(ours, true), 3),
        "volume_ratio": round(float(ours.sum() / true.sum()), 2),
    }


def main() -> None:
    """Prints one line of JSON for each object and variant."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    for name, settings in VARIANTS.items():
        for prompt in PROMPTS:
            print(json.dumps({"supervision": name, "prompt": prompt, **fit(prompt, arguments.steps, **settings)}), flush=True)


if __name__ == "__main__":
    main()
