"""An untrained generator as a file, for tests of what loads one. Its field is nearly a sphere."""

from pathlib import Path

import torch

from prd_lightning.architecture import Architecture, trainable_state
from prd_lightning.checkpoints import GENERATOR_FILE, save_generator

ARCHITECTURE = Architecture(base="tinyworld:stable_diffusion", rank=2, plane_channels=16, hidden=16, latent_size=8)


def save_untrained(folder: Path, **field_values: float) -> Path:
    """Writes ``folder/generator.safetensors``; tensors of the field named in ``field_values`` are filled with a value."""
    torch.manual_seed(5)
    parts = ARCHITECTURE.build()
    tensors = {name: value.detach().clone() for name, value in trainable_state(parts.generator, parts.field).items()}
    for name, value in field_values.items():
        tensors[f"field.{name}"].fill_(value)
    folder.mkdir(parents=True, exist_ok=True)
    save_generator(folder / GENERATOR_FILE, tensors, ARCHITECTURE.to_dict())
    return folder / GENERATOR_FILE
