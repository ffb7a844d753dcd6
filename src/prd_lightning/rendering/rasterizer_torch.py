"""The rasterizer in pure PyTorch: runs on every device, and is the reference for the CUDA one.

Visibility is found without gradients (``rasterizer_coverage``). Weights are then computed once more, differentiably, at the
covered pixels, in homogeneous coordinates: with p_i = (x_i - X w_i, y_i - Y w_i) for the pixel centre (X, Y), the
perspective-correct weight of corner i is in proportion to p_j x p_k. No division by w is needed, so corners behind the camera are
no exception.
"""

import torch
import torch.nn.functional as functional
from jaxtyping import Float, Int
from torch import Tensor

from prd_lightning.rendering.rasterizer_coverage import cross, nearest_faces, to_screen
from prd_lightning.rendering.rasterizer_silhouettes import blend_across, silhouettes, visible_edges


class TorchRasterizer:
    """See ``rasterizers.Rasterizer`` for the conventions."""

    def rasterize(
        self, positions: Float[Tensor, "views vertices 4"], faces: Int[Tensor, "faces 3"], size: tuple[int, int]
    ) -> Float[Tensor, "views height width 4"]:
        """See ``Rasterizer.rasterize``."""
        height, width = size
        views = positions.shape[0]
        triangle = nearest_faces(positions.detach(), faces, height, width)
        raster = positions.new_zeros(views * height * width, 4)
        pixel = (triangle >= 0).nonzero().squeeze(1)
        if not len(pixel):
            return raster.view(views, height, width, 4) + positions.sum() * 0
        view, place = pixel // (height * width), pixel % (height * width)
        corners = positions[view[:, None], faces[triangle[pixel]]]
        center = torch.stack([place % width, place // width], dim=-1).to(positions)
        weights = _perspective_weights(corners, center, height, width)
        depth = (weights * corners[..., 2]).sum(-1) / (weights * corners[..., 3]).sum(-1)
        values = torch.stack([weights[:, 0], weights[:, 1], depth, (triangle[pixel] + 1).to(positions)], dim=-1)
        return raster.index_copy(0, pixel, values).view(views, height, width, 4)

    def interpolate(
        self,
        attributes: Float[Tensor, "views_or_one vertices channels"],
        raster: Float[Tensor, "views height width 4"],
        faces: Int[Tensor, "faces 3"],
    ) -> Float[Tensor, "views height width channels"]:
        """See ``Rasterizer.interpolate``."""
        views, height, width, _ = raster.shape
        flat = raster.reshape(-1, 4)
        pixel = (flat[:, 3] > 0).nonzero().squeeze(1)
        u, v = flat[pixel, 0], flat[pixel, 1]
        weights = torch.stack([u, v, 1 - u - v], dim=-1)
        view = pixel // (height * width) if attributes.shape[0] > 1 else torch.zeros_like(pixel)
        corners = attributes[view[:, None], faces[flat[pixel, 3].long() - 1]]
        values = (weights[..., None] * corners).sum(dim=1)
        result = attributes.new_zeros(len(flat), attributes.shape[-1])
        return result.index_copy(0, pixel, values).view(views, height, width, -1)

    def texture(
        self, texture: Float[Tensor, "views_or_one rows columns channels"], coordinates: Float[Tensor, "views height width 2"]
    ) -> Float[Tensor, "views height width channels"]:
        """See ``Rasterizer.texture``."""
        _, rows, columns, _ = texture.shape
        padded = functional.pad(texture.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="circular")
        padded = padded.expand(coordinates.shape[0], -1, -1, -1)
        size = coordinates.new_tensor([columns, rows])
        wrapped = coordinates - coordinates.detach().floor()
        grid = (wrapped * size + 1) * 2 / (size + 2) - 1
        return functional.grid_sample(padded, grid, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)

    def antialias(
        self,
        color: Float[Tensor, "views height width channels"],
        raster: Float[Tensor, "views height width 4"],
        positions: Float[Tensor, "views vertices 4"],
        faces: Int[Tensor, "faces 3"],
    ) -> Float[Tensor, "views height width channels"]:
        """See ``Rasterizer.antialias``."""
        if not len(faces):
            return color
        _, height, width, channels = color.shape
        view, vertices, side = silhouettes(positions.detach(), faces)
        ends, kept = visible_edges(positions[view[:, None], vertices])
        first, second = to_screen(ends, height, width).unbind(dim=1)
        view_depth = ends.detach()[..., 3]
        surface_depth = self.interpolate(positions.detach()[..., 3:], raster.detach(), faces)[..., 0].flatten()
        surface_depth = torch.where(raster[..., 3].flatten() > 0, surface_depth, torch.inf)
        outline = (view[kept], first, second, side[kept], view_depth, surface_depth, (height, width))
        blends = [blend_across(*outline, axis) for axis in (0, 1)]
        target, source, share = (torch.cat(parts) for parts in zip(*blends))
        flat = color.reshape(-1, channels)
        change = share[:, None] * (flat[source] - flat[target])
        return flat.index_add(0, target, change).view_as(color)


def _perspective_weights(
    corners: Float[Tensor, "pixels 3 4"], center: Float[Tensor, "pixels 2"], height: int, width: int
) -> Float[Tensor, "pixels 3"]:
    """Perspective-correct weights of the corners at the pixel centres (column, row)."""
    plane = (center + 0.5) * (2 / center.new_tensor([width, height])) - 1
    a, b, c = (corners[..., :2] - plane[:, None] * corners[..., 3:]).unbind(dim=1)
    weights = torch.stack([cross(b, c), cross(c, a), cross(a, b)], dim=-1)
    total = weights.sum(dim=-1, keepdim=True)
    weights = weights / torch.where(total == 0, torch.ones_like(total), total)
    # Rounding can carry the weights of a sliver out of the triangle; their values are brought back, their gradient is kept.
    within = weights.detach().clamp(0, 1)
    within = within / within.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    return weights + (within - weights.detach())
