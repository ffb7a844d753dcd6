"""Signs of a field that is too rough for bounds: sampled sparsely, refined near the surface with a measured margin.

The field is evaluated at every fourth point along each axis. How far it leaves the range of a block's eight corners is measured
in full at probes: the blocks nearest to the surface and blocks spread over the grid. Blocks whose corners come within SAFETY
times the largest excess of zero are evaluated at all of their points, and so is every block next to which a sign differs, until
none is left. A surface that is found anywhere is therefore followed to its end; only a whole piece that lies between sampled
points and rises above the margin can be missed (the measured rate is in docs/surface.md).
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

STRIDE = 4
PROBES = 384
SAFETY = 2.0
LARGEST_SHARE = 0.5
"""Share of the blocks to be evaluated beyond which evaluating all points in order takes no longer."""

Settle = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Indices along x, y and z of boxes of grid points, [N, a], [N, b] and [N, c], to [N, a, b, c] distances and insides."""


def _pairwise(values: Tensor, choose: Callable) -> Tensor:
    """``choose`` over the eight corners of every cell."""
    for axis in range(3):
        length = values.shape[axis] - 1
        values = choose(values.narrow(axis, 0, length), values.narrow(axis, 1, length))
    return values


def _beside_a_change(inside: Bool[Tensor, "cubes points"], count: int) -> Bool[Tensor, " cubes"]:
    """Blocks with a point whose neighbour in the next block has the other sign."""
    shaped = inside.view(count, count, count, STRIDE, STRIDE, STRIDE)
    touched = torch.zeros(count, count, count, dtype=torch.bool, device=inside.device)
    for axis in range(3):
        last = shaped.narrow(axis, 0, count - 1).select(3 + axis, STRIDE - 1)
        first = shaped.narrow(axis, 1, count - 1).select(3 + axis, 0)
        change = (last != first).flatten(3).any(dim=-1)
        touched.narrow(axis, 0, count - 1).logical_or_(change)
        touched.narrow(axis, 1, count - 1).logical_or_(change)
    return touched.flatten()


def sampled_signs(settle: Settle, side: int, device: torch.device) -> tuple[Bool[Tensor, "side side side"], int] | None:
    """Which grid points are inside, and how many were evaluated; None if most of the grid would have to be.

    Args:
        settle: evaluates boxes of grid points.
        side: points along each axis.
        device: of the grid.
    """
    count = -(-side // STRIDE)
    lattice = (torch.arange(count + 1, device=device) * STRIDE).clamp_max(side - 1)
    rows = lattice.expand(count + 1, -1)
    values = settle(lattice[:, None], rows, rows)[0][:, 0]
    low, high = (_pairwise(values, choose).flatten() for choose in (torch.minimum, torch.maximum))
    away = torch.maximum(low, -high).clamp_min(0)
    inside = (high < 0)[:, None].repeat(1, STRIDE**3)
    refined = torch.zeros_like(away, dtype=torch.bool)
    steps = torch.arange(STRIDE, device=device)

    def refine(blocks: Int[Tensor, " blocks"]) -> Tensor:
        corners = (blocks // count**2, blocks // count % count, blocks % count)
        # Points beyond the grid's end repeat it.
        distances, signs = settle(*((corner[:, None] * STRIDE + steps).clamp_max(side - 1) for corner in corners))
        inside[blocks], refined[blocks] = signs.flatten(1), True
        return distances.flatten(1)

    nearest = away.topk(min(PROBES, len(away)), largest=False).indices
    spread = torch.arange(0, len(away), max(1, len(away) // PROBES), device=device)
    probes = torch.cat([nearest, spread]).unique()
    measured = refine(probes)
    excess = torch.maximum(low[probes] - measured.amin(dim=1), measured.amax(dim=1) - high[probes]).clamp_min(0)
    wanted = (away <= SAFETY * excess.max()) & ~refined
    while wanted.any():
        if int(wanted.sum() + refined.sum()) > LARGEST_SHARE * len(refined):
            return None
        refine(wanted.nonzero().squeeze(1))
        wanted = _beside_a_change(inside, count) & ~refined
    volume = inside.view(count, count, count, STRIDE, STRIDE, STRIDE).permute(0, 3, 1, 4, 2, 5)
    volume = volume.reshape(count * STRIDE, count * STRIDE, count * STRIDE)
    return volume[:side, :side, :side].contiguous(), values.numel() + int(refined.sum()) * STRIDE**3
