"""Surfaces of fields: marching tetrahedra, and where on a grid they need to be looked for."""

from prd_lightning.isosurface.sparse import FieldGrid, GridSigns
from prd_lightning.isosurface.tetrahedra import (
    BOUNDARY_FLOOR,
    SurfaceTopology,
    close_boundary,
    deform,
    ends_of_edges,
    extract_isosurface,
    find_surface,
    grid_points,
    surface_of_signs,
    surface_vertices,
)

__all__ = [
    "BOUNDARY_FLOOR",
    "FieldGrid",
    "GridSigns",
    "SurfaceTopology",
    "close_boundary",
    "deform",
    "ends_of_edges",
    "extract_isosurface",
    "find_surface",
    "grid_points",
    "surface_of_signs",
    "surface_vertices",
]
