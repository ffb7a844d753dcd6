"""``prd doctor``: what this installation can do: versions, devices, optional backends, and which weights are there."""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from prd_lightning import __version__
from prd_lightning.cards import all_cards
from prd_lightning.checkpoints import GENERATOR_FILE
from prd_lightning.configuration import config_directory
from prd_lightning.tinyworld import weights_root
from prd_lightning.weights import WEIGHTS_VARIABLE, weights_directory

EXAMPLES = """examples:
  prd doctor
  prd doctor --json > report.json
  PRD_WEIGHTS=/data/weights prd doctor

The status is 0 whatever is missing: the tiny world needs neither optional backends nor downloaded weights."""

PACKAGES = ("torch", "lightning", "diffusers", "transformers", "accelerate", "safetensors", "hydra-core", "omegaconf",
            "huggingface_hub", "numpy", "trimesh", "pymeshlab", "xatlas")  # fmt: skip
BACKENDS = {
    "nvdiffrast": ("nvdiffrast.torch", "CUDA rasterizer, non-commercial licence: make setup EXTRAS=dev,cuda"),
    "deepspeed": ("deepspeed", "sharded training: make setup EXTRAS=dev,deepspeed"),
    "wandb": ("wandb", "logger=wandb: make setup EXTRAS=dev,wandb"),
    "tensorboard": ("tensorboard", "logger=tensorboard: make setup EXTRAS=dev,tensorboard"),
    "datasets": ("datasets", "data=huggingface: make setup EXTRAS=dev,data"),
    "pyarrow": ("pyarrow", "parquet prompts: make setup EXTRAS=dev,data"),
    "av": ("av", "turntables as MP4: make setup EXTRAS=dev,video"),
    "joblib sweeps": ("hydra_plugins.hydra_joblib_launcher", "hydra/launcher=joblib: make setup EXTRAS=dev,sweep"),
    "optuna sweeps": ("hydra_plugins.hydra_optuna_sweeper", "hydra/sweeper=optuna: make setup EXTRAS=dev,sweep"),
}
"""Optional modules, and what each is for and how to get it."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments and examples."""
    parser.epilog = EXAMPLES
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints the report."""
    report = examine()
    print(json.dumps(report, indent=2) if arguments.json else to_text(report))
    return 0


def examine() -> dict[str, Any]:
    """Everything that is reported, as plain values."""
    return {
        "versions": {"prd_lightning": __version__, "python": platform.python_version(), **_versions()},
        "machine": _machine(),
        "devices": _devices(),
        "backends": {name: _imports(module, hint) for name, (module, hint) in BACKENDS.items()},
        "places": {"configs": str(config_directory()), "weights": str(weights_directory().resolve()), "python": sys.executable},
        "weights": {"shipped": _shipped(), **_downloaded(weights_directory())},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _machine() -> dict[str, Any]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    free = shutil.disk_usage(".").free
    return {
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(pages / 2**30, 1),
        "free_disk_gib": round(free / 2**30, 1),
    }


def _devices() -> list[str]:
    devices = ["cpu"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(f"cuda:{index} {properties.name}, {properties.total_memory / 2**30:.1f} GiB")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def _imports(module: str, hint: str) -> dict[str, str | bool]:
    """Whether an optional module imports; anything may go wrong in a foreign module, and the report must go on."""
    try:
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001
        reason = str(error).strip().splitlines()
        return {"works": False, "reason": f"{type(error).__name__}: {reason[0] if reason else ''}", "hint": hint}
    return {"works": True, "reason": "", "hint": hint}


def _shipped() -> dict[str, Any]:
    names = sorted(path.name for path in weights_root().iterdir() if path.is_dir())
    generator = (weights_root() / "generator" / GENERATOR_FILE).is_file()
    return {"ready": bool(names) and generator, "place": str(weights_root()), "lacking": [] if generator else ["generator"]}


def _downloaded(root: Path) -> dict[str, Any]:
    return {
        card.name: {
            "ready": not (lacking := card.lacking(root)),
            "original": None if (original := card.original(root)) is None else str(original),
            "place": str(card.place(root)),
            "lacking": lacking,
            "title": card.title,
            "get": f"prd weights {card.name}",
        }
        for card in all_cards().values()
    }


def to_text(report: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = ["versions"]
    lines += [f"  {name:<16} {version}" for name, version in report["versions"].items()]
    lines += ["machine"] + [f"  {name:<16} {value}" for name, value in report["machine"].items()]
    lines += ["devices"] + [f"  {device}" for device in report["devices"]]
    lines += ["optional backends"]
    for name, found in report["backends"].items():
        lines.append(f"  {name:<16} {'works' if found['works'] else 'not here'}")
        if not found["works"]:
            lines.append(f"  {'':<16} {found['reason']}; {found['hint']}")
    lines += [f"weights ({WEIGHTS_VARIABLE}: {report['places']['weights']})"]
    for name, found in report["weights"].items():
        original = found.get("original")
        state = "ready" if found["ready"] else "original" if original else "missing"
        lines.append(f"  {name:<16} {state}  {original if state == 'original' else found['place']}")
        if state == "original":
            lines.append(f"  {'':<16} converted whenever it is loaded; once and for all: {found['get']}")
        elif not found["ready"]:
            how = found.get("get", "train one with `make train TEACHER=richdreamer`")
            lines.append(f"  {'':<16} lacks {', '.join(found['lacking'])}; get it with: {how}")
    return "\n".join([*lines, f"configs: {report['places']['configs']}"])
