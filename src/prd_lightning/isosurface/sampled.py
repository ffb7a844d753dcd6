"""Signs of a field that is too rough for bounds: sampled sparsely, refined near the surface with a measured margin.

The field is evaluated at every fourth point along each axis. How far it leaves the range of a block's eight corners is measured
in full at probes: the blocks nearest to the surface and blocks spread over the grid. Blocks whose corners come within SAFETY
times the largest excess of zero are evaluated at all of their points, and so is every block next to which a sign differs, until
none is left. A surface that is found anywhere is therefore followed to its end; only a whole piece that lies between sampled
points and rises above the margin can be missed (the measured rate is in docs/surface.md).
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

STRIDE = 4
PROBES = 384
SAFETY = 2.0

Settle = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Grid points to distances and whether they are inside."""


def _pairwise(values: Float[Tensor, "first second third"], choose: Callable) -> Tensor:
    """``choose`` over the eight corners of every cell."""
    for axis in range(3):
        length = values.shape[axis] - 1
        values = choose(values.narrow(axis, 0, length), values.narrow(axis, 1, length))
    return values


def _grid_points(blocks: Int[Tensor, " blocks"], count: int, side: int) -> Int[Tensor, "blocks points"]:
    """Points of blocks of STRIDE^3; those beyond the grid's end repeat it."""
    step = torch.arange(STRIDE, device=blocks.device)
    corner = (blocks // count**2, blocks // count % count, blocks % count)
    x, y, z = ((index[:, None] * STRIDE + step).clamp_max(side - 1) for index in corner)
    return ((x[:, :, None, None] * side + y[:, None, :, None]) * side + z[:, None, None]).flatten(1)


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


def sampled_signs(settle: Settle, side: int, device: torch.device) -> tuple[Bool[Tensor, "side side side"], int]:
    """Which grid points are inside, and how many were evaluated.

    Args:
        settle: evaluates grid points.
        side: points along each axis.
        device: of the grid.
    """
    count = -(-side // STRIDE)
    lattice = (torch.arange(count + 1, device=device) * STRIDE).clamp_max(side - 1)
    numbers = (lattice[:, None, None] * side + lattice[:, None]) * side + lattice
    values = settle(numbers.flatten())[0].view(count + 1, count + 1, count + 1)
    low, high = (_pairwise(values, choose).flatten() for choose in (torch.minimum, torch.maximum))
    away = torch.maximum(low, -high).clamp_min(0)
    inside = (high < 0)[:, None].repeat(1, STRIDE**3)
    refined = torch.zeros_like(away, dtype=torch.bool)
    evaluated = numbers.numel()

    def refine(blocks: Tensor) -> Tensor:
        distances, signs = settle(_grid_points(blocks, count, side).flatten())
        inside[blocks], refined[blocks] = signs.view(len(blocks), -1), True
        return distances.view(len(blocks), -1)

    nearest = away.topk(min(PROBES, len(away)), largest=False).indices
    spread = torch.arange(0, len(away), max(1, len(away) // PROBES), device=device)
    probes = torch.cat([nearest, spread]).unique()
    measured = refine(probes)
    excess = torch.maximum(low[probes] - measured.amin(dim=1), measured.amax(dim=1) - high[probes]).clamp_min(0)
    wanted = (away <= SAFETY * excess.max()) & ~refined
    while wanted.any():
        refine(wanted.nonzero().squeeze(1))
        wanted = _beside_a_change(inside, count) & ~refined
    evaluated += int(refined.sum()) * STRIDE**3
    volume = inside.view(count, count, count, STRIDE, STRIDE, STRIDE).permute(0, 3, 1, 4, 2, 5)
    volume = volume.reshape(count * STRIDE, count * STRIDE, count * STRIDE)
    return volume[:side, :side, :side].contiguous(), evaluated
