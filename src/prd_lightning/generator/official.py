"""The authors' generator file: adapters stored by position in a list, mapped to our named tensors.

Their file keys adapters as ``geometry.space_generator.peft_layers.layers.INDEX.PARAMETER``. ``layers`` (from the file's layout)
says which module stands at which index; the six self-attention pairs are separate entries there and one stacked tensor here.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

PLANE_SUFFIXES = tuple(f"{plane}_lora_{kind}" for kind in ("geo", "tex") for plane in ("xy", "xz", "yz"))
PREFIX = "geometry.space_generator.peft_layers.layers."
FIELD_NETWORKS = {"sdf_network": "sdf_network", "feature_network": "texture_network", "deformation_network": "deformation_network"}


def module_name(mapping_name: str) -> str:
    """Our module for one of their ``mapping_name`` entries."""
    if mapping_name == "vae.decoder.conv_out":
        return "decoder.conv_out"
    bare = mapping_name.removesuffix(".processor").removesuffix(".lora_layer")
    return bare if bare.startswith("decoder.") else f"unet.{bare}"


def generator_state_from_official(state: Mapping[str, Tensor], layers: Sequence[Mapping]) -> dict[str, Tensor]:
    """Our ``TriplaneGenerator.trainable_state_dict`` from tensors in the authors' layout.

    Args:
        state: their tensors by their keys.
        layers: for each list position ``index`` and ``mapping_name``.
    """
    result: dict[str, Tensor] = {}
    for layer in layers:
        prefix, module = f"{PREFIX}{layer['index']}.", module_name(layer["mapping_name"])
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if module == "decoder.conv_out":
            result |= {f"{module}.{name}": value for name, value in own.items()}
        elif "down.weight" in own:
            result[f"{module}.down"] = own["down.weight"].unsqueeze(0)
            result[f"{module}.up"] = own["up.weight"].flatten(1).unsqueeze(0)
        else:
            result |= _attention(module, own)
    return result


def _attention(module: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result = {}
    for projection, target in (("to_q", "to_q"), ("to_k", "to_k"), ("to_v", "to_v"), ("to_out", "to_out.0")):
        shared = f"{projection}_lora.down.weight" in own
        names = [f"{projection}_lora"] if shared else [f"{projection}_{suffix}" for suffix in PLANE_SUFFIXES]
        for part in ("down", "up"):
            result[f"{module}.{target}.{part}"] = torch.stack([own[f"{name}.{part}.weight"] for name in names])
    return result


def field_state_from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our ``TriplaneField`` state from tensors in the authors' layout."""
    return {
        f"{ours}.{index}.weight": state[f"geometry.{theirs}.layers.{index}.weight"]
        for theirs, ours in FIELD_NETWORKS.items()
        for index in (0, 2, 4)
    }
