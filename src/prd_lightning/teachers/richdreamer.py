"""RichDreamer's normal-depth diffusion as a teacher of geometry (arXiv 2311.16918).

Its sample is not a latent but a small map: camera-space normals and disparity, averaged to ``map_size``.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from prd_lightning.cameras import Cameras
from prd_lightning.draws import Draws
from prd_lightning.losses import Schedule
from prd_lightning.rendering import resize_map
from prd_lightning.teachers.base import DiffusionTeacher, TeacherInput
from prd_lightning.teachers.loading import load_denoiser
from prd_lightning.teachers.multiview import install_joint_view_attention, richdreamer_camera_condition


class NormalDepthTeacher(DiffusionTeacher):
    """Scores normals and disparity of all views of a prompt jointly; divided by the number of views.

    Args:
        map_size: height and width of the maps that the network sees.
        views: of each prompt.
        settings: see ``DiffusionTeacher``.
    """

    map_names = ("normal_camera", "disparity")

    def __init__(
        self,
        *networks: object,
        map_size: int = 32,
        views: int = 4,
        guidance_scale: Schedule = 20.0,
        shift_ratio: float = 0.1,
        **settings: object,
    ) -> None:
        super().__init__(*networks, guidance_scale=guidance_scale, shift_ratio=shift_ratio, **settings)
        self.map_size, self.views = map_size, views
        install_joint_view_attention(self.unet, views)

    @classmethod
    def from_folder(
        cls, folder: str | Path, precision: str = "float32", text_width: int | None = None, **settings: object
    ) -> "NormalDepthTeacher":
        """Loads ``unet``, ``tokenizer``, ``text_encoder`` and ``scheduler`` of a diffusers folder.

        With ``text_width`` a network that reads tokens of another width is refused (768 is Stable Diffusion 1.5, 1024 2.1).
        """
        return cls(*load_denoiser(folder, precision, True, text_width), **settings)

    @property
    def loss_share(self) -> float:
        """One view's share."""
        return 1.0 / self.views

    def prepare(
        self, maps: list[dict[str, Tensor]], prompts: list[str], cameras: Cameras, generator: Draws
    ) -> TeacherInput:
        """See ``DiffusionTeacher.prepare``."""
        pictures = [torch.cat([rendered[name] for name in self.map_names], dim=-1) for rendered in maps]
        clean = torch.cat([resize_map(picture, self.map_size) for picture in pictures]).permute(0, 3, 1, 2)
        labels = richdreamer_camera_condition(cameras).repeat(len(maps), 1)
        return TeacherInput(clean, clean, prompts * len(maps), self.views, labels, len(maps))

    def sample(
        self, prompts: Sequence[str], cameras: Cameras, steps: int = 25, guidance_scale: float | None = None, seed: int = 0
    ) -> Float[Tensor, "views height width 4"]:
        """The teacher's own maps from ``cameras``: normals in channels 0-2, disparity in channel 3, all in [0, 1]."""
        labels, draw = richdreamer_camera_condition(cameras), torch.Generator().manual_seed(seed)
        shape = (4, self.map_size, self.map_size)
        maps = self.sample_clean(list(prompts), self.views, shape, labels, steps, guidance_scale, draw)
        return maps.permute(0, 2, 3, 1).clamp(0, 1)
