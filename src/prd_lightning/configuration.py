"""Where the Hydra configs are."""

from pathlib import Path

from prd_lightning.errors import ConfigurationError

_PACKAGE = Path(__file__).resolve().parent


def config_directory(package: Path = _PACKAGE) -> Path:
    """The folder of the Hydra configs: inside the installed package, or at the top of a source checkout.

    Args:
        package: the folder of ``prd_lightning``.

    Raises:
        ConfigurationError: the configs are in neither place.
    """
    installed, checkout = package / "conf", package.parents[1] / "conf"
    for folder in (installed, checkout):
        if folder.is_dir():
            return folder
    raise ConfigurationError(
        f"the configs are neither in {installed} (an installed package) nor in {checkout} (a source checkout); "
        "reinstall prd_lightning"
    )
