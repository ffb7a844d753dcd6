"""Hydra's configs: where they are, and how mistakes in them are told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

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


def register_resolvers() -> None:
    """The functions that the configs use: ``prd.default`` (a value or what stands for null) and ``prd.share`` (of a number)."""
    OmegaConf.register_new_resolver("prd.default", lambda value, default: default if value is None else value, replace=True)
    OmegaConf.register_new_resolver("prd.share", lambda share, total: round(float(share) * float(total)), replace=True)


register_resolvers()


def compose_config(overrides: Sequence[str] = (), name: str = "train", hydra: bool = False) -> DictConfig:
    """The config that ``prd train`` would run with ``overrides``; with ``hydra`` also Hydra's own settings.

    Raises:
        ConfigurationError: an override is malformed, or names a key or a value that does not exist; the message lists what does.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        try:
            return compose(name, overrides=list(overrides), return_hydra_config=hydra)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigurationError(_explanation(error, overrides)) from error


def check_overrides(overrides: Sequence[str], name: str = "train") -> None:
    """Composes every override by itself and in each of its sweep values, so that a sweep does not fail in its last job.

    An interval is checked at both ends. Each value is composed once, not each combination of values.

    Raises:
        ConfigurationError: as ``compose_config``.
    """
    plain, swept = [], []
    for override in _parse([*overrides, *_swept_by_file(overrides, name)]):
        if override.is_sweep_override():
            swept.append([f"{override.get_key_element()}={value}" for value in _choices(override)])
        else:
            plain.append(override.input_line)
    compose_config(plain + [choices[0] for choices in swept if choices], name)
    for choices in swept:
        for choice in choices[1:]:
            compose_config([*plain, choice], name)


def _parse(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigurationError(f"an override has the form key=value: {str(error).splitlines()[0]}") from error


def _choices(override: Override) -> list[str]:
    """Values of a sweep; of a glob none, since what it matches is known to Hydra alone."""
    if override.is_interval_sweep():
        return [str(override.value().start), str(override.value().end)]
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return []
    return [str(value) for value in override.sweep_string_iterator()]


def _swept_by_file(overrides: Sequence[str], name: str) -> list[str]:
    """What a file of the group ``sweep`` sweeps over, unless the command line gives another value."""
    chosen = [override for override in overrides if override.startswith("sweep=")]
    if not chosen:
        return []
    given = {override.partition("=")[0] for override in overrides}
    parameters = compose_config(chosen, name, hydra=True).hydra.sweeper.get("params") or {}
    return [f"{key}={value}" for key, value in parameters.items() if key not in given]


def _explanation(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's message in one paragraph, with the keys that exist where an unknown one was named."""
    message = " ".join(str(part).strip() for part in str(error).splitlines() if part.strip() and "full_key" not in part)
    if "Could not find" in message:
        return message  # a file of a group, with those that there are
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0].partition("@")[0]
        if "/" in key:
            continue  # a group within a group is no setting; Hydra's message lists what it holds
        if f"'{key}'" not in message and f"Key '{key.rpartition('.')[2]}'" not in message:
            continue
        if siblings := _known_keys(key):
            return f"there is no setting {key!r}; {siblings}"
    return message


def _known_keys(key: str) -> str:
    """What stands where ``key`` was looked for, in words; empty if the key exists."""
    config: Any = compose_config()
    parent, path = config, []
    for name in key.split("."):
        if not OmegaConf.is_dict(parent):
            return f"{'.'.join(path)} is a single value"
        if name not in parent:
            place = f"{'.'.join(path)} has" if path else "the config has"
            return f"{place} {', '.join(sorted(map(str, parent)))}"
        parent = parent._get_node(name)
        path.append(name)
    return ""


def plain(config: Any) -> Any:
    """Lists and dictionaries of Python, interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def to_yaml(config: DictConfig) -> str:
    """The resolved config as YAML."""
    return OmegaConf.to_yaml(config, resolve=True)
