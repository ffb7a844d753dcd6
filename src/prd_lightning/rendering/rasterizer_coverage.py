"""Which triangle is seen at each pixel: clipping, bounding boxes expanded to pixels, edge functions, nearest by scattered minima.

A pixel belongs to a triangle if its centre lies inside, or on a top or left edge. The edge function of an edge is the exact
negative of that of the same edge run through the other way (the same products, subtracted in the other order), and so is the
rule's answer on the edge itself; triangles that share an edge therefore neither both cover a pixel on it nor both leave it out.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CANDIDATES_PER_CHUNK = 4_000_000
SMALLEST_W = 1e-4
"""Of the largest w of a triangle: nearer to the eye, triangles are cut off where no near plane has done it."""


def cross(first: Tensor, second: Tensor) -> Tensor:
    """Of vectors of the plane [..., 2]."""
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]


def to_screen(positions: Float[Tensor, "*vertices 4"], height: int, width: int) -> Float[Tensor, "*vertices 2"]:
    """Pixel coordinates (column, row) in which pixel (i, j) has its centre at (j, i)."""
    scale = positions.new_tensor([width, height])
    return (positions[..., :2] / positions[..., 3:].clamp_min(1e-8) + 1) * (0.5 * scale) - 0.5


def near_distances(corners: Float[Tensor, "shapes corners 4"]) -> list[Float[Tensor, "shapes corners"]]:
    """Signed distances of clip-space corners from the planes that everything visible lies in front of."""
    z, w = corners[..., 2], corners[..., 3]
    return [z + w, w - SMALLEST_W * w.amax(dim=-1, keepdim=True)]


def cut(inner: Tensor, outer: Tensor, inner_distance: Tensor, outer_distance: Tensor) -> Tensor:
    """Where edges from in front of a plane to behind it meet the plane; the same for both faces of an edge."""
    return torch.lerp(inner, outer, (inner_distance / (inner_distance - outer_distance))[..., None])


def clip_triangles(
    corners: Float[Tensor, "triangles 3 4"], owner: Int[Tensor, " triangles"]
) -> tuple[Float[Tensor, "pieces 3 4"], Int[Tensor, " pieces"]]:
    """The visible pieces of triangles (one or two of each that is cut), with their orientation kept."""
    for plane in range(2):
        distance = near_distances(corners)[plane]
        count = (distance >= 0).sum(dim=1)
        pieces, owners = [corners[count == 3]], [owner[count == 3]]
        for front in (1, 2):
            chosen = count == front
            # Turned so that the only corner in front (or behind) comes first.
            odd = ((distance[chosen] >= 0) == (front == 1)).long().argmax(dim=1)
            turn = (odd[:, None] + torch.arange(3, device=odd.device)) % 3
            a, b, c = corners[chosen].gather(1, turn[..., None].expand(-1, -1, 4)).unbind(dim=1)
            d, e, f = distance[chosen].gather(1, turn).unbind(dim=1)
            if front == 1:
                pieces.append(torch.stack([a, cut(a, b, d, e), cut(a, c, d, f)], dim=1))
            else:
                first, second = cut(b, a, e, d), cut(c, a, f, d)
                pieces += [torch.stack([first, b, c], dim=1), torch.stack([first, c, second], dim=1)]
            owners += [owner[chosen]] * front
        corners, owner = torch.cat(pieces), torch.cat(owners)
    return corners, owner


@dataclass(frozen=True)
class ScreenTriangles:
    """Triangles in front of the camera that have pixels in their bounding boxes.

    Attributes:
        screen: [T, 3, 2] corners in pixels.
        depth: [T, 3] z / w of the corners.
        view, face: [T] where each is seen, and the face it is (a piece of).
        low, extent: [T, 2] first column and row of the box, and its columns and rows.
    """

    screen: Float[Tensor, "triangles 3 2"]
    depth: Float[Tensor, "triangles 3"]
    view: Int[Tensor, " triangles"]
    face: Int[Tensor, " triangles"]
    low: Int[Tensor, "triangles 2"]
    extent: Int[Tensor, "triangles 2"]


def _boxes(screen: Float[Tensor, "*triangles 3 2"], height: int, width: int) -> tuple[Tensor, Tensor]:
    limit = screen.new_tensor([width, height])
    low = torch.minimum(screen.amin(dim=-2).ceil().clamp_min(0), limit).long()
    high = torch.maximum(torch.minimum(screen.amax(dim=-2).floor(), limit - 1).long() + 1, low)
    return low, high - low


def screen_triangles(
    positions: Float[Tensor, "views vertices 4"], faces: Int[Tensor, "faces 3"], height: int, width: int
) -> ScreenTriangles:
    """All visible triangles of all views, those that reach behind the camera cut to their visible pieces."""
    views = positions.shape[0]
    z, w = positions[..., 2], positions[..., 3]
    behind = ((z + w < 0) | (w <= 0))[:, faces]
    whole, mixed = ~behind.any(dim=-1), behind.any(dim=-1) & ~behind.all(dim=-1)
    screen, depth = to_screen(positions, height, width), z / w
    low, extent = _boxes(screen[:, faces], height, width)
    view, face = (whole & (extent > 0).all(dim=-1)).nonzero().unbind(dim=1)
    corners = faces[face]
    parts = [screen[view[:, None], corners], depth[view[:, None], corners], view, face, low[view, face], extent[view, face]]
    crossing = mixed.nonzero()
    if len(crossing):
        number = torch.arange(views * len(faces), device=faces.device).view(views, -1)[mixed]
        pieces, number = clip_triangles(positions[crossing[:, :1], faces[crossing[:, 1]]], number)
        cut_screen = to_screen(pieces, height, width)
        added = [cut_screen, pieces[..., 2] / pieces[..., 3], number // len(faces), number % len(faces)]
        added += _boxes(cut_screen, height, width)
        parts = [torch.cat(pair) for pair in zip(parts, added)]
    return ScreenTriangles(*parts)


def _on_kept_edges(
    weights: Float[Tensor, "candidates 3"], corners: Float[Tensor, "candidates 3 2"]
) -> Bool[Tensor, " candidates"]:
    """Whether all edges on which a pixel centre lies are top or left edges of the triangle (rows grow downwards)."""
    sign = torch.where((weights >= 0).all(dim=-1), 1.0, -1.0).to(corners)
    # The weight of a corner belongs to the edge across from it.
    along = (corners.roll(-2, dims=1) - corners.roll(-1, dims=1)) * sign[:, None, None]
    kept = (along[..., 1] < 0) | ((along[..., 1] == 0) & (along[..., 0] > 0))
    return ((weights != 0) | kept).all(dim=-1)


def _candidates(
    triangles: ScreenTriangles, chunk: Tensor, count: Tensor, height: int, width: int
) -> tuple[Int[Tensor, " hits"], Int[Tensor, " hits"], Float[Tensor, " hits"]]:
    """Pixels that lie in the triangles ``chunk``: pixel number, face number, z / w."""
    owner = chunk.repeat_interleave(count[chunk])
    first = (count[chunk].cumsum(0) - count[chunk]).repeat_interleave(count[chunk])
    offset = torch.arange(len(owner), device=owner.device) - first
    columns = triangles.extent[:, 0][owner]
    start = triangles.low[owner]
    column, row = start[:, 0] + offset % columns, start[:, 1] + offset // columns
    center = torch.stack([column, row], dim=-1).to(triangles.screen)
    a, b, c = (triangles.screen[owner] - center[:, None]).unbind(dim=1)
    weights = torch.stack([cross(b, c), cross(c, a), cross(a, b)], dim=-1)
    low, high = weights.amin(dim=-1), weights.amax(dim=-1)
    inside = (low > 0) | (high < 0)
    tied = (((low == 0) & (high > 0)) | ((high == 0) & (low < 0))).nonzero().squeeze(1)
    inside[tied] = _on_kept_edges(weights[tied], triangles.screen[owner[tied]])
    owner, column, row, weights = owner[inside], column[inside], row[inside], weights[inside]
    share = weights / weights.sum(dim=-1, keepdim=True)
    z = (share * triangles.depth[owner]).sum(dim=-1)  # z / w is linear on the screen
    pixel = (triangles.view[owner] * height + row) * width + column
    seen = z <= 1  # in front of the far plane
    return pixel[seen], triangles.face[owner][seen], z[seen]


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


@torch.no_grad()
def nearest_faces(
    positions: Float[Tensor, "views vertices 4"], faces: Int[Tensor, "faces 3"], height: int, width: int
) -> Int[Tensor, " pixels"]:
    """[V * H * W] the face that is seen at each pixel, -1 where nothing is."""
    depth = positions.new_full((positions.shape[0] * height * width,), torch.inf)
    winner = torch.full_like(depth, -1, dtype=torch.long)
    if not len(faces):
        return winner
    triangles = screen_triangles(positions, faces, height, width)
    count = triangles.extent.prod(dim=-1)
    for chunk in _chunks(count):
        _keep_nearest(depth, winner, *_candidates(triangles, chunk, count, height, width))
    return winner
