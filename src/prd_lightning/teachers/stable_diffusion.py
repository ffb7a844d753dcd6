"""Stable Diffusion as a teacher of appearance: random single views, with the view named in the prompt."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from prd_lightning.cameras import Cameras, horizontal_view_name
from prd_lightning.draws import Draws, integers
from prd_lightning.errors import ConfigurationError
from prd_lightning.losses import Schedule
from prd_lightning.teachers.base import TeacherInput
from prd_lightning.teachers.latents import LATENT_CHANNELS, LatentTeacher, decode_rgb, latent_size, resized_pictures
from prd_lightning.teachers.loading import load_autoencoder, load_denoiser

OVERHEAD_ELEVATION = 60.0


class StableDiffusionTeacher(LatentTeacher):
    """Scores ``views_scored`` random views of each prompt; the second renderer is looked at from the opposite side.

    Args:
        vae: encoder of the pictures.
        image_size: pictures are resized to this before they are encoded.
        views_scored: views of each prompt and renderer; they are evenly spaced from a random one.
        view_template: how the view is added to the prompt, with ``{prompt}`` and ``{view}``; None leaves prompts as they are.
        first_view_text: both renderers get the text of the first one's view (published weights were trained so).
        settings: see ``DiffusionTeacher``.
    """

    shares_time = False

    def __init__(
        self,
        *networks: object,
        vae: AutoencoderKL,
        image_size: int = 512,
        views_scored: int = 1,
        view_template: str | None = "{prompt}, {view} view",
        first_view_text: bool = True,
        guidance_scale: Schedule = 7.5,
        **settings: object,
    ) -> None:
        super().__init__(*networks, guidance_scale=guidance_scale, **settings)
        if views_scored < 1:
            raise ConfigurationError(f"views_scored must be at least 1, got {views_scored}")
        self.vae, self.image_size, self.views_scored = vae.requires_grad_(False).eval(), image_size, views_scored
        self.view_template, self.first_view_text = view_template, first_view_text

    @classmethod
    def from_folder(
        cls, folder: str | Path, precision: str = "float32", text_width: int | None = None, **settings: object
    ) -> "StableDiffusionTeacher":
        """Loads ``unet``, ``vae``, ``tokenizer``, ``text_encoder`` and ``scheduler`` of a diffusers folder.

        With ``text_width`` a network that reads tokens of another width is refused (768 is Stable Diffusion 1.5, 1024 2.1).
        """
        return cls(*load_denoiser(folder, precision, text_width=text_width), vae=load_autoencoder(folder, precision), **settings)

    def prepare(
        self, maps: list[dict[str, Tensor]], prompts: list[str], cameras: Cameras, generator: Draws
    ) -> TeacherInput:
        """See ``DiffusionTeacher.prepare``."""
        count = len(prompts)
        views = len(cameras) // count
        if self.views_scored > views:
            raise ConfigurationError(f"views_scored is {self.views_scored} but only {views} views of each prompt are rendered")
        start = integers(0, views, (count, 1), generator)
        chosen = (start + torch.arange(self.views_scored) * (views // self.views_scored)) % views
        first = (chosen + torch.arange(count)[:, None] * views).flatten()
        opposite = ((chosen + views // 2) % views + torch.arange(count)[:, None] * views).flatten()
        scored, texts = [], []
        for index, rendered in zip((first, opposite), maps):
            scored.append(resized_pictures(rendered["rgb"][index], self.image_size))
            named = first if self.first_view_text else index
            texts += [self.view_prompt(prompts[int(view) // views], cameras, int(view)) for view in named]
        pictures = torch.cat(scored)
        return TeacherInput(self.encode(pictures), pictures, texts, samples_per_prompt=1, groups=len(maps))

    def view_prompt(self, prompt: str, cameras: Cameras, view: int) -> str:
        """The prompt with the name of a view: front, side, back or overhead."""
        if self.view_template is None:
            return prompt
        overhead = float(cameras.elevation[view]) > OVERHEAD_ELEVATION
        name = "overhead" if overhead else horizontal_view_name(float(cameras.azimuth[view]))
        return self.view_template.format(prompt=prompt, view=name)

    def sample(
        self, prompts: Sequence[str], cameras: Cameras, steps: int = 25, guidance_scale: float | None = None, seed: int = 0
    ) -> Float[Tensor, "views height width 3"]:
        """The teacher's own pictures, one for each camera; prompts as in ``map_gradients``."""
        views = len(cameras) // len(prompts)
        texts = [self.view_prompt(prompts[view // views], cameras, view) for view in range(len(cameras))]
        shape = (LATENT_CHANNELS, *[latent_size(self.vae, self.image_size)] * 2)
        draw = torch.Generator().manual_seed(seed)
        return decode_rgb(self.vae, self.sample_clean(texts, 1, shape, None, steps, guidance_scale, draw))
