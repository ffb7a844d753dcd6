"""A summary as a picture: one panel a metric, one line a variant, a dot for each run, mean and deviation on top."""

from pathlib import Path

from prd_lightning.errors import BackendUnavailableError
from prd_lightning.files import atomic_write
from prd_lightning.sweeps.summary import Summary

PLOT_FILE = "summary.png"
LONGEST_LABEL, MOST_PANELS = 48, 8


def write_plot(summary: Summary, path: Path) -> Path:
    """Writes the picture; an earlier one is replaced.

    Raises:
        BackendUnavailableError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendUnavailableError("the plot of a sweep needs matplotlib: pip install 'prd_lightning[sweep]'") from error
    metrics = [name for name in summary.metrics if any(name in variant.statistics for variant in summary.variants)][:MOST_PANELS]
    names = [_shortened(variant.name) for variant in summary.variants]
    count = max(len(metrics), 1)
    figure = Figure(figsize=(2.2 + 2.6 * count + 0.055 * max(map(len, names)), 1.4 + 0.32 * len(names)), layout="constrained")
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for panel, metric in zip(panels, metrics):
        for row, variant in enumerate(summary.variants):
            if (found := variant.statistics.get(metric)) is None:
                continue
            panel.plot(found.values, [row] * len(found.values), "o", color="0.72", markersize=4, zorder=1)
            panel.errorbar(found.mean, row, xerr=found.deviation, fmt="o", color="C0", markersize=5, capsize=3, zorder=2)
        panel.set_title(metric)
        panel.grid(axis="x", color="0.9")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    if not metrics:
        panels[0].set_title("no finished run")
    figure.supxlabel(f"mean ± standard deviation over {' and '.join(summary.repeated)}; grey: single runs", fontsize="small")
    with atomic_write(path, overwrite=True) as temporary:
        figure.savefig(temporary, dpi=140)
    return path


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}…"
