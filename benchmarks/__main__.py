"""``python -m benchmarks``: runs the benchmarks, prints a table of each and writes all results as JSON."""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import REGISTRY
from benchmarks.measuring import SCHEMA, Result, Settings, environment, write_results
from prd_lightning.errors import ConfigurationError, PRDError
from prd_lightning.files import check_output
from prd_lightning.pipeline import resolve_device

EXAMPLES = """examples:
  python -m benchmarks                                    (all, three to six minutes)
  python -m benchmarks --only normals rasterizer
  python -m benchmarks --threads 1 --output results.json
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What the parts of the library cost.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", choices=REGISTRY, default=list(REGISTRY), metavar="NAME", help=f"some of: {', '.join(REGISTRY)}"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file for the results")
    parser.add_argument("--overwrite", action="store_true", help="replace --output if it exists")
    parser.add_argument("--device", help="cpu or cuda (default: the GPU if there is one)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: PyTorch's)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="timed rounds (default 3)")
    parser.add_argument("--smallest", action="store_true", help="tiny sizes: only try whether everything runs")
    return parser


def table_of(result: Result) -> Table:
    """A benchmark as a table; columns without a number are left out."""
    table = Table()
    columns = {"seconds": "{:.4f}", "ratio": "{:.2f}", "per_second": "{:.1f}", "graph_megabytes": "{:.0f}"}
    shown = {key: form for key, form in columns.items() if any(getattr(case, key) is not None for case in result.cases)}
    table.add_column("case")
    for key in shown:
        table.add_column(key.replace("_", " "), justify="right")
    for case in result.cases:
        values = [getattr(case, key) for key in shown]
        table.add_row(case.name, *("" if value is None else form.format(value) for value, form in zip(values, shown.values())))
    return table


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Runs what was asked for."""
    for name, value in (("--repeats", arguments.repeats), ("--threads", arguments.threads)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{name} must be at least 1, got {value}")
    if arguments.output:
        check_output(arguments.output, arguments.overwrite)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    settings = Settings(resolve_device(arguments.device), arguments.repeats, arguments.smallest)
    found = {"schema": SCHEMA, "environment": environment(settings), "benchmarks": {}}
    console.print(", ".join(f"{key} {value}" for key, value in found["environment"].items()), style="dim", soft_wrap=True)
    for name in arguments.only:
        begun = time.perf_counter()
        result = REGISTRY[name](settings)
        taken = time.perf_counter() - begun
        sizes = ", ".join(f"{key} {value}" for key, value in result.sizes.items())
        console.print(f"\n[bold]{name}[/bold]: {result.title} [dim]({sizes}; took {taken:.0f} s)[/dim]", soft_wrap=True)
        console.print(table_of(result))
        found["benchmarks"][name] = {**result.to_dict(), "total_seconds": round(taken, 1)}
    write_results(found, arguments.output, arguments.overwrite)
    if arguments.output:
        console.print(str(arguments.output))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; a user's mistake is one line and status 2."""
    logging.basicConfig(level="WARNING", format="%(levelname)s %(name)s: %(message)s")
    try:
        run(build_parser().parse_args(arguments), Console())
    except PRDError as error:
        print(f"python -m benchmarks: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
