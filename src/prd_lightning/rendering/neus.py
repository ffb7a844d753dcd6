"""Opacity from signed distances in pure functions: NeuS (Wang et al. 2021, arXiv 2106.10689) and VolSDF.

NeuS: a section of a ray with signed distances s_prev, s_next at its ends is opaque to the degree

    alpha = clip((sigmoid(k s_prev) - sigmoid(k s_next) + 1e-5) / (sigmoid(k s_prev) + 1e-5), 0, 1)

where both are extrapolated from the middle with the slope -relu(-cos), cos = <direction, normal>, and
k = exp(10 * 0.4605) ~ 100 is the fixed inverse standard deviation. While the cosine is annealed (share a < 1) the slope is
-((1 - a) relu((1 - cos) / 2) + a relu(-cos)), so that surfaces that face away have a gradient too.

VolSDF (Yariv et al. 2021, arXiv 2106.12052): density = k Laplace(-s; 1/k), alpha = 1 - exp(-density length).

Weights are w_i = alpha_i prod_{j<i} (1 - alpha_j).
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

INVERSE_STANDARD_DEVIATION = math.exp(10 * 0.4605)
ALPHA_EPSILON = 1e-5
VOLSDF_SHARPEST = 80.0
"""The original lets VolSDF's density be no sharper than this."""

SurfaceModel = Literal["neus", "volsdf", "volsdf_linear"]


def neus_alpha(
    sdf: Float[Tensor, "*samples"],
    cosine: Float[Tensor, "*#samples"] | float,
    lengths: Float[Tensor, "*#samples"] | float,
    inverse_standard_deviation: float = INVERSE_STANDARD_DEVIATION,
    annealing: float = 1.0,
) -> Float[Tensor, "*samples"]:
    """Opacity of ray sections.

    Args:
        sdf: signed distance in the middle of each section.
        cosine: of the angle between ray and outward normal; a surface that faces away counts as parallel.
        lengths: of the sections.
        inverse_standard_deviation: k.
        annealing: a; 1 is NeuS as it is meant, smaller values are for the beginning of training.
    """
    cosine = torch.as_tensor(cosine, dtype=sdf.dtype, device=sdf.device)
    slope = -annealing * torch.relu(-cosine)
    if annealing != 1:
        slope = slope - (1 - annealing) * torch.relu(0.5 - 0.5 * cosine)
    half = slope * lengths * 0.5
    previous = torch.sigmoid((sdf - half) * inverse_standard_deviation)
    following = torch.sigmoid((sdf + half) * inverse_standard_deviation)
    return ((previous - following + ALPHA_EPSILON) / (previous + ALPHA_EPSILON)).clamp(0, 1)


def volsdf_density(
    sdf: Float[Tensor, "*samples"], inverse_standard_deviation: float = INVERSE_STANDARD_DEVIATION
) -> Float[Tensor, "*samples"]:
    """Density of VolSDF: k times the cumulative Laplace distribution of -sdf with the scale 1/k.

    Args:
        sdf: signed distance.
        inverse_standard_deviation: k, at most ``VOLSDF_SHARPEST``.
    """
    sharpness = min(inverse_standard_deviation, VOLSDF_SHARPEST)
    return sharpness * (0.5 + 0.5 * sdf.sign() * torch.expm1(-sdf.abs() * sharpness))


def volsdf_alpha(
    sdf: Float[Tensor, "*samples"],
    lengths: Float[Tensor, "*#samples"] | float,
    inverse_standard_deviation: float = INVERSE_STANDARD_DEVIATION,
    linear: bool = False,
) -> Float[Tensor, "*samples"]:
    """Opacity of ray sections by VolSDF.

    Args:
        sdf: signed distance in the middle of each section.
        lengths: of the sections.
        inverse_standard_deviation: k, at most ``VOLSDF_SHARPEST``.
        linear: the original's ``density * length`` instead of ``1 - exp(-density * length)``; it goes beyond 1 in long sections.
    """
    optical = volsdf_density(sdf, inverse_standard_deviation) * lengths
    return optical if linear else -torch.expm1(-optical)


def depth_variance(
    weights: Float[Tensor, "*rays samples"], middle: Float[Tensor, "*rays samples"], depth: Float[Tensor, "*rays 1"]
) -> Float[Tensor, "*rays 1"]:
    """``sum w_i (t_i - depth)^2`` of each ray: how far its weight is spread.

    Args:
        weights: of the sections.
        middle: distance of the sections.
        depth: ``sum w_i t_i``; it is not divided by the opacity, so rays that are not opaque have a variance too.
    """
    return (weights * (middle - depth).square()).sum(dim=-1, keepdim=True)


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
