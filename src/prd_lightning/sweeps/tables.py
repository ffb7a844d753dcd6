"""A summary as CSV files, as Markdown, and as a table on the screen."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from rich.table import Table

from prd_lightning.files import atomic_write
from prd_lightning.sweeps.summary import CPU_SECONDS, Statistic, Summary, Variant

VARIANTS_FILE, JOBS_FILE, PAGE_FILE = "summary.csv", "jobs.csv", "summary.md"
MOST_COLUMNS = 6
"""Metrics on the page and on the screen; the CSV files have all."""


def write_tables(summary: Summary, folder: Path, root: Path) -> list[Path]:
    """Writes ``summary.csv`` (a row a variant), ``jobs.csv`` (a row a run) and ``summary.md``; earlier ones are replaced.

    Args:
        summary: of the runs.
        folder: for the files.
        root: run folders are named relative to it.
    """
    contents = {
        VARIANTS_FILE: _csv(variant_rows(summary)),
        JOBS_FILE: _csv(job_rows(summary, root)),
        PAGE_FILE: markdown(summary, root),
    }
    for name, text in contents.items():
        with atomic_write(folder / name, overwrite=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in contents]


def variant_rows(summary: Summary) -> Iterable[list[object]]:
    """A header and a row for each variant: full numbers, empty where there is none."""
    columns = [*summary.metrics, CPU_SECONDS]
    compared = [f"{name}_difference" for name in summary.metrics] if summary.baseline is not None else []
    numbered = [f"{name}_{part}" for name in (*columns, *compared) for part in ("mean", "std")]
    yield ["variant", *summary.varied, "runs", "unfinished", *numbered]
    for variant in summary.variants:
        numbers: list[object] = []
        shown = [variant.statistics.get(name) for name in columns]
        shown += [variant.differences.get(name) for name in summary.metrics] if compared else []
        for found in shown:
            numbers += ["", ""] if found is None else [found.mean, "" if found.deviation is None else found.deviation]
        count = len(variant.finished)
        settings = [variant.settings.get(key, "") for key in summary.varied]
        yield [variant.name, *settings, count, len(variant.runs) - count, *numbers]


def job_rows(summary: Summary, root: Path) -> Iterable[list[object]]:
    """A header and a row for each run."""
    columns = [*summary.varied, *summary.repeated]
    times = ["steps", "seconds", "cpu_seconds"]
    yield ["folder", "variant", *columns, "status", *summary.metrics, *times, "error"]
    for variant in summary.variants:
        for run in variant.runs:
            settings = [run.settings.get(key, "") for key in columns]
            numbers = [run.metrics.get(name, "") for name in summary.metrics]
            spent = ["" if value is None else value for value in (run.steps, run.seconds, run.cpu_seconds)]
            yield [_place(run.folder, root), variant.name, *settings, run.status, *numbers, *spent, run.error]


def markdown(summary: Summary, root: Path) -> str:
    """The page: mean and deviation of every variant, and the runs that did not finish."""
    over = " and ".join(summary.repeated)
    count = sum(len(variant.finished) for variant in summary.variants)
    lines = [f"# {len(summary.variants)} variants, {count} finished runs", ""]
    lines += [f"Mean ± sample standard deviation over `{over}`. Written by `prd sweep-summary`.", ""]
    if summary.baseline is not None:
        lines[2:3] = [f"{lines[2]} Differences are to `{summary.baseline}`, of runs with the same `{over}`."]
    header = _header(summary)
    lines += [_line(header), _line(["---"] + ["---:"] * (len(header) - 1))]
    lines += [_line(_cells(summary, variant)) for variant in summary.variants]
    if summary.unfinished:
        lines += ["", "Not finished:", ""]
        for run in summary.unfinished:
            lines.append(f"* `{_place(run.folder, root)}`: {run.status}{': ' + run.error if run.error else ''}")
    return "\n".join(lines) + "\n"


def screen_table(summary: Summary) -> Table:
    """The same for a terminal."""
    first, *others = _header(summary)
    table = Table(first)
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    for variant in summary.variants:
        table.add_row(*_cells(summary, variant))
    return table


def _cells(summary: Summary, variant: Variant) -> list[str]:
    runs = f"{len(variant.finished)}" + (f" of {len(variant.runs)}" if len(variant.finished) < len(variant.runs) else "")
    shown = {name: ".3g" if name.startswith("train/") else ".3f" for name in summary.metrics[:MOST_COLUMNS]}
    numbers = [_shown(variant.statistics.get(name), form) for name, form in shown.items()]
    if summary.baseline is not None:
        numbers += [_shown(variant.differences.get(name), f"+{form}") for name, form in shown.items()]
    return [variant.name, runs, *numbers, _shown(variant.statistics.get(CPU_SECONDS), ".0f")]


def _header(summary: Summary) -> list[str]:
    metrics = summary.metrics[:MOST_COLUMNS]
    differences = [f"Δ {name}" for name in metrics] if summary.baseline is not None else []
    return ["variant", "runs", *metrics, *differences, "CPU seconds"]


def _shown(found: Statistic | None, form: str) -> str:
    if found is None:
        return "–"
    spread = "" if found.deviation is None else f" ± {format(found.deviation, form.removeprefix('+'))}"
    return format(found.mean, form) + spread


def _place(folder: Path, root: Path) -> str:
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _csv(rows: Iterable[list[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()

