"""MVDream as a teacher of consistent colour: the views of a prompt together, with their cameras (arXiv 2308.16512)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from prd_lightning.cameras import Cameras
from prd_lightning.draws import Draws
from prd_lightning.losses import Schedule
from prd_lightning.teachers.base import TeacherInput
from prd_lightning.teachers.latents import LATENT_CHANNELS, LatentTeacher, decode_rgb, latent_size, resized_pictures
from prd_lightning.teachers.loading import load_autoencoder, load_denoiser
from prd_lightning.teachers.multiview import install_joint_view_attention, mvdream_camera_condition


class MVDreamTeacher(LatentTeacher):
    """Scores all views of a prompt jointly; loss and gradient are divided by the number of views.

    Args:
        vae: encoder of the pictures.
        image_size: pictures are resized to this before they are encoded.
        views: of each prompt.
        settings: see ``DiffusionTeacher``.
    """

    def __init__(
        self,
        *networks: object,
        vae: AutoencoderKL,
        image_size: int = 256,
        views: int = 4,
        guidance_scale: Schedule = (0, 20.0, 10.0, 20_000),
        **settings: object,
    ) -> None:
        super().__init__(*networks, guidance_scale=guidance_scale, **settings)
        self.vae, self.image_size, self.views = vae.requires_grad_(False).eval(), image_size, views
        install_joint_view_attention(self.unet, views)

    @classmethod
    def from_folder(
        cls, folder: str | Path, precision: str = "float32", text_width: int | None = None, **settings: object
    ) -> "MVDreamTeacher":
        """Loads ``unet``, ``vae``, ``tokenizer``, ``text_encoder`` and ``scheduler`` of a diffusers folder.

        With ``text_width`` a network that reads tokens of another width is refused (768 is Stable Diffusion 1.5, 1024 2.1).
        """
        return cls(*load_denoiser(folder, precision, True, text_width), vae=load_autoencoder(folder, precision), **settings)

    @property
    def loss_share(self) -> float:
        """One view's share."""
        return 1.0 / self.views

    def prepare(
        self, maps: list[dict[str, Tensor]], prompts: list[str], cameras: Cameras, generator: Draws
    ) -> TeacherInput:
        """See ``DiffusionTeacher.prepare``."""
        pictures = torch.cat([resized_pictures(rendered["rgb"], self.image_size) for rendered in maps])
        labels = mvdream_camera_condition(cameras).repeat(len(maps), 1)
        return TeacherInput(self.encode(pictures), pictures, prompts * len(maps), self.views, labels, len(maps))

    def sample(
        self, prompts: Sequence[str], cameras: Cameras, steps: int = 25, guidance_scale: float | None = None, seed: int = 0
    ) -> Float[Tensor, "views height width 3"]:
        """The teacher's own pictures from ``cameras``, ``views`` of each prompt."""
        shape = (LATENT_CHANNELS, *[latent_size(self.vae, self.image_size)] * 2)
        labels, draw = mvdream_camera_condition(cameras), torch.Generator().manual_seed(seed)
        return decode_rgb(self.vae, self.sample_clean(list(prompts), self.views, shape, labels, steps, guidance_scale, draw))
