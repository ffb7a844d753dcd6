"""Retrieval: at which place the right text stands when all texts are ordered by their similarity to a picture."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def ranks(similarity: Float[Tensor, "pictures texts"], right: Int[Tensor, " pictures"]) -> Int[Tensor, " pictures"]:
    """Place of the right text of each picture, 1 for the first; texts that are as similar as the right one come before it.

    A picture that tells nothing apart (all similarities equal) is thus no hit.
    """
    own = similarity.gather(1, right[:, None])
    others = torch.ones_like(similarity, dtype=torch.bool).scatter(1, right[:, None], False)
    return 1 + ((similarity >= own) & others).sum(dim=1)
