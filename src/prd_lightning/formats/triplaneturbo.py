"""``triplane_turbo_sd_v1.pth`` of the authors (arXiv 2503.21694): adapters stored by position in a list.

Positions are mapped to modules by the order in which the network registers them, see ``generator.official``; nothing has to be
looked up in a table.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from prd_lightning.architecture import Architecture
from prd_lightning.checkpoints import FORMAT, GENERATOR_FILE, load_generator
from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.field import TriplaneField
from prd_lightning.formats.base import CheckpointFormat, Conversion, check_width
from prd_lightning.formats.multiview import VAE
from prd_lightning.generator import AdapterRanks, TriplaneGenerator
from prd_lightning.generator.official import (
    PREFIX,
    UNUSED_KEYS,
    official_ranks,
    tensors_from_official,
    tensors_to_official,
)
from prd_lightning.weights import DOWNLOADED_PREFIX, resolve_folder, weights_directory

BASE_FOLDER = f"{DOWNLOADED_PREFIX}stable-diffusion-2-1-base"
FIRST_HIDDEN = "geometry.sdf_network.layers.0.weight"
SD21_UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
"""diffusers configuration of Stable Diffusion 2.1 base."""


@dataclass(frozen=True)
class TriplaneTurboFormat(CheckpointFormat):
    """The authors' file and a generator file of ours.

    Attributes:
        name, title: see ``CheckpointFormat``.
        unet, vae: diffusers configurations of the base, where no folder of it is at hand.
    """

    name: str = "triplaneturbo"
    title: str = "the authors' triplane_turbo_sd_v1.pth"
    unet: Mapping[str, Any] = field(default_factory=lambda: SD21_UNET)
    vae: Mapping[str, Any] = field(default_factory=lambda: VAE)

    def recognizes(self, state: Mapping[str, Tensor]) -> bool:
        """See ``CheckpointFormat``: adapters in a list."""
        return any(key.startswith(PREFIX) for key in state)

    def convert(self, state: Mapping[str, Tensor], base: Path | None = None) -> Conversion:
        """See ``CheckpointFormat``; sizes of the base come from its folder, or are those of Stable Diffusion 2.1."""
        unet, vae = self._configs(base)
        ranks = _one_rank(official_ranks(state))
        check_width(_adapter_text_width(state), unet["cross_attention_dim"], "the generator of the file")
        channels, hidden = _plane_channels(state), _hidden(state)
        generator, field_ = _empty_parts(unet, vae, channels, ranks, hidden)
        own, own_field = tensors_from_official(state, generator, field_)
        architecture = Architecture(
            base=_base_name(base),
            plane_channels=channels,
            rank=ranks,
            latent_size=unet["sample_size"] // 2,
            hidden=hidden,
            text_width=unet["cross_attention_dim"],
        )
        tensors = {f"generator.{name}": value for name, value in own.items()}
        tensors |= {f"field.{name}": value for name, value in own_field.items()}
        header = {"format": FORMAT, "architecture": json.dumps(architecture.to_dict(), sort_keys=True)}
        unused = {key: 1 for key in sorted(UNUSED_KEYS & state.keys())}
        return Conversion({GENERATOR_FILE: tensors}, {GENERATOR_FILE: header}, left_out=unused, base=base)

    def export(self, folder: Path) -> dict[str, Tensor]:
        """See ``CheckpointFormat``; ``folder`` is a generator file or holds one."""
        tensors, header = load_generator(folder / GENERATOR_FILE if folder.is_dir() else folder)
        architecture = Architecture.from_dict(header)
        if not architecture.per_plane:
            raise CheckpointFormatError("the authors' layout has a pair per plane, but this generator has per_plane=false")
        unet, vae = self._configs(_existing(architecture.base))
        generator, field_ = _empty_parts(unet, vae, architecture.plane_channels, architecture.rank, architecture.hidden)
        own = {key.removeprefix("generator."): value for key, value in tensors.items() if key.startswith("generator.")}
        own_field = {key.removeprefix("field."): value for key, value in tensors.items() if key.startswith("field.")}
        if own.keys() != generator.trainable_state_dict().keys() or own_field.keys() != dict(field_.named_parameters()).keys():
            raise CheckpointFormatError(f"the tensors of {folder} are not those of its own architecture")
        return tensors_to_official(own, own_field, generator)

    def _configs(self, base: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
        if base is None:
            return dict(self.unet), dict(self.vae)
        values = []
        for part in ("unet", "vae"):
            path = base / part / "config.json"
            if not path.is_file():
                raise MissingWeightsError(f"no {part} in the base {base}: {path} does not exist")
            values.append({key: value for key, value in json.loads(path.read_text()).items() if not key.startswith("_")})
        return values[0], values[1]


def _base_name(base: Path | None) -> str:
    """How a generator file names its base: below the weight folder by name, so that the folder may move."""
    if base is None:
        return BASE_FOLDER
    base = base.resolve()
    return f"{DOWNLOADED_PREFIX}{base.name}" if base.parent == weights_directory().resolve() else str(base)


def _existing(base: str) -> Path | None:
    try:
        return resolve_folder(base)
    except MissingWeightsError:
        return None


def _empty_parts(
    unet: Mapping[str, Any], vae: Mapping[str, Any], channels: int, rank: int, hidden: int
) -> tuple[TriplaneGenerator, TriplaneField]:
    """Names and shapes of a generator and a field: everything is on the meta device."""
    with torch.device("meta"):
        networks = UNet2DConditionModel.from_config(dict(unet)), AutoencoderKL.from_config(dict(vae))
        return TriplaneGenerator(*networks, channels, rank), TriplaneField(channels // 2, hidden)


def _one_rank(ranks: AdapterRanks) -> int:
    values = {ranks.self_attention, ranks.cross_attention, ranks.convolution, ranks.decoder_attention}
    if len(values) > 1:
        raise CheckpointFormatError(f"the adapters have different ranks ({ranks}); a generator file has one for all")
    return values.pop()


def _adapter_text_width(state: Mapping[str, Tensor]) -> int:
    """Width of the text that the first cross-attention's adapter reads."""
    return next((state[key].shape[1] for key in state if key.endswith("to_k_lora.down.weight")), 0)


def _plane_channels(state: Mapping[str, Tensor]) -> int:
    """Channels of the last convolution, the last entry of the list."""
    last = max((int(key.removeprefix(PREFIX).partition(".")[0]) for key in state if key.startswith(PREFIX)), default=0)
    bias = state.get(f"{PREFIX}{last}.bias")
    if bias is None:
        raise CheckpointFormatError(f"the file ends without the decoder's last convolution: {PREFIX}{last}.bias is missing")
    return bias.shape[0]


def _hidden(state: Mapping[str, Tensor]) -> int:
    if FIRST_HIDDEN not in state:
        raise CheckpointFormatError(f"the file holds no field: {FIRST_HIDDEN} is missing")
    return state[FIRST_HIDDEN].shape[0]


TRIPLANETURBO = TriplaneTurboFormat()
