"""Meshes: from fields to files, with clean-up, textures, health reports and pictures."""

from prd_lightning.mesh.axes import UNITS, Placement, place_mesh
from prd_lightning.mesh.cleanup import CleanUpReport, clean_mesh
from prd_lightning.mesh.export import FORMATS, TEXTURED_FORMATS, file_stem, format_of, mesh_files, save_mesh
from prd_lightning.mesh.extraction import check_resolution, extract_mesh
from prd_lightning.mesh.health import MeshHealth, mesh_health
from prd_lightning.mesh.making import MakingReport, TextureReport, make_mesh
from prd_lightning.mesh.mesh import Mesh, Texture
from prd_lightning.mesh.options import MeshOptions, check_target_faces
from prd_lightning.mesh.pictures import picture_sheet, preview_sheet, turntable_sheet
from prd_lightning.mesh.turntable import TURNTABLES, check_turntable, save_turntable

__all__ = [
    "FORMATS",
    "TEXTURED_FORMATS",
    "TURNTABLES",
    "UNITS",
    "CleanUpReport",
    "MakingReport",
    "Mesh",
    "MeshHealth",
    "MeshOptions",
    "Placement",
    "Texture",
    "TextureReport",
    "check_resolution",
    "check_target_faces",
    "check_turntable",
    "clean_mesh",
    "extract_mesh",
    "file_stem",
    "format_of",
    "make_mesh",
    "mesh_files",
    "mesh_health",
    "picture_sheet",
    "place_mesh",
    "preview_sheet",
    "save_mesh",
    "save_turntable",
    "turntable_sheet",
]
