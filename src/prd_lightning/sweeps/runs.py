"""What the folders under a sweep's root say about its trainings.

A run's folder holds ``job.json`` (overrides, times, how it ended), ``evaluation.json`` (scores) and ``metrics.csv``. Runs without
``job.json``, made before it existed or put together by hand, are told apart by the names of their folders.
"""

import csv
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prd_lightning.errors import MissingRunsError
from prd_lightning.run_folder import CONFIG_FILE, EVALUATION_FILE, METRICS_FILE

JOB_FILE = "job.json"
DONE, RUNNING, FAILED, INTERRUPTED = "done", "running", "failed", "interrupted"
NO_SETTINGS = ("output", "overwrite", "ckpt_path", "threads", "sweep")
"""Overrides that say where or how a training runs, not what it is."""


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        folder: of the run.
        settings: overrides by key, without those that do not change what is trained.
        metrics: final numbers by name: scores of ``evaluation.json``, else the last losses of ``metrics.csv``.
        status: ``done``, ``running``, ``failed`` or ``interrupted``.
        error: why it failed, empty if it did not.
        seconds, cpu_seconds: of the whole training; None where they were not recorded.
        steps: optimizer steps that were logged; None where there is no log.
    """

    folder: Path
    settings: dict[str, str]
    metrics: dict[str, float] = field(default_factory=dict)
    status: str = DONE
    error: str = ""
    seconds: float | None = None
    cpu_seconds: float | None = None
    steps: int | None = None


def find_runs(root: str | Path) -> list[Run]:
    """All runs under ``root``, by the numbers in their folders' names; a run's own sub-folders are not searched.

    Raises:
        MissingRunsError: ``root`` is no folder, or holds no run.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise MissingRunsError(f"there is no folder {root}")
    found = []
    for place, folders, files in os.walk(root):
        if JOB_FILE in files or CONFIG_FILE in files:
            found.append(Path(place))
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    if not found:
        raise MissingRunsError(f"no run under {root}: no folder holds {JOB_FILE} or {CONFIG_FILE}")
    return [read_run(folder) for folder in sorted(found, key=_natural)]


def read_run(folder: Path) -> Run:
    """What the files of one run say; damaged files count as missing."""
    job = _read_json(folder / JOB_FILE)
    logged, steps = _last_metrics(folder / METRICS_FILE)
    scores = flat_numbers(_read_json(folder / EVALUATION_FILE) or {})
    if job is None:
        settings = _settings_of_name(folder)
        status, error = (DONE if scores else INTERRUPTED), ""
        job = {}
    else:
        settings = parse_overrides(job.get("overrides", []))
        settings.setdefault("seed", str(job.get("seed", 0)))
        status, error = job.get("status", RUNNING), job.get("error") or ""
    return Run(folder, settings, scores or logged, status, error, job.get("seconds"), job.get("cpu_seconds"), steps)


def parse_overrides(overrides: list[str]) -> dict[str, str]:
    """Hydra's overrides by key, without ``NO_SETTINGS`` and Hydra's own; of a repeated key the last one counts."""
    settings = {}
    for override in overrides:
        key, _, value = override.partition("=")
        key = key.lstrip("+")
        if key not in NO_SETTINGS and not key.startswith("hydra"):
            settings[key] = value
    return settings


def flat_numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Finite numbers of a nested mapping by dotted names; lists (rows of single prompts) are left out."""
    found = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat_numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{prefix}{key}"] = float(value)
    return found


def _settings_of_name(folder: Path) -> dict[str, str]:
    """``3_mvdream_seed1`` is the variant ``mvdream``; the seed is that of the config, else of the name."""
    named = re.fullmatch(r"(?:\d+_)?(.*?)(?:_?seed(\d+))?", folder.name)
    seed = named[2]
    try:
        seed = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))["seed"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        pass
    return {"name": named[1] or folder.name, "seed": str(seed or 0)}


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _last_metrics(path: Path) -> tuple[dict[str, float], int | None]:
    """The last number of each ``train/`` column, and the last step."""
    last, steps = {}, None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    if name and name.startswith("train/") and text:
                        last[name] = float(text)
                steps = int(row["step"]) + 1 if row.get("step") else steps
    except (OSError, ValueError, csv.Error):
        return {}, None
    return {name: value for name, value in last.items() if math.isfinite(value)}, steps


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts ``2_b`` before ``10_a``."""
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
