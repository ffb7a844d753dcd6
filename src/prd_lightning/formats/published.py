"""The published generator as it is found: converted, or the authors' file itself."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from prd_lightning.cards import card_named
from prd_lightning.checkpoints import GENERATOR_FILE, load_generator
from prd_lightning.errors import CheckpointFormatError, MissingWeightsError
from prd_lightning.formats.triplaneturbo import BASE_FOLDER, TRIPLANETURBO
from prd_lightning.tensorfiles import PICKLE_SUFFIXES, read_tensors
from prd_lightning.weights import WEIGHTS_VARIABLE, resolve_folder, weights_directory

PUBLISHED = "triplaneturbo"


def find_published() -> Path:
    """The published generator among the downloaded weights.

    Raises:
        MissingWeightsError: it is not there; the message lists where it was looked for, and how to get it.
    """
    root, card = weights_directory(), card_named(PUBLISHED)
    name = card.files[0].path
    places = [card.place(root) / GENERATOR_FILE, *card.originals(root)]
    for place in places:
        if place.is_file():
            return place
    raise MissingWeightsError(
        f"the published generator is not there; looked for {', '.join(map(str, places))}. Get it with "
        f"`prd weights {card.name}`, or put {name} from {card.sources(card.files[0])[0]} there, or set "
        f"{WEIGHTS_VARIABLE} to the folder that holds it"
    )


def read_generator(path: Path, base: str | Path | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and architecture of a generator file of ours, or of the authors' (told by its suffix).

    Args:
        path: of the file.
        base: Stable Diffusion's folder, instead of the one that the file names.

    Raises:
        MissingWeightsError: the file, or for the authors' file its base, is not there.
        CheckpointFormatError: the file is damaged or foreign, or belongs to another base.
    """
    if path.suffix not in PICKLE_SUFFIXES:
        tensors, header = load_generator(path)
        return tensors, header if base is None else header | {"base": str(base)}
    state = read_tensors(path)
    if not TRIPLANETURBO.recognizes(state):
        raise CheckpointFormatError(
            f"{path} is no generator of this library (those are safetensors) and not {TRIPLANETURBO.title}: "
            f"it has tensors such as {', '.join(sorted(state)[:3])}"
        )
    conversion = TRIPLANETURBO.convert(state, resolve_folder(base or BASE_FOLDER))
    return conversion.tensors[GENERATOR_FILE], json.loads(conversion.metadata[GENERATOR_FILE]["architecture"])
