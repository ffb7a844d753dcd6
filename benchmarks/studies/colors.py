"""Can a teacher teach a colour? Ten spheres of the right shape descend from one colour, in latent and in picture space.

    python -m benchmarks.studies.colors --teacher mvdream

Each sphere is one constant colour, optimised by Adam on the gradient that the teacher gives the four rendered views. What is
printed is the mean error of the channels (red, green, blue) after 40 steps, and how many of the ten colours are then nearest to
the right entry of the palette.
"""

import argparse
import json

import torch

from prd_lightning.cameras import CameraSettings, sample_training_cameras
from prd_lightning.rendering import RenderedMaps
from prd_lightning.teachers import DiffusionTeacher, MVDreamTeacher, StableDiffusionTeacher
from prd_lightning.tinyworld import weights_folder
from prd_lightning.tinyworld.grammar import parse
from prd_lightning.tinyworld.renders import render_scene
from prd_lightning.tinyworld.shapes import COLORS, SHADE_RANGE

SIZE, VIEWS, STEPS, LEARNING_RATE = 32, 4, 40, 0.1
START = (0.5, 0.3, 0.7)
SETTINGS = (
    {"space": "latent", "guidance_scale": 3.0, "t_min": 0.1, "t_max": 0.7},
    {"space": "latent", "guidance_scale": 1.0, "t_min": 0.4, "t_max": 0.9},
    {"space": "picture", "guidance_scale": 3.0, "t_min": 0.1, "t_max": 0.7},
    {"space": "picture", "guidance_scale": 1.0, "t_min": 0.02, "t_max": 0.4},
    {"space": "picture", "guidance_scale": 1.0, "t_min": 0.4, "t_max": 0.9},
)


def make_teacher(name: str, settings: dict[str, object]) -> DiffusionTeacher:
    """A tiny teacher that looks at all four views."""
    folder = weights_folder(name)
    if name == "mvdream":
        return MVDreamTeacher.from_folder(folder, image_size=SIZE, student="sds", **settings)
    return StableDiffusionTeacher.from_folder(folder, image_size=SIZE, views_scored=VIEWS, student="sds", **settings)


def descend(teacher: DiffusionTeacher, steps: int = STEPS, seed: int = 0) -> dict[str, object]:
    """Errors of the ten colours after ``steps``."""
    prompts = [f"a {color} sphere" for color in COLORS]
    cameras = sample_training_cameras(len(prompts), CameraSettings(), torch.Generator().manual_seed(seed))
    opacity = torch.cat(
        [
            render_scene(parse(prompt), cameras.select(slice(VIEWS * index, VIEWS * (index + 1))), SIZE).opacity
            for index, prompt in enumerate(prompts)
        ]
    )
    true = torch.tensor(list(COLORS.values())) * (sum(SHADE_RANGE) / 2)
    logits = torch.logit(torch.tensor([START])).repeat(len(prompts), 1).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=LEARNING_RATE, betas=(0.9, 0.99))
    for step in range(steps):
        color = logits.sigmoid().repeat_interleave(VIEWS, dim=0)[:, None, None]
        rgb = opacity * color + (1 - opacity)
        empty = torch.zeros_like(rgb)
        maps = RenderedMaps(rgb, opacity, opacity, opacity, normal_world=empty, normal_camera=empty)
        draws = torch.Generator().manual_seed(step)
        gradient = teacher.map_gradients({"mesh": maps}, prompts, cameras, 0, draws).gradients["mesh"]["rgb"]
        optimizer.zero_grad()
        rgb.backward(gradient)
        optimizer.step()
    found = logits.detach().sigmoid()
    nearest = torch.cdist(found, true).argmin(dim=1)
    return {
        "mean_error": round(float((found - true).abs().mean()), 3),
        "bias_red_green_blue": [round(float(value), 3) for value in (found - true).mean(dim=0)],
        "right_colors": int((nearest == torch.arange(len(prompts))).sum()),
    }


def main() -> None:
    """Prints one line of JSON for each setting."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", choices=("mvdream", "stable_diffusion"), default="mvdream")
    arguments = parser.parse_args()
    for settings in SETTINGS:
        result = descend(make_teacher(arguments.teacher, settings))
        print(json.dumps({"teacher": arguments.teacher, **settings, **result}), flush=True)


if __name__ == "__main__":
    main()
