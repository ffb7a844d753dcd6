"""Renders of training and held-out scenes, made once and kept in a cache folder as safetensors.

A *group* is one scene from the four views of one random camera ring, the unit that the multi-view teachers see.
"""

import json
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prd_lightning.cameras import Cameras, CameraSettings, orbit_cameras, sample_training_cameras
from prd_lightning.files import atomic_write
from prd_lightning.tinyworld.grammar import (
    describe,
    held_out_compositions,
    held_out_pairs,
    parse,
    random_training_scene,
    training_pairs,
)
from prd_lightning.tinyworld.renders import HIT_TOLERANCE, render_scene
from prd_lightning.tinyworld.shapes import Scene

PICTURE_SIZE = 64
MAP_SIZE = 16
CAMERAS = CameraSettings(elevation_range=(-45.0, 45.0))
"""From below as well: what no teacher looks at, the underside of a cone or the hole of a torus, is left to chance."""


@dataclass(frozen=True)
class RenderedGroups:
    """G groups of four views.

    Attributes:
        scenes: G scenes.
        rgb: [G, 4, 64, 64, 3] uint8 pictures on white.
        normal_disparity: [G, 4, 16, 16, 4] float16, camera normals and disparity in [0, 1].
        orbit: [G, 4, 4] float32: elevation, azimuth (degrees), relative distance, vertical field of view (degrees).
    """

    scenes: list[Scene]
    rgb: Tensor
    normal_disparity: Tensor
    orbit: Tensor

    def cameras(self, index: Tensor) -> Cameras:
        """The cameras of the groups ``index`` ([B] long), group-major."""
        elevation, azimuth, distance, fovy = self.orbit[index].reshape(-1, 4).unbind(-1)
        return orbit_cameras(elevation, azimuth, distance, fovy, relative=True)


def _render_group(job: tuple[str, int]) -> dict[str, numpy.ndarray]:
    """One group as arrays: every tensor that a process sends would hold a file descriptor open until the last is rendered."""
    torch.set_num_threads(1)
    prompt, seed = job
    cameras = sample_training_cameras(1, CAMERAS, torch.Generator().manual_seed(seed))
    maps = render_scene(parse(prompt), cameras, PICTURE_SIZE)
    normal_disparity = torch.cat([maps.normal_camera, maps.disparity], dim=-1).permute(0, 3, 1, 2)
    tensors = {
        "rgb": (maps.rgb * 255).round().to(torch.uint8),
        "normal_disparity": torch.nn.functional.adaptive_avg_pool2d(normal_disparity, MAP_SIZE).permute(0, 2, 3, 1).half(),
        "orbit": torch.stack(
            [cameras.elevation, cameras.azimuth, cameras.relative_distance, torch.rad2deg(cameras.fovy)], dim=-1
        ),
    }
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def training_scenes(rings_per_pair: int, compositions: int, seed: int = 0) -> list[Scene]:
    """Every training pair ``rings_per_pair`` times, then random training compositions, each once or more."""
    draw = random.Random(seed)
    singles = [Scene.single(*pair) for pair in training_pairs() for _ in range(rings_per_pair)]
    return singles + [random_training_scene(draw, compositions=1.0) for _ in range(compositions)]


def held_out_scenes() -> list[Scene]:
    """The held-out pairs (two rings each) and the held-out compositions (one ring each)."""
    return [Scene.single(*pair) for pair in held_out_pairs() for _ in range(2)] + held_out_compositions()


def render_groups(scenes: list[Scene], cache: Path, seed: int = 0, workers: int = 2) -> RenderedGroups:
    """Renders (or reads from ``cache``, a .safetensors path) one group of four views per scene."""
    prompts = [describe(scene) for scene in scenes]
    key = json.dumps({"prompts": prompts, "seed": seed, "cameras": asdict(CAMERAS), "tolerance": HIT_TOLERANCE})
    stamp = cache.with_suffix(".json")
    if not (cache.is_file() and stamp.is_file() and stamp.read_text() == key):
        jobs = [(prompt, seed * 1_000_003 + index) for index, prompt in enumerate(prompts)]
        with ProcessPoolExecutor(workers) as pool:
            groups = list(pool.map(_render_group, jobs, chunksize=16))
        cache.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(cache, overwrite=True) as temporary:
            save_file({name: torch.from_numpy(numpy.stack([group[name] for group in groups])) for name in groups[0]}, temporary)
        with atomic_write(stamp, overwrite=True) as temporary:
            Path(temporary).write_text(key)
    return RenderedGroups(scenes=scenes, **load_file(cache))
