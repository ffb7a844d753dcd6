"""A learning rate of its own for colour: what has it, and that a step is multiplied by the factor whatever the optimizer."""

from functools import partial

import pytest
import torch
from pytorch_optimizer import Adan
from torch import nn
from untrained import ARCHITECTURE

from prd_lightning.errors import ConfigurationError
from prd_lightning.optimization import color_rows, make_optimizer

OPTIMIZERS = {
    "adan": partial(Adan, lr=0.01),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    "sgd": partial(torch.optim.SGD, lr=0.01, momentum=0.9),
}


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(3)
    return ARCHITECTURE.build()


def trained(parts) -> list[nn.Parameter]:
    return [value for part in (parts.generator, parts.field) for value in part.parameters() if value.requires_grad]


def changes(parts, factory, factor: float) -> dict[nn.Parameter, torch.Tensor]:
    """What the first step changes, with gradients that depend on the parameter alone; the weights are put back."""
    parameters = trained(parts)
    before = [value.detach().clone() for value in parameters]
    optimizer = make_optimizer(factory, parameters, parts.generator, parts.field, factor)
    draw = torch.Generator().manual_seed(1)
    for value in parameters:
        value.grad = torch.randn(value.shape, generator=draw)
    optimizer.step()
    with torch.no_grad():
        made = {value: value - old for value, old in zip(parameters, before)}
        for value, old in zip(parameters, before):
            value.copy_(old)
            value.grad = None
    return made


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_step_of_colour_is_multiplied_and_nothing_else_is(parts, close, name):
    plain, scaled = (changes(parts, OPTIMIZERS[name], factor) for factor in (1.0, 3.0))
    color, rows, multiplied = set(parts.field.texture_network.parameters()), color_rows(parts.generator), 0
    for value, change in plain.items():
        expected = change.clone()
        selected = slice(None) if value in color else rows.get(value, slice(0))
        expected[selected] *= 3
        multiplied += expected[selected].numel()
        close(scaled[value], expected, 1e-4)
        assert change.any()
    assert multiplied > sum(value.numel() for value in color)


def test_the_rows_act_on_texture_planes_alone(parts):
    """Changing them moves planes 3-5 and leaves planes 0-2 alone, in each layer by itself (joint attention mixes planes)."""
    rows = color_rows(parts.generator)
    last = parts.generator.decoder.conv_out
    assert {last.weight, last.bias} <= rows.keys()
    latents = torch.randn(6, *parts.generator.latent_shape)
    with torch.no_grad():
        before = parts.generator.decode(latents)
        last.weight[rows[last.weight]] += 0.1
        after = parts.generator.decode(latents)
        last.weight[rows[last.weight]] -= 0.1
    assert torch.equal(before[:, :3], after[:, :3]) and not torch.equal(before[:, 3:], after[:, 3:])
    layer = next(layer for _, layer in parts.generator.adapted_layers() if getattr(layer, "pairs", 1) == 6)
    hidden = torch.randn(6, 5, layer.base.in_features)
    with torch.no_grad():
        before = layer(hidden)
        layer.up[rows[layer.up]] += 0.1
        after = layer(hidden)
        layer.up[rows[layer.up]] -= 0.1
    assert torch.equal(before[:3], after[:3]) and not torch.equal(before[3:], after[3:])


def test_a_schedule_multiplies_both_learning_rates(parts):
    optimizer = make_optimizer(OPTIMIZERS["adamw"], trained(parts), parts.generator, parts.field, 2.0)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.005, 0.01]


def test_without_a_factor_there_is_one_group_so_that_earlier_checkpoints_fit(parts):
    optimizer = make_optimizer(OPTIMIZERS["adan"], trained(parts), parts.generator, parts.field, 1.0)
    assert len(optimizer.param_groups) == 1


def test_a_negative_factor(parts):
    with pytest.raises(ConfigurationError, match="must not be negative, got -1"):
        make_optimizer(OPTIMIZERS["sgd"], trained(parts), parts.generator, parts.field, -1)
