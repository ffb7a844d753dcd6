"""The generator: adapted Stable Diffusion that denoises six planes and decodes them."""

from prd_lightning.generator.adapters import PLANES, AdaptedConv2d, AdaptedLinear
from prd_lightning.generator.triplane import AdapterRanks, TriplaneGenerator, copy_state

__all__ = ["PLANES", "AdaptedConv2d", "AdaptedLinear", "AdapterRanks", "TriplaneGenerator", "copy_state"]
