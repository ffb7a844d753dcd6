"""Pictures to VAE latents and back, for the teachers that look at colour."""

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from prd_lightning.rendering import resize_map
from prd_lightning.teachers.base import DiffusionTeacher

LATENT_CHANNELS = 4


def latent_size(vae: AutoencoderKL, image_size: int) -> int:
    """Height and width of the latents of square pictures."""
    return image_size // 2 ** (len(vae.config.block_out_channels) - 1)


def encode_pictures(
    vae: AutoencoderKL, pictures: Float[Tensor, "views 3 height width"]
) -> Float[Tensor, "views channels latent_height latent_width"]:
    """Scaled latents (the mean of the posterior) of pictures in [0, 1], differentiable in the pictures."""
    return vae.encode((pictures * 2 - 1).to(vae.dtype)).latent_dist.mean.to(pictures) * vae.config.scaling_factor


def resized_pictures(
    rgb: Float[Tensor, "views height width 3"], image_size: int
) -> Float[Tensor, "views 3 image_size image_size"]:
    """Rendered colours as square pictures of the size that a teacher looks at."""
    return resize_map(rgb, image_size).permute(0, 3, 1, 2)


def encode_rgb(
    vae: AutoencoderKL, rgb: Float[Tensor, "views height width 3"], image_size: int
) -> Float[Tensor, "views channels latent_height latent_width"]:
    """Scaled latents of rendered colours in [0, 1], differentiable in the colours."""
    return encode_pictures(vae, resized_pictures(rgb, image_size))


@torch.no_grad()
def decode_rgb(
    vae: AutoencoderKL, latents: Float[Tensor, "views channels latent_height latent_width"]
) -> Float[Tensor, "views height width 3"]:
    """Pictures in [0, 1] of scaled latents."""
    return decode_pictures(vae, latents).permute(0, 2, 3, 1)


@torch.no_grad()
def decode_pictures(
    vae: AutoencoderKL, latents: Float[Tensor, "views channels latent_height latent_width"]
) -> Float[Tensor, "views 3 height width"]:
    """``decode_rgb``, channels first."""
    pictures = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.to(latents)
    return (pictures / 2 + 0.5).clamp(0, 1)


class LatentTeacher(DiffusionTeacher):
    """A teacher whose samples are latents of rendered colours; subclasses set ``vae``."""

    map_names = ("rgb",)
    vae: AutoencoderKL

    @property
    def keeps_graph(self) -> bool:
        """See ``Teacher.keeps_graph``."""
        return self.space == "latent"

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures. In picture space nothing flows back through the encoder, so no graph of it is kept."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.keeps_graph):
            return encode_pictures(self.vae, pictures)

    def decode(self, clean: Tensor) -> Tensor:
        """Pictures of latents, see ``DiffusionTeacher.decode``."""
        return decode_pictures(self.vae, clean)
