"""Where weights are (a folder of the user, or a model that ships with the package), and how a network of them is loaded."""

from pathlib import Path

import torch
from safetensors import SafetensorError

from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.tinyworld import weights_folder

SHIPPED_PREFIX = "tinyworld:"


def resolve_folder(location: str | Path) -> Path:
    """The folder of a model.

    Args:
        location: a path, or ``tinyworld:NAME`` for a model that ships with the package.

    Raises:
        MissingWeightsError: there is no such folder.
        ConfigurationError: ``NAME`` is not a shipped model.
    """
    if str(location).startswith(SHIPPED_PREFIX):
        return weights_folder(str(location).removeprefix(SHIPPED_PREFIX))
    folder = Path(location).expanduser()
    if not folder.is_dir():
        raise MissingWeightsError(
            f"there is no weight folder {folder}; name a folder in diffusers layout (see docs/real_weights.md), "
            f"or a shipped model such as {SHIPPED_PREFIX}stable_diffusion"
        )
    return folder


def load_network(kind: type, folder: Path, part: str, precision: torch.dtype = torch.float32) -> torch.nn.Module:
    """A diffusers or transformers network from the sub-folder ``part``: safetensors only, and complete.

    Raises:
        MissingWeightsError: the sub-folder is missing.
        CheckpointFormatError: its weights are truncated, incomplete, not safetensors, or do not fit its configuration.
    """
    source = folder / part
    if not (source / "config.json").is_file():
        raise MissingWeightsError(f"no {part} in {folder}: {source / 'config.json'} does not exist")
    try:
        network, report = kind.from_pretrained(source, torch_dtype=precision, use_safetensors=True, output_loading_info=True)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointFormatError(f"the weights of {source} cannot be loaded: {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointFormatError(f"the weights of {source} lack {len(missing)} tensors, e.g. {', '.join(missing[:3])}")
    return network
