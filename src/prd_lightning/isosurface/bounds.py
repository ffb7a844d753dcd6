"""Linear bounds of a small ReLU network over boxes of its first layer (Zhang et al. 2018, arXiv 1811.00866, called CROWN).

With z the first layer's values, low <= z <= high, and f(z) = w3 relu(W2 relu(z)), a ReLU on [l, u] lies between two lines:

    s x  <=  relu(x)  <=  u / (u - l) (x - l)        where l < 0 < u,  s = 1 if u > -l, else 0

and is x or 0 elsewhere. Put in from the last layer backwards, each with the line that the coefficient's sign asks for, they give

    a . z + b  <=  f(z)  <=  a' . z + b'              for all z of the box

The bounds hold for every network; they are tight where few units change their sign within the box, and exact where none does.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def relu_lines(
    low: Float[Tensor, "boxes units"], high: Float[Tensor, "boxes units"]
) -> tuple[Float[Tensor, "boxes units"], Float[Tensor, "boxes units"], Float[Tensor, "boxes units"]]:
    """Slope of the lower line through zero, slope and offset of the upper line of each ReLU."""
    open_units = (low < 0) & (high > 0)
    fixed = (low >= 0).to(low)
    slope = torch.where(open_units, high / (high - low), fixed)
    offset = torch.where(open_units, -slope * low, torch.zeros_like(low))
    return torch.where(open_units, (high > -low).to(low), fixed), slope, offset


def _put_in(
    weights: Float[Tensor, "boxes units"], lines: tuple[Tensor, Tensor, Tensor]
) -> tuple[Float[Tensor, "boxes units"], Float[Tensor, " boxes"]]:
    """Coefficients and offset of a lower bound of ``weights . relu(x)``."""
    lower, upper, offset = lines
    negative = weights.clamp_max(0)
    return weights.clamp_min(0) * lower + negative * upper, (negative * offset).sum(dim=-1)


def linear_bounds(
    low: Float[Tensor, "boxes units"],
    high: Float[Tensor, "boxes units"],
    second: Float[Tensor, "hidden units"],
    last: Float[Tensor, " hidden"],
) -> tuple[Float[Tensor, "boxes 2 units"], Float[Tensor, "boxes 2"]]:
    """Coefficients and offsets of lower bounds of f and of -f over each box.

    Args:
        low, high: bounds of the first layer's values.
        second, last: W2 and w3.
    """
    low_hidden, high_hidden = low.relu(), high.relu()
    middle = (0.5 * (low_hidden + high_hidden)) @ second.T
    radius = (0.5 * (high_hidden - low_hidden)) @ second.abs().T
    first_lines, second_lines = relu_lines(low, high), relu_lines(middle - radius, middle + radius)
    coefficients, offsets = [], []
    for sign in (1.0, -1.0):
        hidden, offset = _put_in((sign * last).expand_as(middle), second_lines)
        values, first_offset = _put_in(hidden @ second, first_lines)
        coefficients.append(values)
        offsets.append(offset + first_offset)
    return torch.stack(coefficients, dim=1), torch.stack(offsets, dim=1)
