"""What a foreign weight format is, and what becomes of a file of it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.weights import width_name


@dataclass
class Conversion:
    """A model in our own layout, not yet written.

    Attributes:
        tensors: by the path of a safetensors file in the model's folder.
        metadata: of these files' headers, by path; ``{"format": "pt"}`` where none is named.
        configs: JSON values by path.
        folders: sub-folders that are taken over from another model, by name.
        left_out: number of foreign tensors that are no weights of the model, by group.
        base: folder of the model that was asked for what the file does not hold, if any.
    """

    tensors: dict[str, dict[str, Tensor]]
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    configs: dict[str, Any] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    base: Path | None = None


class CheckpointFormat(ABC):
    """One foreign format, both ways.

    Attributes:
        name: as on the command line.
        title: in messages.
    """

    name: str
    title: str

    @abstractmethod
    def recognizes(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the keys of a file look like this format; its sizes may still be wrong."""

    @abstractmethod
    def convert(self, state: Mapping[str, Tensor], base: Path | None = None) -> Conversion:
        """Our layout of a file.

        Args:
            state: all tensors of the file; they may be on the meta device.
            base: a diffusers folder of the Stable Diffusion that the model was made from.

        Raises:
            CheckpointFormatError: a tensor is unknown, missing, or has another shape.
            MissingWeightsError: ``base`` is needed and lacks a part.
        """

    @abstractmethod
    def export(self, folder: Path) -> dict[str, Tensor]:
        """The way back: the tensors of a converted model by their foreign names.

        Raises:
            MissingWeightsError, CheckpointFormatError: ``folder`` is no such model.
        """


def count_left_out(state: Mapping[str, Tensor], groups: tuple[str, ...]) -> dict[str, int]:
    """How many keys start with each group; groups without keys are not listed."""
    counts = {group: sum(key.startswith(group) for key in state) for group in groups}
    return {group: count for group, count in counts.items() if count}


def part_of_base(base: Path | None, part: str, why: str) -> Path:
    """The sub-folder ``part`` of a base model.

    Raises:
        MissingWeightsError: there is no base, or it has no such part; the message says ``why`` it is needed.
    """
    if base is None or not (base / part).is_dir():
        place = "no base model was named" if base is None else f"{base / part} does not exist"
        raise MissingWeightsError(
            f"{why}, and {place}; name the diffusers folder of Stable Diffusion with --base, put its tokenizer/ and "
            "text_encoder/ beside a file that a config names, or get it with `prd weights`"
        )
    return base / part


def check_width(found: int, needed: int, what: str) -> None:
    """Raises CheckpointFormatError, naming both, if a file reads text of another width than its place needs."""
    if found != needed:
        raise CheckpointFormatError(
            f"{what} reads text of width {found}{width_name(found)}, but width {needed}{width_name(needed)} is expected: this is "
            "the file of another model; name its format with --format or the right base with --base"
        )
