"""Meshes: extraction from fields, clean-up, files, and pictures of them."""

from prd_lightning.mesh.cleanup import CleanUpReport, check_target_faces, clean_mesh
from prd_lightning.mesh.export import FORMATS, file_stem, format_of, save_mesh
from prd_lightning.mesh.extraction import check_resolution, extract_mesh
from prd_lightning.mesh.mesh import Mesh
from prd_lightning.mesh.pictures import picture_sheet, preview_sheet, turntable_sheet

__all__ = [
    "FORMATS",
    "CleanUpReport",
    "Mesh",
    "check_resolution",
    "check_target_faces",
    "clean_mesh",
    "extract_mesh",
    "file_stem",
    "format_of",
    "picture_sheet",
    "preview_sheet",
    "save_mesh",
    "turntable_sheet",
]
