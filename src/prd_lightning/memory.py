"""Less memory for more arithmetic: activations are computed again in the backward pass (Chen et al., arXiv 1604.06174)."""

from functools import partial

from torch.utils.checkpoint import checkpoint

from prd_lightning.generator import TriplaneGenerator


def checkpoint_gradients(generator: TriplaneGenerator) -> None:
    """Makes every block of UNet and decoder keep its input alone; gradients stay the same."""
    for network in (generator.unet, generator.decoder):
        for part in network.modules():
            if hasattr(part, "gradient_checkpointing"):
                part._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
                part.gradient_checkpointing = True
