"""What goes into a teacher's network, and what a teacher says about maps."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prd_lightning.rendering import RenderedMaps


@dataclass(frozen=True)
class TeacherResult:
    """What a teacher says about rendered maps.

    Attributes:
        loss: scalar without a graph.
        gradients: for each renderer, for each map that was looked at, the gradient of ``loss`` with respect to the map.
        log: further numbers for the logger.
        nonfinite: predictions that were NaN or infinite; their gradient is zero.
    """

    loss: Tensor
    gradients: dict[str, dict[str, Tensor]]
    log: dict[str, float] = field(default_factory=dict)
    nonfinite: int = 0


@dataclass(frozen=True)
class TeacherInput:
    """What a subclass makes of maps: clean samples, their text, and their cameras.

    Attributes:
        clean: [N, C, h, w] samples, differentiable in the maps.
        pictures: [N, C', H, W] in [0, 1] that the samples encode (the samples themselves without a VAE), differentiable too.
        prompts: one for each of the N / ``samples_per_prompt`` groups of samples.
        samples_per_prompt: adjacent samples that share a text.
        labels: [N, 16] camera numbers, or None.
        groups: renderers, outermost on the axis of samples; prompts lie within.
    """

    clean: Tensor
    pictures: Tensor
    prompts: list[str]
    samples_per_prompt: int
    labels: Tensor | None = None
    groups: int = 1


def surrogate_loss(maps: Mapping[str, RenderedMaps], result: TeacherResult) -> Tensor:
    """A scalar with the teacher's loss as its value and the teacher's gradients with respect to the maps.

    The teacher has already freed its own graph; this is the single path back through renderer and generator.
    """
    terms = [
        (getattr(maps[renderer], name) * gradient).sum()
        for renderer, gradients in result.gradients.items()
        for name, gradient in gradients.items()
    ]
    linear = torch.stack(terms).sum() if terms else next(iter(maps.values())).rgb.sum() * 0.0
    return linear - linear.detach() + result.loss.detach()
