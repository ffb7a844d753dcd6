"""Linear bounds of a ReLU network: valid on random boxes, exact where no unit changes its sign."""

import pytest
import torch

from prd_lightning.isosurface.bounds import linear_bounds, relu_lines

UNITS, HIDDEN = 12, 9


@pytest.fixture
def network():
    second = torch.randn(HIDDEN, UNITS, dtype=torch.float64)
    return second, torch.randn(HIDDEN, dtype=torch.float64)


def value(network, z):
    second, last = network
    return (z.relu() @ second.T).relu() @ last


@pytest.mark.parametrize("width", [0.02, 0.3, 3.0])
def test_bounds_hold_everywhere_in_the_box(network, width):
    middle = torch.randn(40, UNITS, dtype=torch.float64)
    radius = width * torch.rand(40, UNITS, dtype=torch.float64)
    coefficients, offsets = linear_bounds(middle - radius, middle + radius, *network)
    # Corners of the boxes, where a linear function is extreme, and points within.
    z = (
        middle[:, None]
        + radius[:, None] * torch.cat([torch.randn(40, 300, UNITS).sign(), 2 * torch.rand(40, 300, UNITS) - 1], dim=1).double()
    )
    lower = (z * coefficients[:, None, 0]).sum(-1) + offsets[:, None, 0]
    upper = -(z * coefficients[:, None, 1]).sum(-1) - offsets[:, None, 1]
    exact = value(network, z)
    assert (lower <= exact + 1e-9).all() and (exact <= upper + 1e-9).all()
    assert (upper - lower).mean() > 0


def test_bounds_are_exact_where_no_unit_changes_its_sign(network):
    middle = torch.randn(30, UNITS, dtype=torch.float64)
    middle = middle.sign() * middle.abs().clamp_min(0.1)
    radius = torch.full_like(middle, 1e-6)
    coefficients, offsets = linear_bounds(middle - radius, middle + radius, *network)
    exact = value(network, middle)
    for index, sign in ((0, 1.0), (1, -1.0)):
        bound = sign * ((middle * coefficients[:, index]).sum(-1) + offsets[:, index])
        torch.testing.assert_close(bound, exact)


def test_lines_enclose_the_relu():
    low, high = torch.tensor([[-2.0, -1.0, 0.5, -3.0]]), torch.tensor([[1.0, 4.0, 2.0, -1.0]])
    lower, slope, offset = relu_lines(low, high)
    x = low + (high - low) * torch.linspace(0, 1, 50)[:, None]
    assert (lower * x <= x.relu() + 1e-6).all() and (x.relu() <= slope * x + offset + 1e-6).all()
    assert lower[0].tolist() == [0.0, 1.0, 1.0, 0.0]
