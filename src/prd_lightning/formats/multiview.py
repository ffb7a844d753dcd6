"""Multi-view networks in the latent-diffusion layout: what MVDream's and RichDreamer's files have in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from prd_lightning.errors import CheckpointFormatError
from prd_lightning.formats.base import CheckpointFormat, Conversion, check_width, count_left_out, part_of_base
from prd_lightning.formats.diffusers_folder import NETWORK_FILE, read_part
from prd_lightning.teachers.conversion import (
    OTHER_PREFIXES,
    SCHEDULE_BUFFERS,
    UNET_PREFIX,
    VAE_PREFIX,
    check_fits,
    check_other_keys,
    unet_state_from_ldm,
    vae_state_from_ldm,
)
from prd_lightning.teachers.conversion_back import unet_state_to_ldm, vae_state_to_ldm

SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
}
"""The noise schedule of both files (``linear_start``, ``linear_end`` and ``timesteps`` of their configurations)."""
VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 256,
    "scaling_factor": 0.18215,
}
"""diffusers configuration of Stable Diffusion's autoencoder."""
CAMERA_KEY, TEXT_KEY = f"{UNET_PREFIX}camera_embed.0.weight", ".attn2.to_k.weight"
SCHEDULE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class MultiViewFormat(CheckpointFormat):
    """A file with a camera-conditioned UNet and perhaps an autoencoder.

    Attributes:
        name, title: see ``CheckpointFormat``.
        unet, vae: diffusers configurations; ``vae`` is None for a model that needs none.
    """

    name: str
    title: str
    unet: Mapping[str, Any]
    vae: Mapping[str, Any] | None

    def recognizes(self, state: Mapping[str, Tensor]) -> bool:
        """See ``CheckpointFormat``: cameras, and text of the right width."""
        return CAMERA_KEY in state and text_width(state) == self.unet["cross_attention_dim"]

    def convert(self, state: Mapping[str, Tensor], base: Path | None = None) -> Conversion:
        """See ``CheckpointFormat``; tokenizer and text encoder, and an autoencoder that the file lacks, come from ``base``."""
        check_other_keys(state)
        self._check_kind(state)
        check_schedule(state)
        unet = unet_state_from_ldm(state, self.unet["layers_per_block"])
        _check_network(UNet2DConditionModel, self.unet, unet, "the UNet")
        conversion = Conversion(
            {f"unet/{NETWORK_FILE}": unet},
            configs={"unet/config.json": _config(UNet2DConditionModel, self.unet), "scheduler/scheduler_config.json": SCHEDULER},
            base=base,
        )
        needed = [("tokenizer", "the text encoder"), ("text_encoder", "the text encoder")]
        if self.vae is not None and any(key.startswith(VAE_PREFIX) for key in state):
            vae = vae_state_from_ldm(state, len(self.vae["block_out_channels"]))
            _check_network(AutoencoderKL, self.vae, vae, "the autoencoder")
            conversion.tensors[f"vae/{NETWORK_FILE}"] = vae
            conversion.configs["vae/config.json"] = _config(AutoencoderKL, self.vae)
        elif self.vae is not None:
            needed.append(("vae", "the autoencoder"))
        for part, what in needed:
            conversion.folders[part] = part_of_base(base, part, f"{what} is not in the file")
        groups = OTHER_PREFIXES if self.vae is not None else (VAE_PREFIX, *OTHER_PREFIXES)
        conversion.left_out = count_left_out(state, groups)
        if buffers := sum(bool(SCHEDULE_BUFFERS.fullmatch(key)) for key in state):
            conversion.left_out["noise schedule"] = buffers
        return conversion

    def export(self, folder: Path) -> dict[str, Tensor]:
        """See ``CheckpointFormat``: the UNet, and the autoencoder if the model has one."""
        config, unet = read_part(folder, "unet")
        state = unet_state_to_ldm(unet, config["layers_per_block"])
        if self.vae is not None:
            config, vae = read_part(folder, "vae")
            state |= vae_state_to_ldm(vae, len(config["block_out_channels"]))
        return state

    def _check_kind(self, state: Mapping[str, Tensor]) -> None:
        if not any(key.startswith(UNET_PREFIX) for key in state):
            raise CheckpointFormatError(f"the file has no UNet (keys {UNET_PREFIX}...), so it is not {self.title}")
        check_width(text_width(state), self.unet["cross_attention_dim"], "the UNet of the file")
        if CAMERA_KEY not in state:
            raise CheckpointFormatError(
                f"the file has no camera embedding ({CAMERA_KEY}), so it is a single-view model and not {self.title}"
            )


def text_width(state: Mapping[str, Tensor]) -> int:
    """Width of the text that the UNet of a file reads; 0 if it reads none."""
    return next((value.shape[-1] for key, value in state.items() if key.startswith(UNET_PREFIX) and key.endswith(TEXT_KEY)), 0)


def check_schedule(state: Mapping[str, Tensor]) -> None:
    """Raises CheckpointFormatError if a file carries another noise schedule than ``SCHEDULER``."""
    stored = state.get("alphas_cumprod")
    if stored is None or stored.is_meta:
        return
    first, last = SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5
    known = (1 - torch.linspace(first, last, SCHEDULER["num_train_timesteps"], dtype=torch.float64) ** 2).cumprod(0)
    if stored.shape != known.shape or float((stored.double() - known).abs().max()) > SCHEDULE_TOLERANCE:
        raise CheckpointFormatError(
            f"the file was trained with another noise schedule ({len(stored)} steps down to {float(stored.flatten()[-1]):.5f}) "
            f"than {len(known)} steps down to {float(known[-1]):.5f}; write its scheduler_config.json by hand"
        )


def _check_network(kind: type, config: Mapping[str, Any], state: Mapping[str, Tensor], what: str) -> None:
    with torch.device("meta"):
        network = kind(**config)
    check_fits(network, state, f"{what} of the file")


def _config(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    return {"_class_name": kind.__name__, **config}
