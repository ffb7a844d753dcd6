"""Sheets of a teacher's own samples."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from prd_lightning.cameras import Cameras, orbit_cameras
from prd_lightning.errors import ConfigurationError
from prd_lightning.mesh import picture_sheet
from prd_lightning.teachers.base import DiffusionTeacher


def preview_cameras(prompts: int, views: int = 4, elevation: float = 15.0) -> Cameras:
    """A ring of training-like cameras for each prompt, the first at azimuth 0 (the front)."""
    ones, azimuth = torch.ones(prompts * views), torch.arange(views).repeat(prompts) * (360.0 / views)
    return orbit_cameras(elevation * ones, azimuth, 0.9 * ones, 60.0 * ones, relative=True)


@torch.no_grad()
def teacher_sheet(
    teacher: DiffusionTeacher,
    prompts: Sequence[str],
    cameras: Cameras,
    path: Path,
    steps: int = 25,
    guidance_scale: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Writes a PNG with all views of every prompt, sampled from the teacher alone; a normal-depth teacher shows both maps.

    Args:
        teacher: to sample.
        prompts: captions.
        cameras: as many for each prompt, prompt-major.
        path: of the PNG.
        steps: of DDIM.
        guidance_scale: None for the teacher's own at the first training step.
        seed: of the noise.
        overwrite: replace a file of that name.

    Raises:
        ConfigurationError: the steps do not fit the teacher's noise schedule.
    """
    if not 1 <= steps <= teacher.schedule.num_timesteps:
        raise ConfigurationError(f"steps must lie between 1 and {teacher.schedule.num_timesteps}, got {steps}")
    device = next(teacher.unet.parameters()).device
    samples = teacher.sample(prompts, cameras.to(device), steps, guidance_scale, seed)
    rows = [_pictures(group) for group in samples.unflatten(0, (len(prompts), -1))]
    return picture_sheet(rows, prompts, path, overwrite)


def _pictures(group: Tensor) -> list[Tensor]:
    """Rows of [V, H, W, 3] pictures."""
    if group.shape[-1] == 3:
        return [group]
    return [group[..., :3], group[..., 3:].expand(*group.shape[:-1], 3)]
