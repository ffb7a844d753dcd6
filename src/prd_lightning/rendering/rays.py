"""Rays of several scenes, and which of them are worth following."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rays:
    """R rays of each of B scenes.

    Attributes:
        origins: [B, R, 3].
        directions: [B, R, 3], of length 1.
        near, far: [B, R] distances between which each is followed.
        hits: [B, R] bool, whether it meets what is to be seen (the bounding ball, the margin); those that do not stay empty.
        jitter: [B, R] place within its section, between 0 and 1, where each is sampled in the proposal pass.
    """

    origins: Tensor
    directions: Tensor
    near: Tensor
    far: Tensor
    hits: Tensor
    jitter: Tensor

    def points(self, distances: Tensor) -> Tensor:
        """[B, R, S, 3] points at [B, R, S] distances."""
        return self.origins[..., None, :] + distances[..., None] * self.directions[..., None, :]

    def take(self, index: Tensor) -> "Rays":
        """The rays with the numbers ``index`` ([B, K])."""
        values = (getattr(self, item.name) for item in fields(self))
        return Rays(*(value.gather(1, index) if value.ndim == 2 else gather_vectors(value, index) for value in values))


def wanted_first(wanted: Tensor) -> Tensor:
    """Numbers [B, K] of the rays that are ``wanted`` ([B, R] bool), K as many as the scene with the most has and at least one.

    Scenes with fewer are filled up with rays that are not.
    """
    most = max(1, int(wanted.sum(dim=1).max()))
    return wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]


def gather_vectors(vectors: Tensor, index: Tensor) -> Tensor:
    """[B, K, C] of [B, R, C] by numbers [B, K]."""
    return vectors.gather(1, index[..., None].expand(-1, -1, vectors.shape[-1]))


def scatter_vectors(vectors: Tensor, index: Tensor, count: int) -> Tensor:
    """[B, count, C] with the [B, K, C] vectors at the numbers [B, K] and zero elsewhere."""
    return vectors.new_zeros(len(index), count, vectors.shape[-1]).scatter(1, index[..., None].expand_as(vectors), vectors)
