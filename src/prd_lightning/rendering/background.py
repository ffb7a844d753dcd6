"""What is seen where no object is."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prd_lightning.errors import ConfigurationError


class WhiteBackground(nn.Module):
    """White everywhere."""

    def forward(
        self, directions: Float[Tensor, "views height width 3"], pooled: Float[Tensor, "batch text_width"] | None = None
    ) -> Float[Tensor, "views height width 3"]:
        """Ones in the shape of ``directions``."""
        return torch.ones_like(directions)


class LearnedBackground(nn.Module):
    """A small environment map conditioned on the text.

    A direction d is encoded as (1, d, sin(2^j pi d), cos(2^j pi d)); a matrix predicted from the pooled prompt turns the code
    into a colour: ``sigmoid(M(prompt) code(d) + bias)``. It starts as a nearly uniform bright picture, so that in the first
    steps the object is told from its background by its colour.

    Args:
        text_width: width of the pooled prompt.
        frequencies: octaves of the direction's encoding.
        initial_level: brightness in (0, 1) before training.
    """

    def __init__(self, text_width: int, frequencies: int = 2, initial_level: float = 0.97) -> None:
        super().__init__()
        if not 0 < initial_level < 1:
            raise ConfigurationError(f"initial_level must lie strictly between 0 and 1, got {initial_level}")
        self.frequencies = frequencies
        self.code_width = 4 + 6 * frequencies
        self.matrix = nn.Linear(text_width, 3 * self.code_width)
        self.bias = nn.Parameter(torch.full((3,), float(torch.logit(torch.tensor(initial_level)))))
        nn.init.zeros_(self.matrix.weight)
        nn.init.zeros_(self.matrix.bias)

    def encode(self, directions: Float[Tensor, "*rays 3"]) -> Float[Tensor, "*rays code"]:
        """The code of unit directions."""
        codes = [torch.ones_like(directions[..., :1]), directions]
        for octave in range(self.frequencies):
            angle = directions * (torch.pi * 2**octave)
            codes += [angle.sin(), angle.cos()]
        return torch.cat(codes, dim=-1)

    def forward(
        self, directions: Float[Tensor, "views height width 3"], pooled: Float[Tensor, "batch text_width"]
    ) -> Float[Tensor, "views height width 3"]:
        """Colours in (0, 1); the V directions are prompt-major, V a multiple of the number of prompts."""
        matrix = self.matrix(pooled).unflatten(-1, (3, self.code_width))
        matrix = matrix.repeat_interleave(directions.shape[0] // pooled.shape[0], dim=0)
        return torch.sigmoid(torch.einsum("vck,vhwk->vhwc", matrix, self.encode(directions)) + self.bias)
