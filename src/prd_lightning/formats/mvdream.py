"""``sd-v2.1-base-4view.pt`` of MVDream (arXiv 2308.16512): UNet and autoencoder; the text encoder is Stable Diffusion 2.1's."""

from prd_lightning.formats.multiview import VAE, MultiViewFormat
from prd_lightning.teachers.conversion import MVDREAM_UNET

MVDREAM = MultiViewFormat("mvdream", "MVDream's sd-v2.1-base-4view.pt", MVDREAM_UNET, VAE)
