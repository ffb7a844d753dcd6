"""Weight cards: where real weights come from, what they are called, and under which licence (``conf/weights/*.yaml``)."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from prd_lightning.configuration import compose_config, config_directory
from prd_lightning.errors import ConfigurationError
from prd_lightning.weights import DOWNLOADED_PREFIX

ORIGINALS = "originals"
"""Sub-folder of the weight folder for downloaded files that are converted."""
HUB = "https://huggingface.co"
UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9}
"""Of file sizes, as the hub counts them."""


@dataclass(frozen=True)
class WeightFile:
    """One file of a repository.

    Attributes:
        path: in the repository.
        size: bytes; None where it is not known for sure.
        sha256: None where it is not known for sure.
        shown_size: as a public page shows it, rounded (``3.46 GB``); None where none was found.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    shown_size: str | None = None

    def size_range(self) -> tuple[float, float] | None:
        """Least and greatest number of bytes that the card allows; None if it says nothing.

        Raises:
            ConfigurationError: ``shown_size`` is not a number with a unit.
        """
        if self.size is not None:
            return self.size, self.size
        if self.shown_size is None:
            return None
        number, _, unit = self.shown_size.partition(" ")
        try:
            value, half = float(number), 0.5 * 10.0 ** -len(number.partition(".")[2])
            factor = UNITS[unit]
        except (ValueError, KeyError) as error:
            raise ConfigurationError(f"the size of {self.path} is a number and one of {', '.join(UNITS)}: {error}") from error
        return (value - half) * factor, (value + half) * factor


@dataclass(frozen=True)
class WeightCard:
    """Weights of one model.

    Attributes:
        name: of the card's file.
        title: for people.
        folder: of the model below the weight folder.
        format: ``diffusers`` for a folder that is used as it comes, else what ``prd convert`` makes of the file.
        licence, licence_url: as the owner states them.
        files: to download.
        provides: patterns of the files that the finished folder has.
        repository, mirrors: Hugging Face repositories, tried in that order.
        url: address of a single file that is in no repository.
        revision: of the repositories; None for the newest.
        text_width: of a token.
        needs: names of cards whose models a conversion borrows parts of; the first is its base.
        tensors, values: numbers of tensors and of values in the file, where known.
        notes: what to know.
    """

    name: str
    title: str
    folder: str
    format: str
    licence: str | None
    licence_url: str | None
    files: tuple[WeightFile, ...]
    provides: tuple[str, ...]
    repository: str | None = None
    mirrors: tuple[str, ...] = ()
    url: str | None = None
    revision: str | None = None
    text_width: int | None = None
    needs: tuple[str, ...] = ()
    tensors: int | None = None
    values: int | None = None
    notes: str = ""

    @classmethod
    def from_values(cls, name: str, values: dict[str, Any]) -> "WeightCard":
        """A card from its YAML values.

        Raises:
            ConfigurationError: an entry is unknown or missing.
        """
        known = {item.name for item in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise ConfigurationError(f"weight card {name} has unknown entries {unknown}; known: {', '.join(sorted(known))}")
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list) and key != "files"}
        try:
            return cls(name=name, **{**values, **lists, "files": tuple(WeightFile(**each) for each in values["files"])})
        except (TypeError, KeyError) as error:
            raise ConfigurationError(f"weight card {name} is incomplete: {error}") from error

    @property
    def repositories(self) -> tuple[str, ...]:
        """The repository and its mirrors."""
        return (self.repository, *self.mirrors) if self.repository else ()

    @property
    def converted(self) -> bool:
        """Whether the downloaded file is converted before it is used."""
        return self.format != "diffusers"

    def place(self, root: Path) -> Path:
        """The finished model's folder."""
        return root / self.folder

    def download_folder(self, root: Path) -> Path:
        """Where downloaded files are put."""
        return root / ORIGINALS if self.converted else self.place(root)

    def originals(self, root: Path) -> list[Path]:
        """Where the file of a model that comes in one, unconverted, is looked for."""
        name = self.files[0].path
        return [self.place(root) / name, root / ORIGINALS / name, root / name] if self.converted else []

    def original(self, root: Path) -> Path | None:
        """The unconverted file, if it is there; it is converted whenever it is loaded."""
        return next((path for path in self.originals(root) if path.is_file()), None)

    def sources(self, file: WeightFile) -> tuple[str, ...]:
        """Addresses of a file."""
        named = [f"{HUB}/{repository}/resolve/{self.revision or 'main'}/{file.path}" for repository in self.repositories]
        return (*named, self.url) if self.url else tuple(named)

    def lacking(self, root: Path) -> list[str]:
        """Patterns of the finished folder that no file matches; empty if the model is ready for use."""
        return [pattern for pattern in self.provides if not any(self.place(root).glob(pattern))]

    def base_card(self) -> "WeightCard":
        """The card of the model that the conversion borrows from."""
        return card_named(self.needs[0])


@cache
def all_cards() -> dict[str, WeightCard]:
    """Every card by name."""
    paths = sorted((config_directory() / "weights").glob("*.yaml"))
    return {path.stem: WeightCard.from_values(path.stem, OmegaConf.to_container(OmegaConf.load(path))) for path in paths}


def card_named(name: str) -> WeightCard:
    """The card of that name.

    Raises:
        ConfigurationError: there is none.
    """
    if name not in all_cards():
        raise ConfigurationError(f"there is no weight card {name!r}; there are {', '.join(all_cards())}")
    return all_cards()[name]


def card_of_format(name: str, folder: str | None = None) -> WeightCard | None:
    """The card of a file format, or of a diffusers folder by its name; None if there is none."""
    for card in all_cards().values():
        if card.format == name and (card.converted or card.folder == folder):
            return card
    return None


def card_of_folder(folder: str | Path, root: Path) -> WeightCard | None:
    """The card of the model that belongs into a folder (a path, or ``weights:NAME``); None if it is not one of ``root``'s."""
    place = root / str(folder).removeprefix(DOWNLOADED_PREFIX) if str(folder).startswith(DOWNLOADED_PREFIX) else Path(folder)
    for card in all_cards().values():
        if place == card.place(root):
            return card
    return None


def with_needs(cards: Sequence[WeightCard]) -> list[WeightCard]:
    """The cards and those that they need, in an order in which they can be made ready."""
    ordered: dict[str, WeightCard] = {}
    for card in cards:
        for needed in with_needs([card_named(name) for name in card.needs]):
            ordered.setdefault(needed.name, needed)
        ordered.setdefault(card.name, card)
    return list(ordered.values())


def folders_of_config(overrides: Sequence[str]) -> list[str]:
    """The model folders that ``prd train`` with these overrides would load.

    Raises:
        ConfigurationError: an override is wrong.
    """
    config = compose_config(overrides)
    named = [str(config.generator.base), *(str(teacher.folder) for teacher in config.teacher.values())]
    return list(dict.fromkeys(named))
