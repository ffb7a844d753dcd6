"""``nd_mv_ema.ckpt`` of RichDreamer (arXiv 2311.16918): a UNet on small maps; the text encoder is Stable Diffusion 1.5's.

Its autoencoder, if the file holds one, is not used: normals and disparity enter the network as they are.
"""

from prd_lightning.formats.multiview import MultiViewFormat
from prd_lightning.teachers.conversion import NORMAL_DEPTH_UNET

RICHDREAMER = MultiViewFormat("richdreamer", "RichDreamer's nd_mv_ema.ckpt", NORMAL_DEPTH_UNET, None)
