"""``prd diagnose``: one picture of a run's log in which a divergence is visible."""

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prd_lightning.errors import BackendUnavailableError, ConfigurationError, MissingRunsError
from prd_lightning.files import atomic_write

EXAMPLES = """examples:
  prd diagnose runs/my_run
  prd diagnose runs/my_run --output divergence.png --overwrite

The picture has the losses, the gradients of each teacher on the maps of each renderer, the gradient of the weights with the
steps that were left out, the eikonal loss, the share of empty meshes, and the noise levels over time. docs/diagnosis.md shows how
to read it."""

DIAGNOSIS_FILE = "diagnosis.png"
Log = dict[str, tuple[list[float], list[float]]]
"""By name: optimizer steps and values."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument("run", type=Path, help="a run's folder, or a metrics.csv")
    parser.add_argument("--output", type=Path, help=f"PNG (default: {DIAGNOSIS_FILE} in the run's folder, which is replaced)")
    parser.add_argument("--overwrite", action="store_true", help="replace --output if it exists")


def run(arguments: argparse.Namespace) -> int:
    """Draws the picture and prints what looks wrong, and the picture's path."""
    log = read_log(arguments.run)
    folder = arguments.run if arguments.run.is_dir() else arguments.run.parent
    path = draw_diagnosis(log, arguments.output or folder / DIAGNOSIS_FILE, arguments.overwrite or arguments.output is None)
    for finding in findings(log):
        print(finding)
    print(path)
    return 0


def read_log(location: Path) -> Log:
    """The log of a run in the order of its steps; a resumed run's earlier parts come first.

    Raises:
        MissingRunsError: there is no log.
        ConfigurationError: it is no log of a training, or holds no row.
    """
    earlier = sorted(location.glob("metrics_part*.csv"), key=_part)
    parts = [path for path in (location, *earlier, location / "metrics.csv") if path.is_file()]
    if not parts:
        raise MissingRunsError(f"there is no log {location / 'metrics.csv'}; name a run's folder or its metrics.csv")
    columns: dict[str, dict[float, float]] = {}
    for path in parts:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                _add_row(columns, row, path)
    if not columns:
        raise ConfigurationError(f"{parts[-1]} holds no numbers of a training (columns step and train/...)")
    return {name: tuple(map(list, zip(*sorted(values.items())))) for name, values in columns.items()}


def _part(path: Path) -> int:
    digits = "".join(filter(str.isdigit, path.stem))
    return int(digits) if digits else 0


def _add_row(columns: dict[str, dict[float, float]], row: Mapping[str, Any], path: Path) -> None:
    try:
        step = float(row["step"])
        for name, text in row.items():
            if name and name.startswith("train/") and text not in (None, ""):
                columns.setdefault(name, {})[step] = float(text)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{path} is no log of a training: {error!r}") from error


def findings(log: Log) -> list[str]:
    """What looks wrong, in words; empty if nothing does."""
    found = []
    skipped = log.get("train/skipped_steps", ([], []))[1]
    if skipped and skipped[-1] > 0:
        found.append(f"{skipped[-1]:.0f} optimizer steps were left out, since their gradient was not finite")
    for name in ("train/loss", "train/gradient_norm"):
        steps, values = log.get(name, ([], []))
        bad = [step for step, value in zip(steps, values) if not math.isfinite(value)]
        if bad:
            found.append(f"{name} is not finite from step {bad[0]:.0f} on ({len(bad)} of {len(values)} rows)")
        elif (growth := _growth(values)) > 10:
            found.append(f"{name} grew to {growth:.0f} times its early level")
    empty = log.get("train/empty_mesh_share", ([], []))[1]
    if empty and _median(empty[-max(1, len(empty) // 4) :]) >= 0.5:
        found.append("half of the scenes or more have no surface at the end")
    eikonal = log.get("train/eikonal", ([], []))[1]
    if eikonal and not _median(eikonal[-max(1, len(eikonal) // 4) :]) < 1:
        found.append("the field is no distance any more: the eikonal loss is above 1 at the end")
    return found


def _growth(values: Sequence[float]) -> float:
    """Median of the last quarter over the median of the first."""
    quarter = max(1, len(values) // 4)
    early = _median(values[:quarter])
    return _median(values[-quarter:]) / early if values and early > 0 else 0.0


def _median(values: Sequence[float]) -> float:
    ordered = sorted(math.inf if math.isnan(value) else value for value in values)
    return ordered[len(ordered) // 2] if ordered else 0.0


def draw_diagnosis(log: Log, path: Path, overwrite: bool = False) -> Path:
    """Writes the picture.

    Raises:
        BackendUnavailableError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        message = f"plots need matplotlib, which does not import here ({error}): pip install matplotlib"
        raise BackendUnavailableError(message) from error
    figure = Figure(figsize=(15, 9))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.06, right=0.96, bottom=0.07, top=0.86, wspace=0.3, hspace=0.3)
    axes = figure.subplots(2, 3).flatten()
    _curves(axes[0], log, "losses (train/loss, teachers)", _losses(log), logarithmic=True)
    norms = {name: name.removeprefix("train/").replace("_gradient_norm", "") for name in log if name.endswith("_gradient_norm")}
    norms.pop("train/gradient_norm", None)
    _curves(axes[1], log, "teachers' gradients on the maps", norms, logarithmic=True)
    _curves(axes[2], log, "gradient of the weights; steps left out", {"train/gradient_norm": "norm"}, logarithmic=True)
    _skipped(axes[2], log)
    _curves(axes[3], log, "eikonal loss", {"train/eikonal": "eikonal"}, logarithmic=True)
    shares = {name: name.removeprefix("train/").replace("_gradient_share", " share") for name in log if name.endswith("_share")}
    _curves(axes[4], log, "empty meshes; shares of the teachers", shares, logarithmic=False)
    axes[4].set_ylim(-0.03, 1.03)
    _histogram(axes[5], log)
    text = "\n".join(findings(log)) or "nothing stands out"
    figure.text(0.06, 0.985, text, color="firebrick" if findings(log) else "darkgreen", va="top", fontsize=10)
    with atomic_write(path, overwrite) as temporary:
        figure.savefig(temporary, format="png", dpi=80)
    return path


def _losses(log: Log) -> dict[str, str]:
    plain = [name for name in log if name.count("/") == 1 and f"{name}/gradient_rms" in log]
    return {name: name.removeprefix("train/") for name in ["train/loss", *plain] if name in log}


def _curves(axis: Any, log: Log, title: str, names: Mapping[str, str], logarithmic: bool) -> None:
    """Lines over optimizer steps; a value that is not finite is a red tick at the top."""
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("optimizer step")
    axis.set_xlim(*_step_range(log))
    for name, label in names.items():
        steps, values = log.get(name, ([], []))
        if not steps:
            continue
        shown = [value if math.isfinite(value) and (value > 0 or not logarithmic) else math.nan for value in values]
        axis.plot(steps, shown, label=label, linewidth=1.2, marker="." if len(steps) < 30 else None)
        bad = [step for step, value in zip(steps, values) if not math.isfinite(value)]
        axis.plot(bad, [1.0] * len(bad), "rx", transform=axis.get_xaxis_transform(), clip_on=False)
    if logarithmic:
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        axis.yaxis.get_minor_locator().set_params(subs=(2.0, 5.0) if high / low < 1000 else ())
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7)
    else:
        axis.text(0.5, 0.5, "not in the log", ha="center", va="center", transform=axis.transAxes, color="gray")
    axis.grid(alpha=0.3)


def _step_range(log: Log) -> tuple[float, float]:
    """The steps of the whole log with a margin, the same in every panel."""
    first, last = min(steps[0] for steps, _ in log.values()), max(steps[-1] for steps, _ in log.values())
    margin = max(0.03 * (last - first), 0.5)
    return first - margin, last + margin


def _skipped(axis: Any, log: Log) -> None:
    steps, values = log.get("train/skipped_steps", ([], []))
    if values:
        second = axis.twinx()
        second.step(steps, values, color="firebrick", linewidth=1.0, where="post")
        second.set_ylabel("steps left out", color="firebrick", fontsize=8)
        second.set_ylim(-0.05, max(1.0, values[-1] * 1.1))


def _histogram(axis: Any, log: Log) -> None:
    """Shares of the noise levels by tenths (rows) over optimizer steps (columns), one teacher above the other."""
    axis.set_title("noise levels drawn, by tenths of T", fontsize=10)
    teachers = sorted({name.split("/")[1] for name in log if name.rpartition("/")[2].startswith("t_")})
    if not teachers:
        axis.text(0.5, 0.5, "not in the log", ha="center", va="center", transform=axis.transAxes, color="gray")
        return
    rows = []
    for teacher in teachers:
        bins = sorted(name for name in log if name.startswith(f"train/{teacher}/t_"))
        rows += [log[name][1] for name in bins]
    length, steps = min(map(len, rows)), log[f"train/{teachers[0]}/t_00"][0]
    extent = (steps[0] - 0.5, steps[-1] + 0.5, 0, len(teachers))
    axis.imshow([row[-length:] for row in rows], aspect="auto", origin="lower", cmap="viridis", extent=extent)
    axis.set_yticks([index + 0.5 for index in range(len(teachers))], teachers, fontsize=8, rotation=90, va="center")
    axis.hlines(range(1, len(teachers)), *extent[:2], color="white", linewidth=1)
    axis.set_xlabel("optimizer step")
