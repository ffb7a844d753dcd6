"""Regularizers of the volume renderer."""

from jaxtyping import Float
from torch import Tensor


def eikonal(sdf_gradient: Float[Tensor, "samples 3"]) -> Float[Tensor, ""]:
    """``mean (|grad s| - 1)^2``: a signed distance grows by one per unit (Gropp et al. 2020, equation 2)."""
    return (sdf_gradient.norm(dim=-1) - 1).square().mean()


def sparsity(opacity: Float[Tensor, "views height width 1"]) -> Float[Tensor, ""]:
    """``mean sqrt(opacity^2 + 0.01)``: as little of the picture as possible is covered (DreamFusion's opacity prior)."""
    return (opacity.square() + 0.01).sqrt().mean()
