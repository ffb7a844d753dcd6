"""What autograd keeps for one prompt's backward pass at the published size: ``python -m benchmarks.activations``.

The networks are built on the device ``meta``, which has shapes and no values, so this takes neither memory nor a GPU. Attention
counts as a kernel that keeps queries, keys, values and its output, as those of GPUs do. Bytes are those of 32 bits.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from benchmarks.full_size import RECIPE, full_size
from prd_lightning.configuration import compose_config, plain
from prd_lightning.formats.multiview import VAE
from prd_lightning.memory import checkpoint_gradients


def kept_bytes(function: Callable[[], Any], parameters: list[Tensor]) -> int:
    """Bytes that autograd keeps of ``function``, without the ``parameters``; each storage counts once."""
    own = {value.untyped_storage()._cdata for value in parameters}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        result = function()  # its graph must live until all is counted
    total = sum(storage.nbytes() for storage in kept.values())
    del result
    return total


class EfficientAttention(torch.autograd.Function):
    """Shapes, and what is kept, of attention that never writes its matrix down."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[..., tokens, width]."""
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output)
        return output


@contextmanager
def efficient_attention() -> Iterator[None]:
    """On ``meta`` PyTorch would count the matrices of its reference implementation."""
    original = nn.functional.scaled_dot_product_attention
    nn.functional.scaled_dot_product_attention = lambda query, key, value, *_, **__: EfficientAttention.apply(query, key, value)
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = original


def generator_bytes(checkpointed: bool) -> int:
    """Of UNet and decoder, for the six latents of one prompt."""
    numbers = plain(compose_config(RECIPE))["generator"]
    generator, _ = full_size(numbers, "meta")
    if checkpointed:
        checkpoint_gradients(generator)
    size = numbers["latent_size"]
    latents, text = torch.empty(6, 4, size, size, device="meta"), torch.empty(1, 77, numbers["text_width"], device="meta")
    return kept_bytes(
        lambda: generator.decode(latents - generator.predict(latents, 500, text)), list(generator.parameters())
    )


def encoder_bytes(pictures: int, size: int) -> int:
    """Of the autoencoder's encoder, whose gradient goes to the pictures."""
    with torch.device("meta"):
        vae = AutoencoderKL(**VAE).requires_grad_(False)
        given = torch.empty(pictures, 3, size, size, requires_grad=True)
    return kept_bytes(lambda: vae.encode(given).latent_dist.mean, list(vae.parameters()))


def main() -> None:
    """Prints gigabytes as JSON."""
    with efficient_attention():
        found = {
            "generator": generator_bytes(checkpointed=False),
            "generator, checkpointed": generator_bytes(checkpointed=True),
            "encoder, 2 pictures of 512 x 512": encoder_bytes(2, 512),
            "encoder, 8 pictures of 256 x 256": encoder_bytes(8, 256),
        }
    print(json.dumps({name: round(size / 1e9, 1) for name, size in found.items()}, indent=1))


if __name__ == "__main__":
    main()
