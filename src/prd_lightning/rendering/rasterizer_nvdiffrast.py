"""The rasterizer on CUDA: nvdiffrast, imported only when it is used (its licence is non-commercial)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class NvdiffrastRasterizer:
    """Thin calls of nvdiffrast's CUDA rasterizer; see ``rasterizers.Rasterizer`` for the conventions."""

    def __init__(self, device: torch.device | str) -> None:
        import nvdiffrast.torch as backend

        self._backend = backend
        self._context = backend.RasterizeCudaContext(device=device)

    def rasterize(
        self, positions: Float[Tensor, "views vertices 4"], faces: Int[Tensor, "faces 3"], size: tuple[int, int]
    ) -> Float[Tensor, "views height width 4"]:
        """See ``Rasterizer.rasterize``."""
        return self._backend.rasterize(self._context, positions.contiguous(), faces.int().contiguous(), size)[0]

    def interpolate(
        self,
        attributes: Float[Tensor, "views_or_one vertices channels"],
        raster: Float[Tensor, "views height width 4"],
        faces: Int[Tensor, "faces 3"],
    ) -> Float[Tensor, "views height width channels"]:
        """See ``Rasterizer.interpolate``."""
        return self._backend.interpolate(attributes.contiguous(), raster, faces.int().contiguous())[0]

    def texture(
        self, texture: Float[Tensor, "views_or_one rows columns channels"], coordinates: Float[Tensor, "views height width 2"]
    ) -> Float[Tensor, "views height width channels"]:
        """See ``Rasterizer.texture``."""
        return self._backend.texture(texture.contiguous(), coordinates.contiguous(), filter_mode="linear", boundary_mode="wrap")

    def antialias(
        self,
        color: Float[Tensor, "views height width channels"],
        raster: Float[Tensor, "views height width 4"],
        positions: Float[Tensor, "views vertices 4"],
        faces: Int[Tensor, "faces 3"],
    ) -> Float[Tensor, "views height width channels"]:
        """See ``Rasterizer.antialias``."""
        return self._backend.antialias(color.contiguous(), raster, positions.contiguous(), faces.int().contiguous())
