"""Renderers of triplane fields. All return the same named maps, see ``maps``."""

from prd_lightning.rendering.background import LearnedBackground, WhiteBackground
from prd_lightning.rendering.maps import RenderedMaps, normal_to_camera, resize_map
from prd_lightning.rendering.mesh import MeshRenderer, vertex_normals
from prd_lightning.rendering.rasterizers import Rasterizer, make_rasterizer
from prd_lightning.rendering.volume import VolumeRenderer

__all__ = [
    "LearnedBackground",
    "MeshRenderer",
    "Rasterizer",
    "RenderedMaps",
    "VolumeRenderer",
    "WhiteBackground",
    "make_rasterizer",
    "normal_to_camera",
    "resize_map",
    "vertex_normals",
]
