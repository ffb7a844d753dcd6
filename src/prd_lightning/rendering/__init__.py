"""Renderers of triplane fields. All return the same named maps, see ``maps``."""

from prd_lightning.rendering.background import LearnedBackground, WhiteBackground
from prd_lightning.rendering.maps import RenderedMaps, resize_map
from prd_lightning.rendering.mesh import MeshRenderer
from prd_lightning.rendering.volume import VolumeRenderer

__all__ = ["LearnedBackground", "MeshRenderer", "RenderedMaps", "VolumeRenderer", "WhiteBackground", "resize_map"]
