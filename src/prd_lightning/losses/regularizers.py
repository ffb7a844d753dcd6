"""Regularizers of the volume renderer."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def eikonal(
    sdf_gradient: Float[Tensor, "*scenes samples 3"], counted: Bool[Tensor, "*scenes samples"] | None = None
) -> Float[Tensor, ""]:
    """``mean (|grad s| - 1)^2``: a signed distance grows by one per unit (Gropp et al. 2020, equation 2).

    The mean of the scenes' means over the samples that are ``counted``, by default all.
    """
    error = (sdf_gradient.norm(dim=-1) - 1).square()
    if counted is None:
        return error.mean()
    return (torch.where(counted, error, 0.0).sum(dim=-1) / counted.sum(dim=-1).clamp_min(1)).mean()


def sparsity(opacity: Float[Tensor, "views height width 1"]) -> Float[Tensor, ""]:
    """``mean sqrt(opacity^2 + 0.01)``: as little of the picture as possible is covered (DreamFusion's opacity prior)."""
    return (opacity.square() + 0.01).sqrt().mean()
