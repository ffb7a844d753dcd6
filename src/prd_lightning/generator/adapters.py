"""Low-rank adapters around frozen linear layers and convolutions (LoRA, Hu et al. 2021, arXiv 2106.09685).

A pair (down, up) of rank r turns the frozen weight W into ``W + up down``. Pairs are shared by all planes, or there are six, one
for each plane. Two equivalent ways to compute the layer:

* ``branch``: base(x) + up(down(x)); saves the memory of a second weight and suits wide layers;
* ``merged``: one layer with the weight W + up down, built on the fly; suits narrow layers, where a branch costs almost as
  much as the base.

The pair of an attention's output projection may read the projected output (published weights depend on that):
``y = W h + b;  y + up(down(y))``, that is the layer ``(I + up down) W h + (I + up down) b``.
"""

from typing import Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from prd_lightning.errors import ConfigurationError

Compute = Literal["merged", "branch"]
PLANES = 6


def _low_rank_parameters(pairs: int, rank: int, outputs: int, down_shape: tuple[int, ...]) -> tuple[nn.Parameter, nn.Parameter]:
    """down ~ N(0, (1 / rank)^2) and up = 0, so that a new adapter changes nothing."""
    if rank < 1:
        raise ConfigurationError(f"an adapter's rank must be at least 1, got {rank}")
    down = nn.Parameter(torch.randn(pairs, rank, *down_shape) / rank)
    return down, nn.Parameter(torch.zeros(pairs, outputs, rank))


class AdaptedLinear(nn.Module):
    """A frozen linear layer with one shared low-rank pair or six per-plane pairs.

    Args:
        base: the frozen layer.
        rank: of each pair.
        per_plane: six pairs; the batch axis of the input is then ``scene * 6 + plane``.
        reads_output: the pair reads the projected output instead of the input.
        compute: see the module's docstring.
    """

    def __init__(
        self, base: nn.Linear, rank: int, per_plane: bool = False, reads_output: bool = False, compute: Compute = "branch"
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.pairs, self.reads_output, self.compute = PLANES if per_plane else 1, reads_output, compute
        inputs = base.out_features if reads_output else base.in_features
        self.down, self.up = _low_rank_parameters(self.pairs, rank, base.out_features, (inputs,))
        self.down.data, self.up.data = self.down.data.to(base.weight), self.up.data.to(base.weight)
        self.folded = False

    @property
    def adapters(self) -> dict[str, nn.Parameter]:
        """The trainable tensors by name."""
        return {"down": self.down, "up": self.up}

    def effective_weights(self) -> tuple[Float[Tensor, "pairs outputs inputs"], Float[Tensor, "pairs 1 outputs"] | None]:
        """Weight and bias of the equivalent plain layers, one for each pair."""
        weight, bias = self.base.weight, self.base.bias
        delta = self.up @ self.down
        if not self.reads_output:
            return weight + delta, None if bias is None else bias.expand(self.pairs, 1, -1)
        changed = None if bias is None else (bias + delta @ bias).unsqueeze(1)
        return weight + delta @ weight, changed

    def _grouped(self, values: Tensor) -> Tensor:
        """[B * 6, ..., C] to [B, 6, tokens, C] for per-plane weights."""
        return values.reshape(-1, self.pairs, values[0].numel() // values.shape[-1], values.shape[-1])

    def _merged(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.pairs == 1:
            return functional.linear(hidden, weight[0], None if bias is None else bias[0, 0])
        output = self._grouped(hidden) @ weight.transpose(1, 2)
        if bias is not None:
            output = output + bias
        return output.reshape(*hidden.shape[:-1], -1)

    def _branch(self, hidden: Tensor) -> Tensor:
        output = self.base(hidden)
        source = output if self.reads_output else hidden
        if self.pairs == 1:
            return output + functional.linear(functional.linear(source, self.down[0]), self.up[0])
        change = self._grouped(source) @ self.down.transpose(1, 2) @ self.up.transpose(1, 2)
        return output + change.reshape(output.shape)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        if self.folded:
            return self._merged(hidden, self.folded_weight, self.folded_bias)
        if self.compute == "merged":
            return self._merged(hidden, *self.effective_weights())
        return self._branch(hidden)

    @torch.no_grad()
    def fold(self) -> None:
        """Replaces base and pairs by the equivalent plain weights, for inference; there is no way back."""
        weight, bias = self.effective_weights()
        self.register_buffer("folded_weight", weight.clone())
        self.register_buffer("folded_bias", None if bias is None else bias.clone())
        self.base, self.down, self.up, self.folded = None, None, None, True


class AdaptedConv2d(nn.Module):
    """A frozen convolution with a shared low-rank pair: down with its kernel, stride and padding, up with 1x1."""

    def __init__(self, base: nn.Conv2d, rank: int, compute: Compute = "branch") -> None:
        super().__init__()
        self.base, self.compute, self.folded = base.requires_grad_(False), compute, False
        self.down, self.up = _low_rank_parameters(1, rank, base.out_channels, (base.in_channels, *base.kernel_size))
        self.down.data, self.up.data = self.down.data.to(base.weight), self.up.data.to(base.weight)
        self.stride, self.padding = base.stride, base.padding

    @property
    def adapters(self) -> dict[str, nn.Parameter]:
        """The trainable tensors by name."""
        return {"down": self.down, "up": self.up}

    def effective_weight(self) -> Float[Tensor, "outputs inputs rows columns"]:
        """Weight of the equivalent plain convolution."""
        return self.base.weight + (self.up[0] @ self.down[0].flatten(1)).view_as(self.base.weight)

    def forward(self, picture: Tensor, *unused: object) -> Tensor:
        """[B, in, H, W] to [B, out, H', W']."""
        if self.folded:
            return functional.conv2d(picture, self.folded_weight, self.folded_bias, self.stride, self.padding)
        if self.compute == "merged":
            return functional.conv2d(picture, self.effective_weight(), self.base.bias, self.stride, self.padding)
        change = functional.conv2d(picture, self.down[0], None, self.stride, self.padding)
        return self.base(picture) + functional.conv2d(change, self.up[0, :, :, None, None])

    @torch.no_grad()
    def fold(self) -> None:
        """Replaces base and pair by the equivalent plain weight, for inference; there is no way back."""
        self.register_buffer("folded_weight", self.effective_weight().clone())
        self.register_buffer("folded_bias", None if self.base.bias is None else self.base.bias.detach().clone())
        self.base, self.down, self.up, self.folded = None, None, None, True
