"""Original multi-view checkpoints (the latent-diffusion layout of MVDream and RichDreamer) to diffusers networks.

The original UNet numbers its blocks in one list: ``input_blocks.0`` is the first convolution, then every resolution has its
residual layers and, except the last one, a downsampler; ``output_blocks`` has one layer more at each resolution, and the
upsampler sits in the last of them. An entry's members are ``.0`` the residual block, ``.1`` the attention if there is one, and
the upsampler. The camera's two-layer MLP is diffusers' class embedding. Conversion is strict: a key that is left over on either
side is an error.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from prd_lightning.errors import CheckpointFormatError
from prd_lightning.tensorfiles import read_tensors

UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."
OTHER_PREFIXES = ("cond_stage_model.", "model_ema.")
"""Parts that are not read: the text encoder comes from Stable Diffusion's own folder, the running average is of training only."""
SCHEDULE_BUFFERS = re.compile(r"betas|alphas_cumprod(_prev)?|(sqrt|log)_\w+|posterior_\w+|logvar|scale_factor")

_MULTIVIEW = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 16,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "block_out_channels": (320, 640, 1280, 1280),
}
MVDREAM_UNET: dict[str, Any] = _MULTIVIEW | {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
"""diffusers configuration of ``sd-v2.1-base-4view.pt``."""
NORMAL_DEPTH_UNET: dict[str, Any] = _MULTIVIEW | {
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "use_linear_projection": False,
}
"""diffusers configuration of ``nd_mv_ema.ckpt``."""

_EMBEDDINGS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "camera_embed.0": "class_embedding.linear_1",
    "camera_embed.2": "class_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def unet_key(key: str, layers: int) -> str | None:
    """The diffusers name of a tensor of the original UNet, None if there is no such tensor.

    Args:
        key: without ``model.diffusion_model.``.
        layers: residual layers of each resolution.
    """
    stem, _, part = key.rpartition(".")
    if stem in _EMBEDDINGS:
        return f"{_EMBEDDINGS[stem]}.{part}"
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)", key):
        return _member(f"mid_block.{_MIDDLE[match[1]]}", match[2])
    if match := re.fullmatch(r"input_blocks\.(\d+)\.([01])\.(.+)", key):
        block, layer = divmod(int(match[1]) - 1, layers + 1)
        if match[2] == "0" and match[3].startswith("op."):
            return f"down_blocks.{block}.downsamplers.0.conv.{part}" if layer == layers else None
        return _member(f"down_blocks.{block}.{('resnets', 'attentions')[int(match[2])]}.{layer}", match[3])
    if match := re.fullmatch(r"output_blocks\.(\d+)\.([012])\.(.+)", key):
        block, layer = divmod(int(match[1]), layers + 1)
        if match[2] != "0" and match[3].startswith("conv."):
            return f"up_blocks.{block}.upsamplers.0.conv.{part}" if layer == layers else None
        return _member(f"up_blocks.{block}.{'resnets' if match[2] == '0' else 'attentions'}.{layer}", match[3])
    return None


def _member(place: str, rest: str) -> str | None:
    """A tensor of a residual block or an attention; attentions have the same names on both sides."""
    if ".attentions." in place:
        return f"{place}.{rest}"
    stem, _, part = rest.rpartition(".")
    return f"{place}.{_RESIDUAL[stem]}.{part}" if stem in _RESIDUAL else None


def vae_key(key: str, resolutions: int) -> str | None:
    """The diffusers name of a tensor of the original autoencoder, None if there is no such tensor.

    Args:
        key: without ``first_stage_model.``.
        resolutions: of the network; the decoder counts them from the other end.
    """
    if re.fullmatch(r"(post_)?quant_conv\.\w+|(en|de)coder\.conv_(in|out)\.\w+", key):
        return key
    key = key.replace(".nin_shortcut.", ".conv_shortcut.").replace(".norm_out.", ".conv_norm_out.")
    if re.fullmatch(r"(en|de)coder\.conv_norm_out\.\w+", key):
        return key
    if match := re.fullmatch(r"((?:en|de)coder)\.mid\.block_([12])\.(.+)", key):
        return f"{match[1]}.mid_block.resnets.{int(match[2]) - 1}.{match[3]}"
    if match := re.fullmatch(r"((?:en|de)coder)\.mid\.attn_1\.(\w+)\.(\w+)", key):
        return f"{match[1]}.mid_block.attentions.0.{_VAE_ATTENTION[match[2]]}.{match[3]}" if match[2] in _VAE_ATTENTION else None
    if match := re.fullmatch(r"(en|de)coder\.(down|up)\.(\d+)\.(?:block\.(\d+)|(?:down|up)sample)\.(.+)", key):
        number = int(match[3]) if match[2] == "down" else resolutions - 1 - int(match[3])
        place = f"{match[1]}coder.{match[2]}_blocks.{number}"
        return f"{place}.resnets.{match[4]}.{match[5]}" if match[4] else f"{place}.{match[2]}samplers.0.{match[5]}"
    return None


def unet_state_from_ldm(state: Mapping[str, Tensor], layers: int = 2) -> dict[str, Tensor]:
    """Tensors of the UNet by their diffusers names.

    Args:
        state: the checkpoint's tensors; those outside ``model.diffusion_model.`` are left alone.
        layers: residual layers of each resolution.

    Raises:
        CheckpointFormatError: a key of the UNet is unknown.
    """
    return _convert(state, UNET_PREFIX, lambda key: unet_key(key, layers))


def vae_state_from_ldm(state: Mapping[str, Tensor], resolutions: int = 4) -> dict[str, Tensor]:
    """Tensors of the autoencoder by their diffusers names; 1x1 convolutions of its attention become matrices.

    Raises:
        CheckpointFormatError: a key of the autoencoder is unknown.
    """
    converted = _convert(state, VAE_PREFIX, lambda key: vae_key(key, resolutions))
    return {
        key: value.flatten(1) if ".attentions." in key and value.ndim == 4 else value for key, value in converted.items()
    }


def _convert(state: Mapping[str, Tensor], prefix: str, rename: Callable[[str], str | None]) -> dict[str, Tensor]:
    own = {key: value for key, value in state.items() if key.startswith(prefix)}
    names = {key: rename(key.removeprefix(prefix)) for key in own}
    unknown = sorted(key for key, name in names.items() if name is None)
    if unknown:
        raise CheckpointFormatError(f"{len(unknown)} keys of the checkpoint are unknown, e.g. {', '.join(unknown[:3])}")
    return {name: own[key] for key, name in names.items()}


def check_other_keys(state: Mapping[str, Tensor]) -> None:
    """Raises CheckpointFormatError, with their names, if there are keys that belong to no known part of a checkpoint."""
    known = (UNET_PREFIX, VAE_PREFIX, *OTHER_PREFIXES)
    foreign = sorted(key for key in state if not key.startswith(known) and not SCHEDULE_BUFFERS.fullmatch(key))
    if foreign:
        raise CheckpointFormatError(f"{len(foreign)} keys belong to no known part of a checkpoint, e.g. {', '.join(foreign[:3])}")


def fill(network: nn.Module, state: Mapping[str, Tensor], source: str = "the checkpoint") -> None:
    """Loads converted tensors into a network; every tensor on either side must find its counterpart.

    Raises:
        CheckpointFormatError: a tensor is missing, left over, or has another shape.
    """
    check_fits(network, state, source)
    network.load_state_dict(dict(state))


def check_fits(network: nn.Module, state: Mapping[str, Tensor], source: str = "the checkpoint") -> None:
    """Raises CheckpointFormatError, as ``fill``, if tensors do not fit a network; the network may be on the meta device."""
    own = network.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise CheckpointFormatError(
            f"{source} does not fit the network: {len(missing)} tensors are missing ({', '.join(missing[:3]) or 'none'}), "
            f"{len(unknown)} are left over ({', '.join(unknown[:3]) or 'none'})"
        )
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise CheckpointFormatError(
                f"{source}: {name} has shape {list(state[name].shape)}, but the network needs {list(value.shape)}"
            )


def read_ldm_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors``, ``.pt`` or ``.ckpt`` file; nothing but tensors is unpickled.

    Raises:
        MissingWeightsError: there is no such file.
        CheckpointFormatError: the file is truncated, holds other objects than tensors, or keys of no known part.
    """
    state = read_tensors(path)
    check_other_keys(state)
    return state


def multiview_unet_from_ldm(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> UNet2DConditionModel:
    """The diffusers network of an original multi-view UNet.

    Args:
        state: the checkpoint's tensors.
        config: ``MVDREAM_UNET``, ``NORMAL_DEPTH_UNET``, or another diffusers configuration.

    Raises:
        CheckpointFormatError: a tensor is missing, left over, or has another shape.
    """
    unet = UNet2DConditionModel(**config)
    fill(unet, unet_state_from_ldm(state, config["layers_per_block"]))
    return unet


def autoencoder_from_ldm(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> AutoencoderKL:
    """The diffusers autoencoder of an original checkpoint; ``config`` is a diffusers configuration.

    Raises:
        CheckpointFormatError: a tensor is missing, left over, or has another shape.
    """
    vae = AutoencoderKL(**config)
    fill(vae, vae_state_from_ldm(state, len(config["block_out_channels"])))
    return vae
