"""Does a teacher of colour know which part of a composition has which colour? It looks at grey pictures of the right shape.

    python -m benchmarks.studies.part_colors
    python -m benchmarks.studies.part_colors --teacher mvdream
    python -m benchmarks.studies.part_colors --folder tinyworld_weights/stable_diffusion

The held-out compositions are painted grey, noised, and handed to the teacher as it sees renders in distillation. Where a part is
to be seen, the mean colour of its estimate of the clean picture should be nearest to the part's, of the ten of the palette.
"""

import argparse
import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from prd_lightning.cameras import Cameras, sample_training_cameras
from prd_lightning.teachers import MVDreamTeacher, StableDiffusionTeacher
from prd_lightning.teachers.multiview import mvdream_camera_condition
from prd_lightning.tinyworld import weights_folder
from prd_lightning.tinyworld.compositions import nearest_color
from prd_lightning.tinyworld.dataset import CAMERAS
from prd_lightning.tinyworld.grammar import describe, held_out_compositions
from prd_lightning.tinyworld.renders import render_scene
from prd_lightning.tinyworld.shapes import ARRANGEMENTS, COLORS, SHADE_RANGE, Scene

SIZE, VIEWS, GREY = 32, 4, 0.45
TIMESTEPS = (400, 550, 700, 800, 900)
COLOR_TOLERANCE = 0.15
"""Distance from a part's colour in half light up to which a pixel of the true picture counts as showing it."""


@torch.no_grad()
def estimates(
    teacher: StableDiffusionTeacher | MVDreamTeacher,
    scenes: list[Scene],
    cameras: Cameras,
    opacity: Float[Tensor, "views height width 1"],
    t: int,
    seed: int = 0,
) -> Float[Tensor, "views height width 3"]:
    """The teacher's estimates of the clean pictures at timestep ``t``, from grey ones; single views are told by their name."""
    grey = opacity * GREY + (1 - opacity)
    clean = teacher.encode(grey.permute(0, 3, 1, 2).expand(-1, 3, -1, -1))
    texts, labels = [describe(scenes[view // VIEWS]) for view in range(len(clean))], None
    if isinstance(teacher, StableDiffusionTeacher):
        texts = [teacher.view_prompt(text, cameras, view) for view, text in enumerate(texts)]
    else:
        labels = mvdream_camera_condition(cameras)
    times = torch.full((len(clean),), t)
    noisy = teacher.schedule.add_noise(clean, torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)), times)
    noise = teacher.predict_noise(noisy, times, teacher.prompt_encoder.encode(texts).tokens, labels)
    return teacher.decode(teacher.schedule.predict_clean(noisy, noise, times)).permute(0, 2, 3, 1)


def right_parts(scenes: list[Scene], true: Tensor, estimated: Tensor) -> list[list[bool]]:
    """For each scene, whether each part that its pictures show has the right colour."""
    found = []
    for scene, pictures, guesses in zip(scenes, true.unflatten(0, (-1, VIEWS)), estimated.unflatten(0, (-1, VIEWS))):
        palette = {part.color: torch.tensor(COLORS[part.color]) * (sum(SHADE_RANGE) / 2) for part in scene.parts}
        shown = {color: (pictures - value).norm(dim=-1) < COLOR_TOLERANCE for color, value in palette.items()}
        found.append([nearest_color(guesses[mask]) == color for color, mask in shown.items() if mask.any()])
    return found


def share_of_parts(right: list[list[bool]]) -> float:
    """Of the parts of several scenes, the share that is right."""
    flat = [part for parts in right for part in parts]
    return sum(flat) / len(flat)


def main() -> None:
    """Prints one line of JSON for each timestep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", choices=("stable_diffusion", "mvdream"), default="stable_diffusion")
    parser.add_argument("--folder", type=Path, help="of the teacher; by default the one that ships")
    arguments = parser.parse_args()
    folder = arguments.folder or weights_folder(arguments.teacher)
    if arguments.teacher == "mvdream":
        teacher = MVDreamTeacher.from_folder(folder, image_size=SIZE, views=VIEWS)
    else:
        teacher = StableDiffusionTeacher.from_folder(folder, image_size=SIZE, views_scored=VIEWS)
    scenes = held_out_compositions()
    cameras = sample_training_cameras(len(scenes), CAMERAS, torch.Generator().manual_seed(1))
    maps = [
        render_scene(scene, cameras.select(slice(VIEWS * index, VIEWS * (index + 1))), SIZE) for index, scene in enumerate(scenes)
    ]
    rgb = torch.cat([rendered.rgb for rendered in maps])
    opacity = torch.cat([rendered.opacity for rendered in maps])
    for t in TIMESTEPS:
        right = right_parts(scenes, rgb, estimates(teacher, scenes, cameras, opacity, t))
        row = {"timestep": t, "parts": share_of_parts(right), "both": sum(map(all, right)) / len(right)}
        for arrangement in ARRANGEMENTS:
            chosen = [parts for scene, parts in zip(scenes, right) if scene.arrangement == arrangement]
            row[f"parts_{arrangement}"] = share_of_parts(chosen)
        print(json.dumps({name: round(value, 3) for name, value in row.items()}), flush=True)


if __name__ == "__main__":
    main()
