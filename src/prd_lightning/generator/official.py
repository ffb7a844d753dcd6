"""The authors' generator file: adapters stored by position in a list, mapped to our named tensors, both ways.

Their file keys adapters as ``geometry.space_generator.peft_layers.layers.INDEX.PARAMETER``. The list holds, in this order, the
attentions of the UNet, those of the decoder, the convolutions of both, and the decoder's new last convolution, each group in the
order in which the network registers its modules. The six self-attention pairs are separate entries there and one stacked tensor
here; a convolution's ``up`` is a 1x1 convolution there and a matrix here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from prd_lightning.errors import CheckpointFormatError
from prd_lightning.field import TriplaneField
from prd_lightning.generator.adapters import AdaptedConv2d
from prd_lightning.generator.triplane import AdapterRanks, TriplaneGenerator

PLANE_SUFFIXES = tuple(f"{plane}_lora_{kind}" for kind in ("geo", "tex") for plane in ("xy", "xz", "yz"))
PREFIX = "geometry.space_generator.peft_layers.layers."
FIELD_NETWORKS = {
    "sdf_network": "sdf_network",
    "feature_network": "texture_network",
    "deformation_network": "deformation_network",
}
UNUSED_KEYS = frozenset({"geometry.bbox"})
"""Keys that say nothing about weights: the box of the scene is fixed."""
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class OfficialKey:
    """Where a tensor of their file belongs: the name of ours, its slice along the first axis, and whether it is a 1x1 kernel."""

    name: str
    pair: int | None = None
    is_kernel: bool = False

    def to_theirs(self, ours: Tensor) -> Tensor:
        """Our tensor in their shape."""
        value = ours if self.pair is None else ours[self.pair]
        return value[..., None, None] if self.is_kernel else value


def official_layers(generator: TriplaneGenerator) -> list[str]:
    """Our modules (attentions and convolutions) in the order of their list."""
    attention: dict[str, list[str]] = {"unet": [], "decoder": []}
    convolutions = []
    for name, layer in generator.adapted_layers():
        if isinstance(layer, AdaptedConv2d):
            convolutions.append(name)
        elif name.endswith(PROJECTIONS[0]):
            attention[name.partition(".")[0]].append(name.removesuffix(f".{PROJECTIONS[0]}"))
    return [*attention["unet"], *attention["decoder"], *convolutions, "decoder.conv_out"]


def official_keys(generator: TriplaneGenerator) -> dict[str, OfficialKey]:
    """For every generator key of their file, the tensor of ours."""
    keys: dict[str, OfficialKey] = {}
    for index, module in enumerate(official_layers(generator)):
        prefix = f"{PREFIX}{index}."
        if module == "decoder.conv_out":
            keys |= {f"{prefix}{part}": OfficialKey(f"{module}.{part}") for part in ("weight", "bias")}
        elif isinstance(generator.get_submodule(module), AdaptedConv2d):
            keys[f"{prefix}down.weight"] = OfficialKey(f"{module}.down", 0)
            keys[f"{prefix}up.weight"] = OfficialKey(f"{module}.up", 0, is_kernel=True)
        else:
            keys |= _attention_keys(generator, module, prefix)
    return keys


def _attention_keys(generator: TriplaneGenerator, module: str, prefix: str) -> dict[str, OfficialKey]:
    keys = {}
    for projection in PROJECTIONS:
        layer, theirs = generator.get_submodule(f"{module}.{projection}"), projection.removesuffix(".0")
        suffixes = PLANE_SUFFIXES if layer.pairs > 1 else ("lora",)
        for pair, suffix in enumerate(suffixes):
            for part in ("down", "up"):
                keys[f"{prefix}{theirs}_{suffix}.{part}.weight"] = OfficialKey(f"{module}.{projection}.{part}", pair)
    return keys


def field_keys() -> dict[str, str]:
    """For every field key of their file, the name of our tensor."""
    return {
        f"geometry.{theirs}.layers.{index}.weight": f"{ours}.{index}.weight"
        for theirs, ours in FIELD_NETWORKS.items()
        for index in (0, 2, 4)
    }


def load_official(state: Mapping[str, Tensor], generator: TriplaneGenerator, field: TriplaneField) -> None:
    """Loads tensors in the authors' layout into ``generator`` and ``field``, in place.

    Raises:
        CheckpointFormatError: a tensor is missing, unknown, or has another shape; nothing is changed then.
    """
    target = official_view(generator, field)
    check_official(state, target)
    for key, own in target.items():
        own.copy_(state[key])


def check_official(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Raises CheckpointFormatError if ``state`` has not exactly the keys and shapes of ``target`` (see ``official_view``)."""
    missing, unknown = sorted(target.keys() - state.keys()), sorted(state.keys() - target.keys() - UNUSED_KEYS)
    if missing or unknown:
        raise CheckpointFormatError(
            "the file does not belong to this generator: "
            f"{len(missing)} tensors are missing ({', '.join(missing[:3]) or 'none'}), "
            f"{len(unknown)} are unknown ({', '.join(unknown[:3]) or 'none'})"
        )
    for key, own in target.items():
        if state[key].shape != own.shape:
            raise CheckpointFormatError(f"{key} has shape {list(state[key].shape)}, but this generator needs {list(own.shape)}")


def tensors_from_official(
    state: Mapping[str, Tensor], generator: TriplaneGenerator, field: TriplaneField
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of the authors' file by our names, of the generator and of the field, in the file's precision.

    ``generator`` and ``field`` only tell names and shapes: they may be on the meta device.

    Raises:
        CheckpointFormatError: a tensor is missing, unknown, or has another shape.
    """
    check_official(state, official_view(generator, field))
    precision = reduce(torch.promote_types, {value.dtype for value in state.values()})
    device = next(iter(state.values())).device
    own, own_field = (
        {name: torch.empty(value.shape, dtype=precision, device=device) for name, value in named.items()}
        for named in (generator.trainable_state_dict(), dict(field.named_parameters()))
    )
    for key, target in tensors_to_official(own, own_field, generator).items():
        target.copy_(state[key])
    return own, own_field


def official_view(generator: TriplaneGenerator, field: TriplaneField) -> dict[str, Tensor]:
    """Our tensors under the authors' keys and in their shapes; they share memory with the parameters and carry no graph."""
    own = {name: value.detach() for name, value in generator.trainable_state_dict().items()}
    return tensors_to_official(own, {name: value.detach() for name, value in field.named_parameters()}, generator)


def tensors_to_official(
    own: Mapping[str, Tensor], own_field: Mapping[str, Tensor], generator: TriplaneGenerator
) -> dict[str, Tensor]:
    """The inverse of ``tensors_from_official``, sharing memory; ``generator`` only tells names and may be on the meta device."""
    view = {key: place.to_theirs(own[place.name]) for key, place in official_keys(generator).items()}
    return view | {key: own_field[name] for key, name in field_keys().items()}


def official_ranks(state: Mapping[str, Tensor]) -> AdapterRanks:
    """The ranks of the adapters in a file of the authors' layout, from the shapes of its tensors.

    Raises:
        CheckpointFormatError: the file has no adapters.
    """
    layers: dict[int, dict[str, int]] = {}
    for key, value in state.items():
        if key.startswith(PREFIX) and key.endswith("down.weight"):
            index, _, parameter = key.removeprefix(PREFIX).partition(".")
            layers.setdefault(int(index), {})[parameter] = value.shape[0]
    per_plane = [index for index, own in layers.items() if f"to_q_{PLANE_SUFFIXES[0]}.down.weight" in own]
    shared = sorted(index for index, own in layers.items() if "to_q_lora.down.weight" in own)
    convolutions = [index for index, own in layers.items() if "down.weight" in own]
    if not (per_plane and len(shared) > 1 and convolutions):
        raise CheckpointFormatError("the file holds no adapters in the authors' layout (keys " + PREFIX + "INDEX...)")
    # The decoder's attention is the last one of the list.
    places = (per_plane[0], shared[0], convolutions[0], shared[-1])
    return AdapterRanks(*(next(iter(layers[index].values())) for index in places))
