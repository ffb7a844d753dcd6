"""Antialiasing: which edges of a mesh are outlines, and how colours blend across them, differentiable in the edges' positions."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prd_lightning.rendering.rasterizer_coverage import cut, near_distances


@torch.no_grad()
def silhouettes(
    positions: Float[Tensor, "views vertices 4"], faces: Int[Tensor, "faces 3"]
) -> tuple[Int[Tensor, " edges"], Int[Tensor, "edges 2"], Float[Tensor, " edges"]]:
    """Edges at which the mesh ends or folds back on the screen: view, the two vertices, and on which side the mesh lies.

    The side is the determinant of (x, y, w) of the edge's vertices and the one across from it. Its sign is that of the edge
    function on the screen wherever the triangle is visible, even if a vertex is behind the camera.
    """
    first, second = faces.flatten(), faces.roll(-1, dims=1).flatten()
    key = torch.minimum(first, second) * (faces.max() + 1) + torch.maximum(first, second)
    ordered, order = key.sort(stable=True)
    partner = torch.full_like(order, -1)
    twin = ordered[1:] == ordered[:-1]
    partner[order[:-1][twin]] = order[1:][twin]
    once = torch.ones(len(order), dtype=torch.bool, device=faces.device)
    once[order[1:][twin]] = False  # an edge of two faces is looked at once
    a, b, c = positions[..., [0, 1, 3]][:, faces].unbind(dim=2)
    turn = (torch.linalg.cross(a, b) * c).sum(dim=-1)  # of a face, and so of each of its edges
    own_side = turn.repeat_interleave(3, dim=1)
    beside = partner.clamp_min(0)
    # A neighbour that runs along the edge the other way round lies on the other side when it turns the same way.
    reverse = torch.where(first[beside] == first, 1.0, -1.0).to(turn)
    other_side = own_side[:, beside] * reverse
    view, edge = (once & ((partner < 0) | (own_side * other_side > 0))).nonzero().unbind(dim=1)
    return view, torch.stack([first, second], dim=1)[edge], own_side[view, edge]


def visible_edges(
    ends: Float[Tensor, "edges 2 4"],
) -> tuple[Float[Tensor, "visible 2 4"], Int[Tensor, " visible"]]:
    """Edges cut to what lies in front of the camera, and which of the given ones they are."""
    kept = torch.arange(len(ends), device=ends.device)
    for plane in range(2):
        distance = near_distances(ends)[plane]
        front = distance.detach() >= 0
        chosen = front.any(dim=1)
        ends, kept, distance, front = ends[chosen], kept[chosen], distance[chosen], front[chosen]
        mixed = ~front.all(dim=1)
        if mixed.any():
            (a, b), (d, e) = ends[mixed].unbind(dim=1), distance[mixed].unbind(dim=1)
            swapped = ~front[mixed, 0]
            inner, outer = torch.where(swapped[:, None], b, a), torch.where(swapped[:, None], a, b)
            met = cut(inner, outer, torch.where(swapped, e, d), torch.where(swapped, d, e))
            pair = torch.where(swapped[:, None, None], torch.stack([met, b], dim=1), torch.stack([a, met], dim=1))
            ends = ends.index_copy(0, mixed.nonzero().squeeze(1), pair)
    return ends, kept


def blend_across(
    view: Tensor,
    first: Tensor,
    second: Tensor,
    side: Tensor,
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
    # Below the crossing (smaller column or row) the edge function has the sign of the edge's direction along the other axis.
    surface_is_low = side[edge] * step.detach()[edge, 1 - axis] * (1 if axis == 0 else -1) > 0
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
