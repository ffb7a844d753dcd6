"""Stable Diffusion with adapters: six latents are denoised together and decoded to two triplanes.

The six planes of a scene are ``geo_xy, geo_xz, geo_yz, tex_xy, tex_xz, tex_yz``; the batch axis of latents is
``scene * 6 + plane`` (design section 2; Ma et al., CVPR 2025, section 3.3).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from prd_lightning.diffusion import NoiseSchedule, unroll_timesteps
from prd_lightning.errors import CheckpointFormatError, ConfigurationError
from prd_lightning.generator.adapters import PLANES, AdaptedConv2d, AdaptedLinear, Compute
from prd_lightning.generator.attention import JointPlaneSelfAttention, SharedTextCrossAttention
from prd_lightning.weights import load_network


@dataclass(frozen=True)
class AdapterRanks:
    """Ranks of the low-rank pairs by kind of layer."""

    self_attention: int = 16
    cross_attention: int = 16
    convolution: int = 16
    decoder_attention: int = 16


class TriplaneGenerator(nn.Module):
    """Latents and text to planes. Everything but the adapters and the last convolution is frozen.

    Args:
        unet: Stable Diffusion's noise predictor.
        vae: its autoencoder; only the decoder is kept.
        plane_channels: channels that the decoder puts out; planes 0-2 keep the first half, planes 3-5 the second.
        ranks: of the adapters.
        per_plane: six pairs in self-attention instead of a shared one.
        latent_size: height and width of a latent; default half of what the UNet was trained on.
        compute: how adapters are evaluated in training, see ``adapters``.
        train_base: full fine-tuning: the weights of UNet and decoder are trained and saved too.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        plane_channels: int = 64,
        ranks: AdapterRanks | int = 16,
        per_plane: bool = True,
        latent_size: int | None = None,
        compute: Compute = "branch",
        train_base: bool = False,
    ) -> None:
        super().__init__()
        if plane_channels % 2:
            raise ConfigurationError(f"plane_channels is shared by geometry and texture and must be even, got {plane_channels}")
        if compute not in ("merged", "branch"):
            raise ConfigurationError(f"compute must be 'merged' or 'branch', got {compute!r}")
        ranks = AdapterRanks(*[ranks] * 4) if isinstance(ranks, int) else ranks
        self.plane_channels = plane_channels
        size = latent_size or unet.config.sample_size // 2
        self.latent_shape = (unet.config.in_channels, size, size)
        self.unet, self.decoder, self.post_quant_conv = unet, vae.decoder, vae.post_quant_conv
        self.requires_grad_(False)
        _adapt_unet_attention(unet, ranks, per_plane, compute)
        _adapt_convolutions(unet, ranks.convolution, compute)
        _adapt_decoder_attention(self.decoder, ranks.decoder_attention, compute)
        _adapt_convolutions(self.decoder, ranks.convolution, compute)
        last = self.decoder.conv_out
        self.decoder.conv_out = nn.Conv2d(last.in_channels, plane_channels, 3, padding=1).to(last.weight)
        if train_base:
            self.requires_grad_(True)

    @classmethod
    def from_folder(cls, folder: str | Path, **settings: object) -> "TriplaneGenerator":
        """Loads ``unet/`` and ``vae/`` of a diffusers folder in float32; ``settings`` go to the constructor.

        Raises:
            MissingWeightsError: a sub-folder is missing.
            CheckpointFormatError: its weights are damaged.
        """
        unet = load_network(UNet2DConditionModel, Path(folder), "unet")
        return cls(unet, load_network(AutoencoderKL, Path(folder), "vae"), **settings)

    @property
    def text_width(self) -> int:
        """Numbers of a token that the UNet reads."""
        return self.unet.config.cross_attention_dim

    def predict(
        self,
        latents: Float[Tensor, "planes channels height width"],
        t: int | Tensor,
        text: Float[Tensor, "batch words text_width"],
    ) -> Float[Tensor, "planes channels height width"]:
        """The UNet's prediction for [6 B, 4, h, w] noisy latents at timestep ``t``; ``text`` is one embedding per scene.

        It is the noise, or what ``NoiseSchedule.to_noise`` turns into it.
        """
        if latents.shape[0] != PLANES * text.shape[0]:
            raise ConfigurationError(f"{text.shape[0]} prompts need {PLANES * text.shape[0]} latents, got {latents.shape[0]}")
        return self.unet(latents, t, encoder_hidden_states=text).sample

    def decode(
        self, latents: Float[Tensor, "planes channels height width"]
    ) -> Float[Tensor, "batch 6 half_channels plane_height plane_width"]:
        """Planes of [6 B, 4, h, w] latents, which enter the decoder without division by the scaling factor."""
        decoded = self.decoder(self.post_quant_conv(latents)).unflatten(0, (-1, PLANES))
        half = self.plane_channels // 2
        return torch.cat([decoded[:, :3, :half], decoded[:, 3:, half:]], dim=1)

    @torch.no_grad()
    def sample(
        self,
        text: Float[Tensor, "batch words text_width"],
        noise: Float[Tensor, "planes channels height width"],
        schedule: NoiseSchedule,
        steps: int = 4,
    ) -> Float[Tensor, "batch 6 half_channels plane_height plane_width"]:
        """Planes by ``steps`` deterministic DDIM steps without guidance; the last estimate of the clean latent is decoded."""
        latents, stride = noise, schedule.num_timesteps // steps
        for t in unroll_timesteps(steps, schedule.num_timesteps):
            predicted = schedule.to_noise(self.predict(latents, t, text), latents, t)
            latents, clean = schedule.ddim_step(latents, predicted, t, t - stride)
        return self.decode(clean)

    def adapted_layers(self) -> Iterator[tuple[str, AdaptedLinear | AdaptedConv2d]]:
        """Names and modules of all adapted layers."""
        for name, module in self.named_modules():
            if isinstance(module, AdaptedLinear | AdaptedConv2d):
                yield name, module

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """Adapters and last convolution by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def trainable_parameter_count(self) -> int:
        """Number of trainable values."""
        return sum(parameter.numel() for parameter in self.trainable_state_dict().values())

    @torch.no_grad()
    def load_trainable_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads what ``trainable_state_dict`` returned.

        Raises:
            CheckpointFormatError: a tensor is missing, unknown, or has another shape.
        """
        copy_state(self.trainable_state_dict(), state)

    def fold(self) -> "TriplaneGenerator":
        """Folds every adapter into its base weight (in place), so that inference costs what the base model costs."""
        for _, layer in list(self.adapted_layers()):
            layer.fold()
        return self.requires_grad_(False)


@torch.no_grad()
def copy_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copies ``state`` into the tensors of ``own``, key by key.

    Raises:
        CheckpointFormatError: a tensor is missing, unknown, or has another shape.
    """
    if missing := sorted(own.keys() - state.keys()):
        raise CheckpointFormatError(
            f"the checkpoint lacks {len(missing)} tensors of this architecture, e.g. {', '.join(missing[:3])}"
        )
    if unknown := sorted(state.keys() - own.keys()):
        raise CheckpointFormatError(
            f"the checkpoint has {len(unknown)} tensors unknown to this architecture, e.g. {', '.join(unknown[:3])}"
        )
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise CheckpointFormatError(
                f"{name} has shape {list(state[name].shape)} in the checkpoint but {list(value.shape)} in this architecture"
            )
    for name, value in own.items():
        value.copy_(state[name])


def _adapt_unet_attention(unet: nn.Module, ranks: AdapterRanks, per_plane: bool, compute: Compute) -> None:
    for name, block in unet.named_modules():
        if name.rpartition(".")[2] not in ("attn1", "attn2"):
            continue
        is_self = name.endswith("attn1")
        rank = ranks.self_attention if is_self else ranks.cross_attention
        _adapt_projections(block, rank, per_plane and is_self, is_self, compute)
        block.set_processor(JointPlaneSelfAttention() if is_self else SharedTextCrossAttention())


def _adapt_decoder_attention(decoder: nn.Module, rank: int, compute: Compute) -> None:
    for block in decoder.mid_block.attentions:
        if block is not None:
            _adapt_projections(block, rank, False, False, compute)


def _adapt_projections(block: nn.Module, rank: int, per_plane: bool, out_reads_output: bool, compute: Compute) -> None:
    for name in ("to_q", "to_k", "to_v"):
        setattr(block, name, AdaptedLinear(getattr(block, name), rank, per_plane, compute=compute))
    block.to_out[0] = AdaptedLinear(block.to_out[0], rank, per_plane, out_reads_output, compute)


def _adapt_convolutions(network: nn.Module, rank: int, compute: Compute) -> None:
    """Adapts every convolution of residual blocks, shortcuts, up- and downsamplers."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and any(part in name for part in ("resnets.", "upsamplers.", "downsamplers.")):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, AdaptedConv2d(module, rank, compute))
