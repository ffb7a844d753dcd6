"""Adapters: the same layer whether it is computed in a branch, merged, or folded; new ones change nothing."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from prd_lightning.errors import ConfigurationError
from prd_lightning.generator.adapters import PLANES, AdaptedConv2d, AdaptedLinear

LINEAR_KINDS = [
    (per_plane, reads_output, bias) for per_plane in (False, True) for reads_output in (False, True) for bias in (False, True)
]


def linear(per_plane: bool, reads_output: bool, bias: bool = True, compute: str = "branch") -> AdaptedLinear:
    torch.manual_seed(3)
    layer = AdaptedLinear(nn.Linear(5, 7, bias=bias).double(), 3, per_plane, reads_output, compute)
    nn.init.normal_(layer.up)
    return layer


def convolution(stride: int = 1, compute: str = "branch") -> AdaptedConv2d:
    torch.manual_seed(4)
    layer = AdaptedConv2d(nn.Conv2d(4, 6, 3, stride=stride, padding=1).double(), 2, compute)
    nn.init.normal_(layer.up)
    return layer


def double_input(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def values_and_gradients(layer: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
    inputs = inputs.clone().requires_grad_()
    output = layer(inputs)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output, *torch.autograd.grad((output * weights).sum(), [inputs, layer.down, layer.up])]


@pytest.mark.parametrize(("per_plane", "reads_output", "bias"), LINEAR_KINDS)
def test_linear_branch_merged_and_folded_agree(per_plane: bool, reads_output: bool, bias: bool):
    inputs = double_input(2 * PLANES, 3, 5)
    branch = values_and_gradients(linear(per_plane, reads_output, bias), inputs)
    merged = values_and_gradients(linear(per_plane, reads_output, bias, "merged"), inputs)
    folded = linear(per_plane, reads_output, bias)
    folded.fold()
    for ours, other in zip(branch, merged, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(folded(inputs), branch[0], rtol=1e-12, atol=1e-12)
    assert not list(folded.parameters())


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_branch_merged_and_folded_agree(stride: int):
    inputs = double_input(2, 4, 6, 6)
    branch = values_and_gradients(convolution(stride), inputs)
    merged = values_and_gradients(convolution(stride, "merged"), inputs)
    folded = convolution(stride)
    folded.fold()
    for ours, other in zip(branch, merged, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(folded(inputs), branch[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("compute", ["branch", "merged"])
def test_linear_gradients_against_finite_differences(compute: str):
    layer = linear(True, True, compute=compute)

    def function(inputs: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"down": down, "up": up}, (inputs,))

    inputs = double_input(PLANES, 2, 5).requires_grad_()
    assert torch.autograd.gradcheck(function, (inputs, layer.down.detach().requires_grad_(), layer.up.detach().requires_grad_()))


@pytest.mark.parametrize("compute", ["branch", "merged"])
def test_a_new_adapter_changes_nothing(compute: str):
    base, picture_base = nn.Linear(5, 7).double(), nn.Conv2d(4, 6, 3, padding=1).double()
    inputs, picture = double_input(PLANES, 3, 5), double_input(2, 4, 6, 6)
    expected, expected_picture = deepcopy(base)(inputs), deepcopy(picture_base)(picture)
    torch.testing.assert_close(AdaptedLinear(base, 3, True, True, compute)(inputs), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(AdaptedConv2d(picture_base, 3, compute)(picture), expected_picture, rtol=1e-13, atol=1e-13)


def test_down_starts_with_standard_deviation_of_one_over_rank():
    layer = AdaptedLinear(nn.Linear(4000, 2), 8)
    assert layer.down.std().item() == pytest.approx(1 / 8, rel=0.02)
    assert not layer.up.any()


@pytest.mark.parametrize("compute", ["branch", "merged"])
@pytest.mark.parametrize("reads_output", [False, True])
def test_a_pair_acts_on_its_own_plane_only(compute: str, reads_output: bool):
    layer = linear(True, reads_output, compute=compute)
    inputs = double_input(2 * PLANES, 3, 5)
    before = layer(inputs).detach()
    with torch.no_grad():
        layer.up[2] += 1.0
    changed = (layer(inputs) - before).abs().flatten(1).amax(dim=1) > 1e-9
    assert changed.tolist() == [index % PLANES == 2 for index in range(2 * PLANES)]


@pytest.mark.parametrize("compute", ["branch", "merged"])
def test_the_output_pair_reads_the_projected_output(compute: str):
    layer, inputs = linear(False, True, compute=compute), double_input(4, 5)
    projected = inputs @ layer.base.weight.T + layer.base.bias
    expected = projected + projected @ layer.down[0].T @ layer.up[0].T
    torch.testing.assert_close(layer(inputs), expected, rtol=1e-12, atol=1e-12)


def test_the_input_pair_reads_the_input():
    layer, inputs = linear(False, False), double_input(4, 5)
    expected = inputs @ (layer.base.weight + layer.up[0] @ layer.down[0]).T + layer.base.bias
    torch.testing.assert_close(layer(inputs), expected, rtol=1e-12, atol=1e-12)


def test_only_the_pair_is_trainable():
    assert {name for name, value in linear(True, False).named_parameters() if value.requires_grad} == {"down", "up"}
    assert {name for name, value in convolution().named_parameters() if value.requires_grad} == {"down", "up"}


def test_a_rank_below_one_is_refused():
    with pytest.raises(ConfigurationError, match="at least 1, got 0"):
        AdaptedLinear(nn.Linear(2, 2), 0)
