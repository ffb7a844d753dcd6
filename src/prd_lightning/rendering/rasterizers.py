"""The four primitives of a differentiable rasterizer, and the choice of who provides them.

Conventions are those of nvdiffrast (Laine et al. 2020, arXiv 2011.03277): clip-space positions [V, N, 4]; row 0 of a picture is
y = -1; a raster is [V, H, W, 4] = (u, v, z/w, triangle + 1) where u and v are the perspective-correct weights of a triangle's
first and second vertex, and everything is 0 where nothing is. Cameras here negate y, so row 0 is the top of the picture.
"""

import importlib.util
import logging
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prd_lightning.errors import BackendUnavailableError, ConfigurationError

logger = logging.getLogger(__name__)

RasterizerName = Literal["auto", "torch", "nvdiffrast"]


@runtime_checkable
class Rasterizer(Protocol):
    """What a backend provides."""

    def rasterize(
        self, positions: Float[Tensor, "views vertices 4"], faces: Int[Tensor, "faces 3"], size: tuple[int, int]
    ) -> Float[Tensor, "views height width 4"]:
        """The nearest triangle at each pixel centre; differentiable in ``positions`` through u and v."""

    def interpolate(
        self,
        attributes: Float[Tensor, "views_or_one vertices channels"],
        raster: Float[Tensor, "views height width 4"],
        faces: Int[Tensor, "faces 3"],
    ) -> Float[Tensor, "views height width channels"]:
        """Vertex attributes at the pixels, 0 where nothing is."""

    def texture(
        self, texture: Float[Tensor, "views_or_one rows columns channels"], coordinates: Float[Tensor, "views height width 2"]
    ) -> Float[Tensor, "views height width channels"]:
        """Bilinear look-up; coordinates wrap around [0, 1], (0, 0) is the outer corner of the first texel."""

    def antialias(
        self,
        color: Float[Tensor, "views height width channels"],
        raster: Float[Tensor, "views height width 4"],
        positions: Float[Tensor, "views vertices 4"],
        faces: Int[Tensor, "faces 3"],
    ) -> Float[Tensor, "views height width channels"]:
        """Blends colours across silhouette edges, which makes visibility differentiable in ``positions``."""


def make_rasterizer(name: RasterizerName = "auto", device: torch.device | str = "cpu") -> Rasterizer:
    """The backend of that name; ``auto`` takes nvdiffrast if it is installed and the device is a GPU. The log says why.

    Raises:
        ConfigurationError: unknown name.
        BackendUnavailableError: nvdiffrast was asked for but is not installed, or the device is not CUDA.
    """
    # Imported here because the backends import the protocol's conventions from this module's package.
    from prd_lightning.rendering.rasterizer_nvdiffrast import NvdiffrastRasterizer
    from prd_lightning.rendering.rasterizer_torch import TorchRasterizer

    if name not in ("auto", "torch", "nvdiffrast"):
        raise ConfigurationError(f"unknown rasterizer {name!r}; known: auto, torch, nvdiffrast")
    is_cuda = torch.device(device).type == "cuda"
    installed = importlib.util.find_spec("nvdiffrast") is not None
    if name == "torch" or (name == "auto" and not (is_cuda and installed)):
        reason = "asked for" if name == "torch" else "the device is not CUDA" if not is_cuda else "nvdiffrast is not installed"
        logger.info("rasterizer: torch (%s)", reason)
        return TorchRasterizer()
    if not installed:
        raise BackendUnavailableError(
            "the nvdiffrast rasterizer is not installed; install it (CUDA only, non-commercial licence) "
            "or set renderer.mesh.rasterizer=torch"
        )
    if not is_cuda:
        raise BackendUnavailableError(f"nvdiffrast runs on CUDA only, not on {device}; set renderer.mesh.rasterizer=torch")
    logger.info("rasterizer: nvdiffrast (%s)", "asked for" if name == "nvdiffrast" else "installed, and the device is CUDA")
    return NvdiffrastRasterizer(device)
