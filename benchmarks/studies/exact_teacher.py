"""What do renders tell about a shape? A free field (no generator) is fitted to true renders of one object.

    python -m benchmarks.studies.exact_teacher --steps 200

Planes and networks are optimised directly, with the exact teacher of the tiny world; ``points`` fits the true distances
themselves, and the last variant asks the tiny world's normal-depth teacher instead. What is printed is the IoU with the true
object and the ratio of volumes. A ratio above 1 with renders that agree means that the renders leave the object free to swell:
because no camera sees a part of it, or because one map drowns another.
"""

import argparse
import json
import math

import torch

from prd_lightning.cameras import CameraSettings, sample_training_cameras
from prd_lightning.field import TriplaneField
from prd_lightning.losses import eikonal
from prd_lightning.module import surrogate_loss
from prd_lightning.rendering import MeshRenderer, VolumeRenderer, WhiteBackground
from prd_lightning.teachers import NormalDepthTeacher
from prd_lightning.tinyworld import weights_folder
from prd_lightning.tinyworld.compositions import nearest_composition
from prd_lightning.tinyworld.dataset import CAMERAS
from prd_lightning.tinyworld.evaluation import grid_points, intersection_over_union, nearest_primitive
from prd_lightning.tinyworld.grammar import parse
from prd_lightning.tinyworld.oracle import OracleTeacher
from prd_lightning.tinyworld.shapes import scene_distance

PROMPTS = (
    "a red cube", "a red cone", "a red torus", "a red disk", "a red cross", "a red wedge",
    "an orange torus beside a green octahedron", "a green cylinder on a blue pyramid",
)  # fmt: skip
TEACHER_WEIGHT, EIKONAL_WEIGHT = 300.0, 1.0
NORMALS_AND_DISPARITY = ("normal_camera", "disparity")
FEW_SAMPLES = (16, 12, 80.0)
"""Proposal samples, fine samples and sharpness of ``conf/world/tiny.yaml``."""
LEVELS = (0.5, 0.95)
"""Noise levels of the normal-depth teacher in the same file."""
ABOVE, AROUND = CameraSettings().elevation_range, CAMERAS.elevation_range
VARIANTS = {
    "points": {},
    "normals, disparity and opacity, cameras from 0 to 30 degrees": {
        "volume": FEW_SAMPLES, "maps": (*NORMALS_AND_DISPARITY, "opacity"), "elevation": ABOVE,
    },
    "normals and disparity, from 0 to 30 degrees": {"volume": FEW_SAMPLES, "elevation": ABOVE},
    "normals and disparity, from -30 to 30 degrees": {"volume": FEW_SAMPLES, "elevation": (-30.0, 30.0)},
    "normals and disparity, from -45 to 45 degrees": {"volume": FEW_SAMPLES, "elevation": AROUND},
    "the same, mesh of 24 cells": {"mesh": 24, "elevation": AROUND},
    "the tiny normal-depth teacher, from -45 to 45 degrees": {"volume": FEW_SAMPLES, "elevation": AROUND, "levels": LEVELS},
    "the same, noise levels 0.2 to 0.6": {"volume": FEW_SAMPLES, "elevation": AROUND, "levels": (0.2, 0.6)},
    "the same, noise levels 0.75 to 0.98": {"volume": FEW_SAMPLES, "elevation": AROUND, "levels": (0.75, 0.98)},
    "the same, guidance 2": {"volume": FEW_SAMPLES, "elevation": AROUND, "levels": LEVELS, "guidance": 2.0},
    "the same teacher, rendered at 32 x 32": {"volume": FEW_SAMPLES, "elevation": AROUND, "levels": LEVELS, "size": 32},
    "the same teacher, rendered at 32 x 32, noise levels 0.2 to 0.6": {
        "volume": FEW_SAMPLES, "elevation": AROUND, "levels": (0.2, 0.6), "size": 32,
    },
}  # fmt: skip


def make_renderer(volume: tuple[int, int, float] | None, mesh: int | None, size: int = 16) -> dict[str, torch.nn.Module]:
    """The renderer of a variant, in training mode; none for ``points``."""
    if volume:
        proposal, fine, sharpness = volume
        renderer = VolumeRenderer(
            size, None, proposal_samples=proposal, fine_samples=fine, color_samples=3, bounding_radius=0.85,
            inverse_standard_deviation=sharpness,
        )  # fmt: skip
        return {"volume": renderer.train()}
    return {"mesh": MeshRenderer(mesh, 32, rasterizer="torch", sdf_gradient_scale=1.0, depth="ray").train()} if mesh else {}


def tiny_teacher(levels: tuple[float, float], guidance: float) -> NormalDepthTeacher:
    """The teacher of geometry, for the rest with the settings of ``conf/world/tiny.yaml``."""
    return NormalDepthTeacher.from_folder(
        weights_folder("richdreamer_nd"), map_size=16, guidance_scale=guidance, t_min=levels[0], t_max=levels[1],
        shift_ratio=0.0, student="sds", space="picture", negative_prompt="", renderers=("volume",),
    )  # fmt: skip


def fit(
    prompt: str,
    steps: int,
    seed: int = 0,
    volume: tuple[int, int, float] | None = None,
    mesh: int | None = None,
    maps: tuple[str, ...] = NORMALS_AND_DISPARITY,
    elevation: tuple[float, float] = AROUND,
    levels: tuple[float, float] | None = None,
    guidance: float = 1.0,
    size: int = 16,
) -> dict[str, float | bool]:
    """IoU, ratio of volumes, and whether the shapes are told right, of a field after ``steps``.

    Without noise ``levels`` the teacher is exact, with them it is the tiny normal-depth teacher, which looks at means, over its
    16 x 16 pixels, of maps that are rendered at ``size``.
    """
    torch.manual_seed(seed)
    field, scene, settings = TriplaneField(16, 32), parse(prompt), CameraSettings(elevation_range=elevation)
    planes = (0.1 * torch.randn(1, 6, 16, 16, 16)).requires_grad_()
    optimizer = torch.optim.Adam(
        [{"params": [planes], "lr": 2e-2}, {"params": field.parameters(), "lr": 2e-3}], betas=(0.9, 0.99)
    )
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps))
    renderers = make_renderer(volume, mesh, size)
    if levels is None:
        teacher = OracleTeacher(maps=maps, renderers=tuple(renderers) or ("volume",))
    else:
        teacher = tiny_teacher(levels, guidance)
    draws = torch.Generator().manual_seed(seed)
    for step in range(steps):
        prepared = field.prepare(planes)
        if renderers:
            cameras = sample_training_cameras(1, settings, torch.Generator().manual_seed(step))
            rendered = {name: render(field, prepared, cameras, WhiteBackground()) for name, render in renderers.items()}
            loss = TEACHER_WEIGHT * surrogate_loss(rendered, teacher.map_gradients(rendered, [prompt], cameras, step, draws))
            if "volume" in rendered:
                loss = loss + EIKONAL_WEIGHT * eikonal(rendered["volume"].sdf_gradient)
        else:
            points = torch.rand(1, 4096, 3) * 1.6 - 0.8
            loss = (field.sdf(prepared, points)[0] - scene_distance(scene, points[0])).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    with torch.no_grad():
        points = grid_points()
        ours, true = field.sdf(field.prepare(planes), points[None])[0] < 0, scene_distance(scene, points) < 0
    shapes = tuple(part.shape for part in scene.parts)
    told = nearest_primitive(ours, points) == shapes[0] if len(shapes) == 1 else nearest_composition(ours)[:2] == shapes
    return {
        "iou": round(intersection_over_union(ours, true), 3),
        "volume_ratio": round(float(ours.sum() / true.sum()), 2),
        "shapes_told_right": told,
    }


def main() -> None:
    """Prints one line of JSON for each variant and object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", default="", metavar="WORDS", help="variants whose name holds these words")
    arguments = parser.parse_args()
    for name, settings in VARIANTS.items():
        if arguments.only not in name:
            continue
        for prompt in PROMPTS:
            print(json.dumps({"supervision": name, "prompt": prompt, **fit(prompt, arguments.steps, **settings)}), flush=True)


if __name__ == "__main__":
    main()
