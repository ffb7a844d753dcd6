"""Sheets of the teachers' own samples: what can be learned from them, to be looked at before they are trusted."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from prd_lightning.cameras import Cameras, CameraSettings, sample_training_cameras
from prd_lightning.mesh import picture_sheet
from prd_lightning.teachers import DiffusionTeacher, MVDreamTeacher, NormalDepthTeacher, StableDiffusionTeacher

VIEWS = 4
SHEET_PROMPTS = ("a red cone", "a blue torus", "a yellow wedge", "a green cross", "a purple sphere on an orange cube")


def load_teacher(name: str, root: Path) -> DiffusionTeacher:
    """The tiny teacher ``name`` of a folder of models, with the sizes that it was trained on."""
    if name == "stable_diffusion":
        return StableDiffusionTeacher.from_folder(root / name, image_size=64)
    if name == "mvdream":
        return MVDreamTeacher.from_folder(root / name, image_size=32)
    return NormalDepthTeacher.from_folder(root / name, map_size=16)


def sheet_cameras(prompts: int, seed: int = 0) -> Cameras:
    """One ring of four training cameras for each prompt."""
    return sample_training_cameras(prompts, CameraSettings(), torch.Generator().manual_seed(seed))


@torch.no_grad()
def sample_sheet(
    name: str,
    root: Path,
    path: Path,
    prompts: Sequence[str] = SHEET_PROMPTS,
    guidance_scale: float = 2.0,
    steps: int = 25,
    seed: int = 0,
) -> Path:
    """Writes a PNG with four views of every prompt, sampled from the teacher alone; a normal-depth teacher shows both maps."""
    cameras = sheet_cameras(len(prompts), seed)
    samples = load_teacher(name, root).sample(prompts, cameras, steps, guidance_scale, seed)
    groups = samples.unflatten(0, (len(prompts), VIEWS))
    rows = [_pictures(group) for group in groups]
    return picture_sheet(rows, prompts, path, overwrite=True)


def _pictures(group: Tensor) -> list[Tensor]:
    """Rows of [V, H, W, 3] pictures."""
    if group.shape[-1] == 3:
        return [group]
    return [group[..., :3], group[..., 3:].expand(*group.shape[:-1], 3)]
