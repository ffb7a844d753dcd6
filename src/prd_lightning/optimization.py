"""Learning rates that differ between what is trained.

Colour is learned later than shape, so it may have a learning rate of its own: the field's colour network, and the parts of the
adapters that only the texture planes have. The latter are rows of tensors that the geometry planes have rows in too (planes 3-5
of a per-plane pair, the second half of the decoder's last channels). With the step ``p -> p + d`` that the optimizer makes,
``p + f d`` is the step of a learning rate that is f times as large, since d is proportional to the learning rate (but for Adan's
weight decay, a division by ``1 + lr * decay``, where it holds to first order).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from prd_lightning.errors import ConfigurationError
from prd_lightning.field import TriplaneField
from prd_lightning.generator import PLANES, AdaptedLinear, TriplaneGenerator

OptimizerFactory = Callable[[list], torch.optim.Optimizer]


def color_rows(generator: TriplaneGenerator) -> dict[nn.Parameter, slice]:
    """Rows along the first axis that act on the texture planes alone."""
    rows: dict[nn.Parameter, slice] = {}
    for _, layer in generator.adapted_layers():
        if isinstance(layer, AdaptedLinear) and layer.pairs == PLANES:
            rows |= {parameter: slice(PLANES // 2, PLANES) for parameter in layer.adapters.values()}
    channels = slice(generator.plane_channels // 2, generator.plane_channels)
    return rows | {parameter: channels for parameter in generator.decoder.conv_out.parameters()}


def make_optimizer(
    factory: OptimizerFactory, parameters: list[nn.Parameter], generator: TriplaneGenerator, field: TriplaneField, factor: float
) -> torch.optim.Optimizer:
    """The optimizer of ``parameters``, with ``factor`` times the learning rate for colour.

    Raises:
        ConfigurationError: the factor is negative.
    """
    if factor < 0:
        raise ConfigurationError(f"color_learning_rate_factor must not be negative, got {factor}")
    if factor == 1:
        return factory(parameters)
    color = set(field.texture_network.parameters())
    groups = [[value for value in parameters if (value in color) is is_color] for is_color in (False, True)]
    optimizer = factory([{"params": group} for group in groups])
    optimizer.param_groups[1]["lr"] *= factor
    scale_steps(optimizer, color_rows(generator), factor)
    return optimizer


def scale_steps(optimizer: torch.optim.Optimizer, rows: Mapping[nn.Parameter, slice], factor: float) -> None:
    """Multiplies what a step changes in some rows of some parameters by ``factor``."""
    before: dict[nn.Parameter, Tensor] = {}

    @torch.no_grad()
    def remember(*_: object) -> None:
        before.update({parameter: parameter.detach().clone() for parameter in rows if parameter.grad is not None})

    @torch.no_grad()
    def scale(*_: object) -> None:
        for parameter, old in before.items():
            factors = _row_factors(parameter, rows[parameter], factor)
            parameter.copy_(torch.where(factors == 1, parameter, old + factors * (parameter - old)))
        before.clear()

    optimizer.register_step_pre_hook(remember)
    optimizer.register_step_post_hook(scale)


def _row_factors(parameter: nn.Parameter, rows: slice, factor: float) -> Tensor:
    """One factor a row."""
    factors = torch.ones(len(parameter), *[1] * (parameter.dim() - 1), dtype=parameter.dtype, device=parameter.device)
    factors[rows] = factor
    return factors
