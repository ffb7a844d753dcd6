"""NeuS in pure functions (Wang et al. 2021, arXiv 2106.10689).

A section of a ray with signed distances s_prev, s_next at its ends is opaque to the degree

    alpha = clip((sigmoid(k s_prev) - sigmoid(k s_next) + 1e-5) / (sigmoid(k s_prev) + 1e-5), 0, 1)

where both are extrapolated from the middle with the slope -relu(-cos), cos = <direction, normal>, and
k = exp(10 * 0.4605) ~ 100 is the fixed inverse standard deviation. Weights are w_i = alpha_i prod_{j<i} (1 - alpha_j).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

INVERSE_STANDARD_DEVIATION = math.exp(10 * 0.4605)
ALPHA_EPSILON = 1e-5


def neus_alpha(
    sdf: Float[Tensor, "*samples"],
    cosine: Float[Tensor, "*#samples"] | float,
    lengths: Float[Tensor, "*#samples"] | float,
    inverse_standard_deviation: float = INVERSE_STANDARD_DEVIATION,
) -> Float[Tensor, "*samples"]:
    """Opacity of ray sections.

    Args:
        sdf: signed distance in the middle of each section.
        cosine: of the angle between ray and outward normal; a surface that faces away counts as parallel.
        lengths: of the sections.
        inverse_standard_deviation: k.
    """
    slope = -torch.relu(-cosine) if isinstance(cosine, Tensor) else min(cosine, 0.0)
    half = slope * lengths * 0.5
    previous = torch.sigmoid((sdf - half) * inverse_standard_deviation)
    following = torch.sigmoid((sdf + half) * inverse_standard_deviation)
    return ((previous - following + ALPHA_EPSILON) / (previous + ALPHA_EPSILON)).clamp(0, 1)


def render_weights(alpha: Float[Tensor, "rays samples"]) -> Float[Tensor, "rays samples"]:
    """Weights of the sections of each ray, front to back."""
    transmittance = torch.cumprod(1 - alpha + 1e-10, dim=-1)
    return alpha * torch.cat([torch.ones_like(alpha[:, :1]), transmittance[:, :-1]], dim=-1)


@torch.no_grad()
def resample(
    edges: Float[Tensor, "rays edges"],
    weights: Float[Tensor, "rays sections"],
    count: int,
    jitter: Float[Tensor, "rays 1"] | None = None,
) -> Float[Tensor, "rays new_edges"]:
    """Edges of ``count`` sections that share the weight of the given sections evenly (inverse of the cumulative weight).

    Args:
        edges: increasing section edges.
        weights: of the sections between them.
        count: of new sections.
        jitter: per-ray shift in [0, 1) of the stratified positions; the middle (0.5) without it.
    """
    density = weights + 1e-5 / weights.shape[-1]
    cumulative = torch.cumsum(density / density.sum(dim=-1, keepdim=True), dim=-1)
    cumulative = torch.cat([torch.zeros_like(cumulative[:, :1]), cumulative], dim=-1)
    shift = 0.5 if jitter is None else jitter
    positions = (torch.arange(count + 1, device=edges.device, dtype=edges.dtype) + shift) / (count + 1)
    positions = positions.expand(edges.shape[0], -1).contiguous()
    upper = torch.searchsorted(cumulative, positions, right=True).clamp(1, edges.shape[-1] - 1)
    low, high = cumulative.gather(1, upper - 1), cumulative.gather(1, upper)
    start, end = edges.gather(1, upper - 1), edges.gather(1, upper)
    return start + (end - start) * ((positions - low) / (high - low).clamp_min(1e-8)).clamp(0, 1)
