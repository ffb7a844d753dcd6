"""Normals inside the loss: the closed-form gradient of the field against central differences of it."""

import torch
from torch import Tensor

from benchmarks.measuring import Result, Settings, graph_bytes, make_cases, measure
from prd_lightning.field import PreparedPlanes, TriplaneField
from prd_lightning.losses import eikonal

STEP = 1e-3
CLOSED, DIFFERENCES, DISTANCE = "closed form", "central differences", "distance alone"


def difference_gradient(field: TriplaneField, prepared: PreparedPlanes, points: Tensor) -> tuple[Tensor, Tensor]:
    """[B, N] distances and [B, N, 3] central differences: seven look-ups of each point."""
    slopes = []
    for axis in range(3):
        offset = torch.zeros_like(points[0, 0])
        offset[axis] = STEP
        slopes.append((field.sdf(prepared, points + offset) - field.sdf(prepared, points - offset)) / (2 * STEP))
    return field.sdf(prepared, points), torch.stack(slopes, dim=-1)


def build(settings: Settings) -> Result:
    """Forward and backward pass of the eikonal loss at random points, with planes as large as the real ones."""
    size, channels, count = (8, 4, 64) if settings.smallest else (256, 32, 40_000)
    torch.manual_seed(0)
    field = TriplaneField(channels).to(settings.device)
    planes = torch.randn(1, 6, channels, size, size, device=settings.device).mul_(0.1).requires_grad_()
    points = torch.rand(1, count, 3, device=settings.device) * 2 - 1

    def closed() -> Tensor:
        value, gradient = field.sdf_and_gradient(field.prepare(planes), points)
        return value.mean() + eikonal(gradient.flatten(0, 1))

    def differences() -> Tensor:
        value, gradient = difference_gradient(field, field.prepare(planes), points)
        return value.mean() + eikonal(gradient.flatten(0, 1))

    def distance() -> Tensor:
        return field.sdf(field.prepare(planes), points).mean()

    losses = {CLOSED: closed, DIFFERENCES: differences, DISTANCE: distance}
    rounds = measure({name: lambda loss=loss: loss().backward() for name, loss in losses.items()}, settings)
    graphs = {name: graph_bytes(loss) for name, loss in losses.items()}
    sizes = {"points": count, "plane_size": size, "channels": channels}
    title = "normals of the field, forward and backward"
    return Result(title, sizes, make_cases(rounds, CLOSED, graphs=graphs))
