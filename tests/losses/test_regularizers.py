"""Regularizers in closed form."""

import pytest
import torch

from prd_lightning.losses import eikonal, sparsity


def test_eikonal_is_zero_for_unit_gradients():
    assert eikonal(torch.nn.functional.normalize(torch.randn(20, 3), dim=-1)).item() == pytest.approx(0.0, abs=1e-12)


def test_eikonal_weighs_scenes_equally_and_leaves_out_what_does_not_count():
    gradient = torch.tensor([[[2.0, 0, 0], [3.0, 0, 0]], [[0, 0, 0], [torch.nan, 0, 0]]])
    counted = torch.tensor([[True, True], [True, False]])
    assert eikonal(gradient, counted).item() == pytest.approx(((1 + 4) / 2 + 1) / 2)
    assert eikonal(gradient, torch.zeros(2, 2, dtype=torch.bool)).item() == 0.0


def test_eikonal_of_known_lengths():
    assert eikonal(torch.tensor([[2.0, 0, 0], [0, 0.5, 0], [0, 0, 0]])).item() == pytest.approx((1 + 0.25 + 1) / 3)


def test_eikonal_gradient():
    assert torch.autograd.gradcheck(eikonal, torch.randn(6, 3, dtype=torch.float64).requires_grad_())


def test_eikonal_has_a_finite_gradient_at_zero():
    gradient = torch.zeros(2, 3, requires_grad=True)
    eikonal(gradient).backward()
    assert torch.isfinite(gradient.grad).all()


def test_sparsity_of_known_opacities():
    opacity = torch.tensor([0.0, 1.0, 0.5]).view(1, 1, 3, 1)
    assert sparsity(opacity).item() == pytest.approx((0.1 + 1.01**0.5 + 0.26**0.5) / 3)


def test_sparsity_gradient():
    assert torch.autograd.gradcheck(sparsity, torch.rand(1, 2, 3, 1, dtype=torch.float64).requires_grad_())
