"""Sheets of the tiny teachers' own samples: what can be learned from them, to be looked at before they are trusted."""

from collections.abc import Sequence
from pathlib import Path

import torch

from prd_lightning.cameras import Cameras, CameraSettings, sample_training_cameras
from prd_lightning.teachers import DiffusionTeacher, MVDreamTeacher, NormalDepthTeacher, StableDiffusionTeacher
from prd_lightning.teachers.previews import teacher_sheet

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


def sample_sheet(
    name: str,
    root: Path,
    path: Path,
    prompts: Sequence[str] = SHEET_PROMPTS,
    guidance_scale: float = 2.0,
    steps: int = 25,
    seed: int = 0,
) -> Path:
    """Writes a PNG with four views of every prompt, see ``teacher_sheet``; a file of that name is replaced."""
    cameras = sheet_cameras(len(prompts), seed)
    return teacher_sheet(load_teacher(name, root), prompts, cameras, path, steps, guidance_scale, seed, overwrite=True)
