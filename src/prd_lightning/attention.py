"""Scaled dot-product attention that is fast to train with on the CPU too."""

import torch
import torch.nn.functional as functional
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention of [B, heads, tokens, width].

    On the CPU it is computed in 32 bits: PyTorch's backward pass in bfloat16 takes six times as long there.
    """
    if query.device.type != "cpu":
        return functional.scaled_dot_product_attention(query, key, value, scale=scale)
    wide = [given.float() if given.dtype in (torch.bfloat16, torch.float16) else given for given in (query, key, value)]
    with torch.autocast("cpu", enabled=False):
        return functional.scaled_dot_product_attention(*wide, scale=scale).to(query.dtype)
