"""Going on with a run: its settings are its own, and what is changed on the way is named.

A run's folder keeps the overrides that it was started with. ``prd train output=RUN ckpt_path=last`` composes them again, with the
new overrides after them. Lengths, devices and what is only written may change freely, and what follows from them (a schedule that
ends with training) changes along; any other change is refused unless ``accept_changes=true``.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prd_lightning.configuration import compose_config, plain
from prd_lightning.errors import ConfigurationError
from prd_lightning.files import atomic_write
from prd_lightning.run_folder import CHECKPOINTS, CONFIG_FILE, OVERRIDES_FILE, complete_checkpoints

logger = logging.getLogger(__name__)

FREE = (
    "output",
    "overwrite",
    "ckpt_path",
    "accept_changes",
    "threads",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.log_every_n_steps",
    "trainer.enable_progress_bar",
    "strategy",
    "logger",
    "preview",
    "checkpoint",
    "evaluation",
    "hydra",
)
"""Settings, and groups of them, that do not change what is learned."""


def requeued_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides for a job that Slurm has started again: with ``ckpt_path=last`` if its run has a checkpoint, else with
    ``overwrite=true`` if it has begun at all. Those of other jobs stay as they are."""
    given = {_key(override): override.partition("=")[2] for override in overrides}
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    if restarts == "0" or "ckpt_path" in given or "output" not in given:
        return list(overrides)
    folder = Path(given["output"].strip("'\""))
    if complete_checkpoints(folder):
        return [*overrides, "ckpt_path=last"]
    return [*overrides, "overwrite=true"] if (folder / CONFIG_FILE).is_file() else list(overrides)


def resumed_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides of the run that ``output`` or ``ckpt_path`` names, then the given ones; those alone if none is resumed.

    Raises:
        ConfigurationError: a given override changes what is learned, and ``accept_changes=true`` is not among them.
    """
    given = {_key(override): override.partition("=")[2] for override in overrides}
    folder = _run_folder(given)
    if folder is None or not (file := folder / OVERRIDES_FILE).is_file():
        return list(overrides)
    earlier = [str(override) for override in OmegaConf.load(file)]
    chosen = merge(earlier, overrides)
    free = merge(earlier, [override for override in overrides if _is_free(_key(override))])
    if found := differences(compose_config(free), compose_config(chosen)):
        message = f"the run in {folder} was started with other settings: " + "; ".join(found)
        if given.get("accept_changes", "false").lower() != "true":
            raise ConfigurationError(f"{message}. Leave them out, or go on with the new ones by accept_changes=true")
        logger.warning(message)
    return chosen


def merge(earlier: Sequence[str], later: Sequence[str]) -> list[str]:
    """Both lists without those of ``earlier`` that ``later`` names again."""
    renewed = {_key(override) for override in later}
    return [override for override in earlier if _key(override) not in renewed] + list(later)


def differences(before: DictConfig, after: DictConfig) -> list[str]:
    """``key: old -> new`` of every setting that differs and is not free."""
    old, new = (_flat(plain(config)) for config in (before, after))
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key) and not _is_free(key)]
    return [f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in keys]


def save_overrides(folder: Path, overrides: Sequence[str]) -> None:
    """Keeps what a run was started with, but for where it is and how it goes on."""
    kept = [value for value in overrides if _key(value) not in ("output", "overwrite", "ckpt_path", "accept_changes")]
    with atomic_write(folder / OVERRIDES_FILE, overwrite=True) as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(kept)))


def _run_folder(given: dict[str, str]) -> Path | None:
    location = given.get("ckpt_path", "null").strip("'\"")
    if location in ("null", ""):
        return None
    if location == "last":
        return Path(given["output"].strip("'\"")) if "output" in given else None
    checkpoints = Path(location).expanduser().absolute().parent
    return checkpoints.parent if checkpoints.name == CHECKPOINTS else None


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _is_free(key: str) -> bool:
    return any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in FREE)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    flat: dict[str, Any] = {}
    for name, inner in values.items():
        flat |= _flat(inner, f"{prefix}.{name}" if prefix else str(name))
    return flat
