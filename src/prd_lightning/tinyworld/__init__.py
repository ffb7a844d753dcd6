"""The embedded world: procedural objects, their prompts, and a family of tiny models trained on their renders.

Everything that a real run does can be done here in minutes and without a download. The models have the same classes and the
same folder layout as the real ones.
"""

from pathlib import Path

from prd_lightning.errors import ConfigurationError, MissingWeightsError

WEIGHT_FOLDERS = ("stable_diffusion", "mvdream", "richdreamer_nd", "clip", "text", "generator")


def weights_root() -> Path:
    """The folder with the weights that ship with the package."""
    return Path(__file__).parent / "weights"


def weights_folder(name: str) -> Path:
    """Folder of one shipped model.

    Raises:
        ConfigurationError: no model of that name belongs to the tiny world.
        MissingWeightsError: the package was installed without its weights.
    """
    if name not in WEIGHT_FOLDERS:
        raise ConfigurationError(f"the tiny world has no model {name!r}; it has {', '.join(WEIGHT_FOLDERS)}")
    folder = weights_root() / name
    if not folder.is_dir():
        raise MissingWeightsError(f"tiny-world weights are missing: {folder}; train them with `make tinyworld`")
    return folder
