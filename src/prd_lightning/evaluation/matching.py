"""Which mesh file belongs to which prompt.

A manifest (CSV with a header, or JSONL) says so with the columns ``file`` and ``prompt``, and may give the ``seconds`` that a
mesh took. Without one, a file belongs to the prompt that ``NAME.json`` beside it names (``prd generate`` writes it), or whose
letters and digits are those of its name, or, for ``PROMPT/mesh.obj``, of its folder. A trailing ``_seedN`` does not count.
"""

import csv
import json
import logging
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prd_lightning.errors import MeshFileError, PromptError
from prd_lightning.evaluation.mesh_files import SUFFIXES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeshItem:
    """One mesh to score.

    Attributes:
        prompt: that it should show.
        path: None if there is no file for the prompt.
        seconds: that making it took, where that is known.
    """

    prompt: str
    path: Path | None
    seconds: float | None = None


def find_meshes(folder: Path, prompts: Sequence[str] | None = None, manifest: Path | None = None) -> list[MeshItem]:
    """The meshes of a folder, in the order of the prompts; a prompt without a mesh has an item without a path.

    Args:
        folder: is searched with its sub-folders.
        prompts: None for those that manifest, descriptions or names give.
        manifest: CSV or JSONL.

    Raises:
        MeshFileError: the folder does not exist or holds no mesh, or none belongs to a prompt.
        PromptError: the manifest cannot be read, or two prompts cannot be told apart by name.
    """
    if not folder.is_dir():
        raise MeshFileError(f"there is no folder of meshes {folder}")
    if manifest is not None:
        found = _from_manifest(folder, manifest)
    else:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
        if not files:
            raise MeshFileError(f"{folder} holds no mesh; looked for {', '.join(SUFFIXES)} there and in its sub-folders")
        found = _by_name(files, prompts)
    if prompts is None:
        return found
    known = set(prompts)
    if foreign := [item for item in found if item.prompt not in known]:
        logger.warning("%d meshes belong to no prompt of the list and are left out, e.g. %s", len(foreign), foreign[0].path)
    by_prompt: dict[str, list[MeshItem]] = {prompt: [] for prompt in prompts}
    for item in found:
        if item.prompt in known:
            by_prompt[item.prompt].append(item)
    if not any(by_prompt.values()):
        raise MeshFileError(
            f"no mesh of {folder} belongs to one of the {len(prompts)} prompts by its name; say which does with --manifest"
        )
    return [item for prompt, items in by_prompt.items() for item in (items or [MeshItem(prompt, None)])]


def name_key(text: str) -> str:
    """What is compared: letters and digits of any script, without a trailing seed."""
    stem = re.sub(r"_seed\d+$", "", unicodedata.normalize("NFKC", text).strip().casefold())
    return re.sub(r"[\W_]+", "_", stem).strip("_")


def _by_name(files: Sequence[Path], prompts: Sequence[str] | None) -> list[MeshItem]:
    keys: dict[str, str] = {}
    for prompt in prompts or ():
        if (other := keys.setdefault(name_key(prompt), prompt)) != prompt:
            raise PromptError(f"{prompt!r} and {other!r} cannot be told apart by the names of files; give a --manifest")
    found, unmatched = [], []
    for path in files:
        description = _description(path)
        without_hash = re.sub(r"_[0-9a-f]{8}(?=_seed\d+$)", "", path.stem)
        candidates = [description.get("prompt", ""), path.stem, without_hash, path.parent.name]
        matched = next((keys[name_key(name)] for name in candidates if name_key(name) in keys), None)
        if prompts is None:
            matched = description.get("prompt") or re.sub(r"_seed\d+$", "", path.stem).replace("_", " ").strip()
        if matched:
            found.append(MeshItem(matched, path, description.get("seconds")))
        else:
            unmatched.append(path)
    if unmatched:
        logger.warning("%d meshes belong to no prompt by their names and are left out, e.g. %s", len(unmatched), unmatched[0])
    return found


def _description(path: Path) -> dict[str, Any]:
    """What the JSON file beside a mesh says; empty without one."""
    try:
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("prompt", ""), str) else {}


def _from_manifest(folder: Path, manifest: Path) -> list[MeshItem]:
    try:
        text = manifest.read_text(encoding="utf-8-sig")
        lines = [line for line in text.splitlines() if line.strip()]
        rows = list(csv.DictReader(lines)) if manifest.suffix.lower() == ".csv" else [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise PromptError(f"the manifest {manifest} cannot be read as CSV or JSONL: {error}") from error
    items = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not row.get("file") or not str(row.get("prompt") or "").strip():
            raise PromptError(f"entry {number} of the manifest {manifest} has no `file` and `prompt`: {row}")
        try:
            seconds = float(row["seconds"]) if row.get("seconds") not in (None, "") else None
        except (TypeError, ValueError) as error:
            raise PromptError(f"entry {number} of the manifest {manifest}: seconds is no number: {row['seconds']!r}") from error
        items.append(MeshItem(str(row["prompt"]).strip(), folder / str(row["file"]), seconds))
    if not items:
        raise PromptError(f"the manifest {manifest} is empty")
    return items
