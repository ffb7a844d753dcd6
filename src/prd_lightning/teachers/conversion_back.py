"""The other way: names of diffusers networks to those of the original latent-diffusion layout (see ``conversion``)."""

import re
from collections.abc import Mapping

from torch import Tensor

from prd_lightning.errors import CheckpointFormatError
from prd_lightning.teachers.conversion import (
    _EMBEDDINGS,
    _MIDDLE,
    _RESIDUAL,
    _VAE_ATTENTION,
    UNET_PREFIX,
    VAE_PREFIX,
)

_EMBEDDINGS_BACK = {ours: theirs for theirs, ours in _EMBEDDINGS.items()}
_RESIDUAL_BACK = {ours: theirs for theirs, ours in _RESIDUAL.items()}
_MIDDLE_BACK = {ours: theirs for theirs, ours in _MIDDLE.items()}
_VAE_ATTENTION_BACK = {ours: theirs for theirs, ours in _VAE_ATTENTION.items()}


def original_unet_key(name: str, layers: int, attended: frozenset[int]) -> str | None:
    """The original name of a tensor of a diffusers UNet, None if the original has no such tensor.

    Args:
        name: as in the network's ``state_dict``.
        layers: residual layers of each resolution.
        attended: numbers of the ``up_blocks`` that have attention; there the upsampler is an entry's third member.
    """
    stem, _, part = name.rpartition(".")
    if stem in _EMBEDDINGS_BACK:
        return f"{_EMBEDDINGS_BACK[stem]}.{part}"
    if match := re.fullmatch(r"mid_block\.((?:resnets|attentions)\.\d)\.(.+)", name):
        return _original_member(f"middle_block.{_MIDDLE_BACK.get(match[1])}", match[1], match[2])
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|(?:down|up)samplers)\.(\d+)\.(.+)", name):
        going_down, block, kind, layer, rest = match[1] == "down", int(match[2]), match[3], int(match[4]), match[5]
        if kind.endswith("samplers"):
            member = "0.op" if going_down else f"{2 if block in attended else 1}.conv"
            layer = layers
        else:
            member = "0" if kind == "resnets" else "1"
        number = block * (layers + 1) + layer + (1 if going_down else 0)
        place = f"{'input' if going_down else 'output'}_blocks.{number}.{member}"
        return f"{place}.{rest.removeprefix('conv.')}" if kind.endswith("samplers") else _original_member(place, kind, rest)
    return None


def _original_member(place: str, kind: str, rest: str) -> str | None:
    if kind.startswith("attentions"):
        return f"{place}.{rest}"
    stem, _, part = rest.rpartition(".")
    return f"{place}.{_RESIDUAL_BACK[stem]}.{part}" if stem in _RESIDUAL_BACK else None


def original_vae_key(name: str, resolutions: int) -> str | None:
    """The original name of a tensor of a diffusers autoencoder, None if the original has no such tensor."""
    if re.fullmatch(r"(post_)?quant_conv\.\w+|(en|de)coder\.conv_(in|out)\.\w+", name):
        return name
    if match := re.fullmatch(r"((?:en|de)coder)\.conv_norm_out\.(\w+)", name):
        return f"{match[1]}.norm_out.{match[2]}"
    if match := re.fullmatch(r"((?:en|de)coder)\.mid_block\.resnets\.([01])\.(.+)", name):
        return f"{match[1]}.mid.block_{int(match[2]) + 1}.{match[3].replace('conv_shortcut.', 'nin_shortcut.')}"
    if match := re.fullmatch(r"((?:en|de)coder)\.mid_block\.attentions\.0\.(.+)\.(\w+)", name):
        return f"{match[1]}.mid.attn_1.{_VAE_ATTENTION_BACK[match[2]]}.{match[3]}" if match[2] in _VAE_ATTENTION_BACK else None
    if match := re.fullmatch(r"(en|de)coder\.(down|up)_blocks\.(\d+)\.(?:resnets\.(\d+)|(?:down|up)samplers\.0)\.(.+)", name):
        number = int(match[3]) if match[2] == "down" else resolutions - 1 - int(match[3])
        place = f"{match[1]}coder.{match[2]}.{number}"
        rest = match[5].replace("conv_shortcut.", "nin_shortcut.")
        return f"{place}.block.{match[4]}.{rest}" if match[4] else f"{place}.{match[2]}sample.{rest}"
    return None


def unet_state_to_ldm(state: Mapping[str, Tensor], layers: int = 2) -> dict[str, Tensor]:
    """The inverse of ``unet_state_from_ldm``.

    Raises:
        CheckpointFormatError: the original layout has no place for a tensor.
    """
    attended = frozenset(int(match[1]) for name in state if (match := re.match(r"up_blocks\.(\d+)\.attentions\.", name)))
    return _named(state, UNET_PREFIX, {name: original_unet_key(name, layers, attended) for name in state})


def vae_state_to_ldm(state: Mapping[str, Tensor], resolutions: int = 4) -> dict[str, Tensor]:
    """The inverse of ``vae_state_from_ldm``: matrices of the attention become 1x1 kernels again.

    Raises:
        CheckpointFormatError: the original layout has no place for a tensor.
    """
    kernels = {
        name: value[..., None, None] if ".attentions." in name and value.ndim == 2 else value for name, value in state.items()
    }
    return _named(kernels, VAE_PREFIX, {name: original_vae_key(name, resolutions) for name in state})


def _named(state: Mapping[str, Tensor], prefix: str, names: Mapping[str, str | None]) -> dict[str, Tensor]:
    if homeless := sorted(name for name, original in names.items() if original is None):
        raise CheckpointFormatError(
            f"the original layout has no place for {len(homeless)} tensors, e.g. {', '.join(homeless[:3])}"
        )
    return {f"{prefix}{names[name]}": value for name, value in state.items()}
