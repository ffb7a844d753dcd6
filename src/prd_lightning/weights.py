"""Where weights are: a folder of the user, or a model that ships with the package."""

from pathlib import Path

from prd_lightning.errors import MissingWeightsError
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
