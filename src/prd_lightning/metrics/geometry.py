"""The geometry of many meshes in a few numbers: shares of meshes with a fault, and medians of sizes."""

from collections.abc import Sequence
from statistics import median

from prd_lightning.mesh.health import MeshHealth

SHARES = ("watertight", "manifold")
MEDIANS = ("faces", "components", "open_edges", "degenerate_faces", "self_intersections")


def geometry_summary(reports: Sequence[MeshHealth]) -> dict[str, float | int]:
    """Shares of watertight, manifold, single-part and intersection-free meshes, and medians; empty without a mesh."""
    if not reports:
        return {}
    count = len(reports)
    shares = {f"{name}_share": sum(bool(getattr(report, name)) for report in reports) / count for name in SHARES}
    shares["single_component_share"] = sum(report.components == 1 for report in reports) / count
    shares["without_self_intersection_share"] = sum(report.self_intersections == 0 for report in reports) / count
    return shares | {f"median_{name}": median(getattr(report, name) for report in reports) for name in MEDIANS}
