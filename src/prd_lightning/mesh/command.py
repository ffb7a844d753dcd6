"""``prd mesh``: what is known of mesh files."""

import argparse
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from prd_lightning.mesh.health import MeshHealth
from prd_lightning.mesh.reading import file_health

EXAMPLES = """examples:
  prd mesh report cone.glb
  prd mesh report meshes/*.glb --json > health.json

Vertices at the same place count once. Texel density is in pixels of the texture along a unit of length."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's actions and examples."""
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    report = actions.add_parser(
        "report",
        help="health of mesh files: watertight, manifold, genus, self-intersections, area, volume, texel density, ...",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument("files", nargs="+", metavar="FILE", help="GLB, OBJ, PLY, STL or another file that trimesh reads")
    report.add_argument("--json", action="store_true", help="JSON instead of a table; with several files an object by file")


def run(arguments: argparse.Namespace) -> int:
    """Prints the reports."""
    reports = {file: file_health(file) for file in arguments.files}
    if arguments.json:
        values = {file: report.to_dict() for file, report in reports.items()}
        print(json.dumps(values if len(values) > 1 else next(iter(values.values())), indent=2))
    else:
        Console().print(_table(reports))
    return 0


def _table(reports: dict[str, MeshHealth]) -> Table:
    table = Table("", *reports, title="mesh health")
    columns = [_lines(report) for report in reports.values()]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _lines(report: MeshHealth) -> dict[str, str]:
    """What is said of one mesh, in words."""
    unit = report.unit
    words: dict[str, Any] = {
        "faces": f"{report.faces:,}",
        "vertices": f"{report.vertices:,}",
        "components": report.components,
        "watertight": _verdict(report.watertight, f"{report.open_edges} open edges"),
        "manifold": _verdict(report.manifold, f"{report.crowded_edges} edges with more than two faces"),
        "genus": "-" if report.genus is None else report.genus,
        "degenerate faces": report.degenerate_faces,
        "self-intersecting faces": report.self_intersections,
        "area": f"{report.area:g} {unit}2",
        "volume": "- (not watertight)" if report.volume is None else f"{report.volume:g} {unit}3",
        "size": " x ".join(f"{length:g}" for length in report.size) + f" {unit}",
        "from": ", ".join(f"{value:g}" for value in report.bounds[0]),
        "to": ", ".join(f"{value:g}" for value in report.bounds[1]),
        "texture": "-" if report.texture_size is None else f"{report.texture_size[1]} x {report.texture_size[0]}",
        "texture in use": "-" if report.texture_coverage is None else f"{report.texture_coverage:.0%}",
        "texel density": "-" if report.texel_density is None else f"{report.texel_density:g} per {unit}",
    }
    return {name: str(value) for name, value in words.items()}


def _verdict(good: bool, why_not: str) -> str:
    return "yes" if good else f"no ({why_not})"
