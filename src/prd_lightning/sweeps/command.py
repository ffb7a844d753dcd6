"""``prd sweep-summary``: a table and a plot of the trainings under one folder."""

import argparse
import logging
from pathlib import Path

from rich.console import Console

from prd_lightning.errors import BackendUnavailableError
from prd_lightning.files import check_output
from prd_lightning.sweeps.plot import PLOT_FILE, write_plot
from prd_lightning.sweeps.runs import find_runs
from prd_lightning.sweeps.summary import Summary, summarize
from prd_lightning.sweeps.tables import VARIANTS_FILE, screen_table, write_tables

logger = logging.getLogger(__name__)

EXAMPLES = """examples:
  prd sweep-summary runs/sweeps/2026-01-31_12-00-00
  prd sweep-summary runs/ablations --metrics iou color_accuracy --sort iou
  prd sweep-summary runs/ablations --baseline full
  prd sweep-summary runs/ablations --over seed world.batch_size --output tables

Writes summary.csv (a row a variant), jobs.csv (a row a run), summary.md and summary.png. A variant is what runs share apart
from their seed; a row has the mean and the sample standard deviation over seeds. Only finished runs count; others are listed."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder with the runs, at any depth")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the tables, replacing others (default: ROOT)")
    parser.add_argument(
        "--over", nargs="+", default=["seed"], metavar="KEY", help="settings over which means are taken (default: seed)"
    )
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="which numbers (default: all of evaluation.json)")
    parser.add_argument("--baseline", metavar="VARIANT", help="compare the others with this one, seed by seed")
    parser.add_argument("--sort", metavar="NAME", help="metric by which variants are sorted, the largest first")


def run(arguments: argparse.Namespace) -> int:
    """Writes the tables and prints one."""
    output = arguments.output or arguments.root
    summary = summarize(find_runs(arguments.root), arguments.over, arguments.metrics, arguments.sort, arguments.baseline)
    write_summary(summary, output, arguments.root)
    return 0


def write_summary(summary: Summary, folder: Path, root: Path) -> None:
    """Writes tables and plot of the runs under ``root`` into ``folder`` and prints the table.

    Without matplotlib there is a warning and no plot.
    """
    check_output(folder / VARIANTS_FILE, overwrite=True)
    written = write_tables(summary, folder, root)
    try:
        written.append(write_plot(summary, folder / PLOT_FILE))
    except BackendUnavailableError as error:
        logger.warning("%s", error)
    console = Console()
    console.print(screen_table(summary))
    for run in summary.unfinished:
        console.print(f"{run.status}: {run.folder}{': ' + run.error if run.error else ''}", soft_wrap=True, markup=False)
    for path in written:
        print(path)
