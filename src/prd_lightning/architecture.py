"""The parts of a generator that belong together, and the numbers that they are built from.

An ``Architecture`` is what a checkpoint's header holds; ``build`` makes the parts again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from prd_lightning.diffusion import NoiseSchedule
from prd_lightning.errors import CheckpointFormatError
from prd_lightning.field import TriplaneField
from prd_lightning.generator import AdapterRanks, TriplaneGenerator, copy_state
from prd_lightning.text import PromptEncoder
from prd_lightning.weights import check_text_width, resolve_folder

FREE_NUMBERS = ("base", "compute", "steps", "color_gradient_floor")
"""What may differ between a checkpoint and the run that loads it: the tensors are the same."""


@dataclass
class GeneratorParts:
    """Everything between a prompt and a field."""

    generator: TriplaneGenerator
    field: TriplaneField
    prompt_encoder: PromptEncoder
    noise_schedule: NoiseSchedule

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Loads ``generator.*`` and ``field.*``; tensors of the background are not needed for inference.

        Raises:
            CheckpointFormatError: a tensor is missing, unknown, or has another shape.
        """
        known = {name: value for name, value in tensors.items() if not name.startswith("background.")}
        copy_state(trainable_state(self.generator, self.field), known)


@dataclass(frozen=True)
class Architecture:
    """Numbers of a generator.

    Attributes:
        base: folder of Stable Diffusion in diffusers layout, or ``tinyworld:NAME``.
        plane_channels: channels of the decoder, half for geometry and half for texture.
        rank: of every adapter.
        per_plane: six pairs in self-attention instead of a shared one.
        latent_size: height and width of a latent; None for half of what the UNet was trained on.
        hidden: width of the field's networks.
        sphere_radius: radius of the sphere that an untrained field is.
        color_gradient_floor: see ``field.TriplaneField``; it acts in training alone.
        compute: ``merged`` or ``branch``, see ``generator.adapters``; the result is the same.
        steps: K of the unroll that it is trained for, and of inference.
        train_base: full fine-tuning: the base's weights are trained beside the adapters (see docs/ablations.md).
        text_width: of a token, 1024 for Stable Diffusion 2.1; a base of another family is refused. None takes any.
    """

    base: str
    plane_channels: int = 64
    rank: int = 16
    per_plane: bool = True
    latent_size: int | None = None
    hidden: int = 64
    sphere_radius: float = 0.5
    color_gradient_floor: float = 0.0
    compute: str = "branch"
    steps: int = 4
    text_width: int | None = None
    train_base: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Architecture":
        """The architecture of a checkpoint's header.

        Raises:
            CheckpointFormatError: an entry is missing or unknown.
        """
        known = {item.name for item in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise CheckpointFormatError(
                f"the checkpoint's architecture has unknown entries {unknown}; this version knows {sorted(known)}"
            )
        if "base" not in values:
            raise CheckpointFormatError("the checkpoint's architecture does not name its base model")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return asdict(self)

    def check_same(self, other: "Architecture") -> None:
        """Raises CheckpointFormatError, naming both values, if weights of ``other`` do not belong here."""
        for item in fields(self):
            own, foreign = getattr(self, item.name), getattr(other, item.name)
            is_unknown = item.name == "text_width" and None in (own, foreign)
            if is_unknown or item.name in FREE_NUMBERS:
                continue
            if own != foreign:
                raise CheckpointFormatError(f"the checkpoint has {item.name}={foreign} but this run has {item.name}={own}")

    def build(self, **prompt_settings: object) -> GeneratorParts:
        """New parts with untrained adapters; ``prompt_settings`` go to the prompt encoder.

        Raises:
            MissingWeightsError: the base model is not there.
            CheckpointFormatError: the base is of another family of Stable Diffusion.
        """
        folder = resolve_folder(self.base)
        prompt_encoder = PromptEncoder.from_folder(folder, **prompt_settings)
        generator = TriplaneGenerator.from_folder(
            folder,
            plane_channels=self.plane_channels,
            ranks=AdapterRanks(*[self.rank] * 4),
            per_plane=self.per_plane,
            latent_size=self.latent_size,
            compute=self.compute,
            train_base=self.train_base,
        )
        check_text_width(folder, generator.text_width, prompt_encoder.width, self.text_width)
        return GeneratorParts(
            generator=generator,
            field=TriplaneField(
                self.plane_channels // 2, self.hidden, self.sphere_radius, self.color_gradient_floor
            ),
            prompt_encoder=prompt_encoder,
            noise_schedule=NoiseSchedule.from_folder(folder / "scheduler"),
        )


def trainable_state(generator: TriplaneGenerator, field: TriplaneField) -> dict[str, Tensor]:
    """The trained tensors of both by their names in a generator file."""
    state = {f"generator.{name}": value for name, value in generator.trainable_state_dict().items()}
    return state | {f"field.{name}": value for name, value in field.state_dict().items()}
