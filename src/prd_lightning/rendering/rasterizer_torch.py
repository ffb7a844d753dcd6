"""The rasterizer in pure PyTorch: runs on every device, and is the reference for the CUDA one.

Visibility is found without gradients: each triangle's bounding box is expanded to pixels, pixels are tested by edge functions,
and the nearest triangle wins by scattered minima. Weights are then computed once more, differentiably, at the covered pixels.
Triangles that reach behind the camera are left out (no near-plane clipping).
"""

import torch
import torch.nn.functional as functional
from jaxtyping import Float, Int
from torch import Tensor

CANDIDATES_PER_CHUNK = 4_000_000
SMALLEST_AREA = 1e-12


def to_screen(positions: Float[Tensor, "views vertices 4"], height: int, width: int) -> Float[Tensor, "views vertices 2"]:
    """Pixel coordinates (column, row) in which pixel (i, j) has its centre at (j, i)."""
    scale = positions.new_tensor([width, height])
    return (positions[..., :2] / positions[..., 3:].clamp_min(1e-8) + 1) * (0.5 * scale) - 0.5


def _cross(first: Tensor, second: Tensor) -> Tensor:
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]


class TorchRasterizer:
    """See ``rasterizers.Rasterizer`` for the conventions."""

    def rasterize(
        self, positions: Float[Tensor, "views vertices 4"], faces: Int[Tensor, "faces 3"], size: tuple[int, int]
    ) -> Float[Tensor, "views height width 4"]:
        """See ``Rasterizer.rasterize``."""
        height, width = size
        views = positions.shape[0]
        triangle = self._nearest_triangle(positions.detach(), faces, height, width)
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

    @torch.no_grad()
    def _nearest_triangle(self, positions: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
        """[V * H * W] triangle numbers, -1 where nothing is."""
        screen = to_screen(positions, height, width)[:, faces]
        visible = (positions[:, faces, 3] > 1e-6).all(dim=-1)
        limit = positions.new_tensor([width, height])
        low = torch.minimum(screen.amin(dim=2).ceil().clamp_min(0), limit).long()
        high = torch.maximum(torch.minimum(screen.amax(dim=2).floor(), limit - 1).long() + 1, low)
        extent = (high - low) * visible[..., None]
        count = (extent[..., 0] * extent[..., 1]).flatten()
        depth = positions.new_full((positions.shape[0] * height * width,), torch.inf)
        winner = torch.full_like(depth, -1, dtype=torch.long)
        for chunk in _chunks(count):
            pixel, number, z = self._candidates(chunk, count, low, extent, screen, positions, faces, height, width)
            _keep_nearest(depth, winner, pixel, number, z)
        return winner

    @staticmethod
    def _candidates(
        chunk: Tensor,
        count: Tensor,
        low: Tensor,
        extent: Tensor,
        screen: Tensor,
        positions: Tensor,
        faces: Tensor,
        height: int,
        width: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels that lie in the (view, triangle) pairs ``chunk``: pixel number, triangle number, z/w."""
        owner = chunk.repeat_interleave(count[chunk])
        first = (count[chunk].cumsum(0) - count[chunk]).repeat_interleave(count[chunk])
        offset = torch.arange(len(owner), device=owner.device) - first
        columns = extent.flatten(0, 1)[owner, 0]
        start = low.flatten(0, 1)[owner]
        column, row = start[:, 0] + offset % columns, start[:, 1] + offset // columns
        center = torch.stack([column, row], dim=-1).to(screen)
        a, b, c = (screen.flatten(0, 1)[owner] - center[:, None]).unbind(dim=1)
        weights = torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], dim=-1)
        area = weights.sum(dim=-1)
        inside = ((weights >= 0).all(dim=-1) | (weights <= 0).all(dim=-1)) & (area.abs() > SMALLEST_AREA)
        owner, column, row, weights = owner[inside], column[inside], row[inside], weights[inside] / area[inside, None]
        view, number = owner // len(faces), owner % len(faces)
        corners = positions[view[:, None], faces[number]]
        z = (weights * corners[..., 2] / corners[..., 3]).sum(dim=-1)  # z/w is linear on the screen
        return (view * height + row) * width + column, number, z

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
        views, height, width, channels = color.shape
        screen = to_screen(positions, height, width)
        view, ends, opposite = _silhouettes(screen.detach(), faces)
        first, second = screen[view, ends[:, 0]], screen[view, ends[:, 1]]
        inner = screen[view, opposite]
        view_depth = positions.detach()[view[:, None], ends, 3]
        surface_depth = self.interpolate(positions.detach()[..., 3:], raster.detach(), faces)[..., 0].flatten()
        surface_depth = torch.where(raster[..., 3].flatten() > 0, surface_depth, torch.inf)
        blends = [_blend_across(view, first, second, inner, view_depth, surface_depth, (height, width), axis) for axis in (0, 1)]
        target, source, share = (torch.cat(parts) for parts in zip(*blends))
        flat = color.reshape(-1, channels)
        change = share[:, None] * (flat[source] - flat[target])
        return flat.index_add(0, target, change).view_as(color)


def _chunks(count: Tensor) -> list[Tensor]:
    """Owners with candidates, in groups of bounded size."""
    owners = count.nonzero().squeeze(1)
    if not len(owners):
        return []
    group = (count[owners].cumsum(0) - 1) // CANDIDATES_PER_CHUNK
    return [owners[group == number] for number in group.unique().tolist()]


def _keep_nearest(depth: Tensor, winner: Tensor, pixel: Tensor, number: Tensor, z: Tensor) -> None:
    """Updates ``depth`` and ``winner`` (in place); equal depths go to the lower number, so the result is deterministic."""
    before = depth.clone()
    depth.scatter_reduce_(0, pixel, z, "amin")
    winner[depth < before] = torch.iinfo(torch.long).max
    nearest = z == depth[pixel]
    known = torch.where(winner < 0, torch.iinfo(torch.long).max, winner)
    known.scatter_reduce_(0, pixel[nearest], number[nearest], "amin")
    winner.copy_(torch.where(known == torch.iinfo(torch.long).max, -1, known))


def _perspective_weights(corners: Tensor, center: Tensor, height: int, width: int) -> Tensor:
    """[P, 3] perspective-correct weights of the corners [P, 3, 4] at the pixel centres [P, 2]."""
    a, b, c = (to_screen(corners, height, width) - center[:, None]).unbind(dim=1)
    weights = torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], dim=-1) / corners[..., 3]
    return weights / weights.sum(dim=-1, keepdim=True)


@torch.no_grad()
def _silhouettes(
    screen: Float[Tensor, "views vertices 2"], faces: Int[Tensor, "faces 3"]
) -> tuple[Int[Tensor, " edges"], Int[Tensor, "edges 2"], Int[Tensor, " edges"]]:
    """Edges at which the mesh ends or folds back on the screen: view, the two vertices, and the vertex across from them."""
    first, second = faces.flatten(), faces.roll(-1, dims=1).flatten()
    opposite = faces.roll(-2, dims=1).flatten()
    key = torch.minimum(first, second) * (faces.max() + 1) + torch.maximum(first, second)
    ordered, order = key.sort(stable=True)
    partner = torch.full_like(order, -1)
    twin = ordered[1:] == ordered[:-1]
    partner[order[:-1][twin]] = order[1:][twin]
    once = torch.ones(len(order), dtype=torch.bool, device=faces.device)
    once[order[1:][twin]] = False  # an edge of two faces is looked at once
    start = screen[:, first]
    along = screen[:, second] - start
    own_side = _cross(along, screen[:, opposite] - start)
    other_side = _cross(along, screen[:, opposite[partner.clamp_min(0)]] - start)
    view, edge = (once & ((partner < 0) | (own_side * other_side > 0))).nonzero().unbind(dim=1)
    return view, torch.stack([first, second], dim=1)[edge], opposite[edge]


def _blend_across(
    view: Tensor,
    first: Tensor,
    second: Tensor,
    inner: Tensor,
    view_depth: Tensor,
    surface_depth: Tensor,
    size: tuple[int, int],
    axis: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Blends (target pixel, source pixel, share) where silhouette edges cross between neighbours along ``axis`` (0: columns).

    The crossing point at distance d from the centre of the pixel on the surface's side splits the pair: beyond the middle the
    surface covers d - 1/2 of the other pixel, before it the other one shows in 1/2 - d of the surface's pixel. Edges are taken
    from the mesh and not from the triangle of a pixel, so a mesh finer than the pixels is smoothed as well.
    """
    height, width = size
    step = second - first
    steep = (step[:, 1 - axis].abs() >= step[:, axis].abs()).nonzero().squeeze(1)  # the others belong to the other axis
    line_start = torch.minimum(first, second).detach()[steep, 1 - axis].ceil().clamp_min(0)
    line_end = torch.maximum(first, second).detach()[steep, 1 - axis]
    count = (line_end.ceil() - line_start).clamp_min(0).long()  # lines in [start, end): a shared end counts once
    edge = steep.repeat_interleave(count)
    offset = torch.arange(len(edge), device=edge.device) - (count.cumsum(0) - count).repeat_interleave(count)
    line = (line_start.repeat_interleave(count) + offset).to(first)
    share = (line - first[edge, 1 - axis]) / step[edge, 1 - axis]
    crossing = first[edge, axis] + share * step[edge, axis]
    low = crossing.detach().floor()
    at_line = first.detach()[edge, axis] + step.detach()[edge, axis] * (
        (inner.detach()[edge, 1 - axis] - first.detach()[edge, 1 - axis]) / step.detach()[edge, 1 - axis]
    )
    surface_is_low = inner.detach()[edge, axis] < at_line
    limits = (width, height) if axis == 0 else (height, width)
    valid = (low >= 0) & (low < limits[0] - 1) & (line < limits[1])
    low, line = low.clamp(0, limits[0] - 2).long(), line.clamp(0, limits[1] - 1).long()
    stride, line_stride = (1, width) if axis == 0 else (width, 1)
    low_pixel = view[edge] * (height * width) + low * stride + line * line_stride
    near = torch.where(surface_is_low, low_pixel, low_pixel + stride)
    far = torch.where(surface_is_low, low_pixel + stride, low_pixel)
    edge_depth = torch.lerp(view_depth[edge, 0], view_depth[edge, 1], share.detach().clamp(0, 1))
    # The edge is seen if the picture jumps there: from a surface to something that lies behind the edge.
    valid &= surface_depth[near].isfinite() & (surface_depth[far] > edge_depth)
    distance = torch.where(surface_is_low, crossing - low, low + 1 - crossing)
    valid = _outermost(2 * near + surface_is_low, distance.detach(), valid, 2 * len(surface_depth))
    distance, near, far = distance[valid], near[valid], far[valid]
    beyond = distance > 0.5
    share = torch.where(beyond, distance - 0.5, 0.5 - distance)  # not abs, whose derivative is zero in the middle
    return torch.where(beyond, far, near), torch.where(beyond, near, far), share


def _outermost(pair: Tensor, distance: Tensor, valid: Tensor, count: int) -> Tensor:
    """Indices of the valid crossings that lie farthest out between their two pixels.

    Seen along the surface, a mesh folds: several of its edges turn over within a pixel. Only the outermost is the outline.

    Args:
        pair: [E] number of the pair of pixels, below ``count``.
        distance: [E] from the surface's pixel to the crossing.
        valid: [E] bool.
    """
    chosen = valid.nonzero().squeeze(1)
    pair, distance = pair[chosen], distance[chosen]
    farthest = distance.new_full((count,), -torch.inf).scatter_reduce_(0, pair, distance, "amax")
    last = distance == farthest[pair]
    first = torch.full((count,), len(valid), device=pair.device).scatter_reduce_(0, pair[last], chosen[last], "amin")
    return chosen[chosen == first[pair]]
