"""Results of meshes, their summary over prompts, and the files that they are written to: JSON, CSV and a contact sheet."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from prd_lightning.evaluation.matching import MeshItem
from prd_lightning.evaluation.protocol import Protocol
from prd_lightning.files import atomic_write
from prd_lightning.mesh.health import MeshHealth
from prd_lightning.metrics import bootstrap_interval, geometry_summary

SUMMARY_FILE, TABLE_FILE, SHEET_FILE = "scores.json", "scores.csv", "sheet.png"
COLUMNS, CELL, CAPTION_LINES, LINE = 6, 96, 3, 13
HEALTH_COLUMNS = ("faces", "vertices", "components", "watertight", "manifold", "open_edges", "self_intersections")


@dataclass(frozen=True)
class MeshResult:
    """Scores of one mesh; see ``score_records``."""

    prompt: str
    file: str | None
    error: str | None
    clip_score: float
    view_scores: list[float]
    view_ranks: list[int]
    recall: dict[int, float]
    seconds: float | None
    health: dict[str, Any] | None
    picture: str | None

    @classmethod
    def failure(cls, item: MeshItem, error: str, prompts: int, recall_at: Sequence[int]) -> "MeshResult":
        """What stands for a mesh that is missing, unreadable or empty."""
        file = None if item.path is None else str(item.path)
        return cls(item.prompt, file, error, 0.0, [], [prompts], {k: 0.0 for k in recall_at}, item.seconds, None, None)


def summarize(results: Sequence[MeshResult], protocol: Protocol) -> dict[str, Any]:
    """Means over prompts with bootstrap intervals, and everything that is known of each prompt, by prompt."""
    by_prompt: dict[str, list[MeshResult]] = {}
    for result in results:
        if protocol.counts_failures or result.error is None:
            by_prompt.setdefault(result.prompt, []).append(result)
    failures = [result for result in results if result.error is not None]
    good = [result for result in results if result.error is None]
    summary: dict[str, Any] = {
        "protocol": asdict(protocol) | {"text": protocol.text("PROMPT")},
        "prompts": len(by_prompt),
        "meshes": len(good),
        "failures": len(failures),
        "clip_score": _interval([mean(one.clip_score for one in group) for group in by_prompt.values()]),
    }
    for k in protocol.recall_at:
        shares = [100 * mean(one.recall[k] for one in group) for group in by_prompt.values()]
        summary[f"recall_at_{k}"] = _interval(shares)
    if protocol.name == "published" and good:
        summary["clip_score_as_printed"] = mean(good[-1].view_scores)
    seconds = [result.seconds for result in results if result.seconds is not None]
    summary["seconds_per_mesh"] = {"mean": mean(seconds), "median": median(seconds)} if seconds else None
    summary["geometry"] = geometry_summary([MeshHealth(**result.health) for result in good])
    summary["errors"] = {result.file or result.prompt: result.error for result in failures}
    summary["scores"] = {prompt: _of_prompt(group) for prompt, group in by_prompt.items()}
    return summary


def _interval(values: Sequence[float]) -> dict[str, float] | None:
    return asdict(bootstrap_interval(values)) if values else None


def _of_prompt(group: Sequence[MeshResult]) -> dict[str, Any]:
    recall = {f"recall_at_{k}": 100 * mean(one.recall[k] for one in group) for k in group[0].recall}
    meshes = [{key: value for key, value in asdict(one).items() if key not in ("prompt", "recall")} for one in group]
    return {"clip_score": mean(one.clip_score for one in group), **recall, "meshes": meshes}


def write_results(folder: Path, summary: dict[str, Any], results: Sequence[MeshResult]) -> list[Path]:
    """Writes JSON, CSV and contact sheet; files of those names are replaced."""
    with atomic_write(folder / SUMMARY_FILE, overwrite=True) as temporary:
        temporary.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _write_table(folder / TABLE_FILE, results)
    contact_sheet(folder, results)
    return [folder / name for name in (SUMMARY_FILE, TABLE_FILE, SHEET_FILE)]


def _write_table(path: Path, results: Sequence[MeshResult]) -> None:
    with atomic_write(path, overwrite=True) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        recalls = list(results[0].recall)
        header = ["prompt", "file", "error", "clip_score", *[f"recall_at_{k}" for k in recalls], "best_rank", "seconds"]
        writer = csv.writer(file)
        writer.writerow([*header, *HEALTH_COLUMNS])
        for result in results:
            health = [None if result.health is None else result.health[name] for name in HEALTH_COLUMNS]
            shares = [100 * result.recall[k] for k in recalls]
            row = [result.prompt, result.file, result.error, result.clip_score, *shares, min(result.view_ranks), result.seconds]
            writer.writerow([*row, *health])


def contact_sheet(folder: Path, results: Sequence[MeshResult]) -> None:
    """One PNG with up to four views of every mesh (two by two), its prompt and its score."""
    font = ImageFont.load_default(LINE - 2)
    width, height = 2 * CELL + 8, 2 * CELL + (CAPTION_LINES + 1) * LINE + 8
    columns = min(COLUMNS, len(results))
    sheet = Image.new("RGB", (columns * width, -(-len(results) // columns) * height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for index, result in enumerate(results):
        left, top = index % columns * width + 4, index // columns * height + 4
        if result.picture is None:
            draw.rectangle((left, top, left + 2 * CELL, top + 2 * CELL), outline=(200, 60, 60))
            draw.text((left + 6, top + CELL), "no mesh", fill=(200, 60, 60), font=font)
        else:
            _paste_views(sheet, folder / result.picture, left, top)
        score = "failed" if result.error else f"{result.clip_score:.1f}, rank {min(result.view_ranks)}"
        for line, text in enumerate([*_lines(result.prompt, font, 2 * CELL), score]):
            draw.text((left, top + 2 * CELL + 2 + line * LINE), text, fill=(0, 0, 0), font=font)
    with atomic_write(folder / SHEET_FILE, overwrite=True) as temporary:
        sheet.save(temporary, format="PNG")


def _paste_views(sheet: Image.Image, path: Path, left: int, top: int) -> None:
    with Image.open(path) as strip:
        size = strip.height
        for view in range(min(4, strip.width // size)):
            picture = strip.crop((view * size, 0, (view + 1) * size, size)).resize((CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left + view % 2 * CELL, top + view // 2 * CELL))


def _lines(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """At most ``CAPTION_LINES`` lines; a longer text ends in dots."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines if len(lines) <= CAPTION_LINES else [*lines[: CAPTION_LINES - 1], f"{lines[CAPTION_LINES - 1]} ..."]
