"""Pictures of file objects for judges: unlit colours on white, from evenly spaced turntable cameras."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from prd_lightning.cameras import turntable_cameras
from prd_lightning.errors import ConfigurationError
from prd_lightning.evaluation.mesh_files import FileObject
from prd_lightning.rendering import Rasterizer, make_rasterizer, resize_map

SUPERSAMPLING = 2


@dataclass(frozen=True)
class ViewSettings:
    """How objects are looked at.

    Attributes:
        views: evenly spaced in azimuth, from the front.
        elevation: degrees above the horizon.
        distance: of the camera to the middle of the object.
        fovy: vertical field of view in degrees.
        size: height and width of a picture.
    """

    views: int = 4
    elevation: float = 15.0
    distance: float = 3.0
    fovy: float = 40.0
    size: int = 512

    def __post_init__(self) -> None:
        if self.views < 1 or not 16 <= self.size <= 4096:
            raise ConfigurationError(f"pictures need views >= 1 and a size from 16 to 4096, got {self.views} and {self.size}")
        if not -90 < self.elevation < 90 or not 0 < self.fovy < 180 or self.distance <= 1:
            raise ConfigurationError(
                f"cameras need an elevation within 90 degrees, 0 < fovy < 180 and a distance above 1, "
                f"got {self.elevation}, {self.fovy} and {self.distance}"
            )


@torch.no_grad()
def object_pictures(
    thing: FileObject, settings: ViewSettings, device: torch.device | str = "cpu"
) -> Float[Tensor, "views size size 3"]:
    """Pictures in [0, 1] of the normalised object, on the CPU."""
    cameras = turntable_cameras(settings.views, settings.elevation, settings.distance, settings.fovy).to(device)
    rasterizer = _rasterizer(str(device))
    vertices = torch.from_numpy(thing.normalized()).float().to(device)
    homogeneous = functional.pad(vertices, (0, 1), value=1.0)
    views = []
    for matrix in cameras.model_view_projection():
        views.append(_view(thing, rasterizer, homogeneous @ matrix.T, settings.size).cpu())
    return torch.cat(views)


@lru_cache(maxsize=4)
def _rasterizer(device: str) -> Rasterizer:
    return make_rasterizer("auto", torch.device(device))


def _view(thing: FileObject, rasterizer: Rasterizer, clip: Tensor, size: int) -> Float[Tensor, "1 size size 3"]:
    fine, device = size * SUPERSAMPLING, clip.device
    faces = torch.from_numpy(thing.faces).to(device)
    raster = rasterizer.rasterize(clip[None].contiguous(), faces, (fine, fine))
    attributes = torch.cat([torch.from_numpy(thing.colors), torch.from_numpy(thing.coordinates)], dim=-1).to(device)
    surface = rasterizer.interpolate(attributes[None].contiguous(), raster, faces)
    rgb, place = surface[..., :3], surface[..., 3:]
    covered, face = raster[..., 3:] > 0, (raster[..., 3].long() - 1).clamp_min(0)
    material = torch.from_numpy(thing.material).to(device)[face]
    for number, texture in enumerate(thing.textures):
        picture = rasterizer.texture(torch.from_numpy(texture).to(device)[None].contiguous(), place.contiguous())
        rgb = torch.where((material == number)[..., None], rgb * picture, rgb)
    return resize_map(torch.where(covered, rgb, torch.ones_like(rgb)), size).clamp(0, 1)
