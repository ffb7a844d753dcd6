"""Textures from fields: every texel gets the colour of the field at its own place on the surface, not a mean of vertex colours.

The triangles of the atlas are rasterized in texture space, which gives each texel its point p on the (decimated) mesh. The point
is moved to the zero level of the field along the gradient g, by two steps of Newton's method with one gradient::

    p <- p - sdf(p) g / |g|^2

and is kept where it was if that leads away (where the box cuts the object there is no zero level). Colours, and on demand
normals g / |g|, are those of the field at the moved point. Normals are stored in the frame (tangent, bitangent, normal) that a
glTF viewer rebuilds from the interpolated vertex normals and tangents; the frame is inverted, so it need not be orthogonal.
"""

import torch
import torch.nn.functional as functional
from jaxtyping import Float, Int
from torch import Tensor

from prd_lightning.field import PreparedPlanes, TriplaneField
from prd_lightning.mesh.atlas import Atlas
from prd_lightning.mesh.mesh import Mesh, Texture
from prd_lightning.mesh.tangents import tangent_frames, vertex_tangents
from prd_lightning.rendering import Rasterizer, make_rasterizer

TEXELS_AT_ONCE = 1 << 18
FARTHEST_MOVE = 0.05
"""How far a point may be moved to the surface, in world units."""
RINGS = 2
EMPTY_COLOR = 1.0
FLAT_NORMAL = (0.5, 0.5, 1.0)


@torch.no_grad()
def bake_texture(
    field: TriplaneField, prepared: PreparedPlanes, mesh: Mesh, atlas: Atlas, size: int, normal_map: bool = False
) -> Texture:
    """Pictures of the field's colours, and on demand normals, in the places that an atlas gives them.

    Args:
        field: networks over the planes.
        prepared: the planes of one scene.
        mesh: extracted from that scene.
        atlas: of ``mesh``.
        size: height and width of the pictures.
        normal_map: bake normals as well.
    """
    device = prepared.geometry.device
    faces = torch.from_numpy(atlas.faces).to(device)
    tangents = vertex_tangents(mesh, atlas) if normal_map else None
    columns = [torch.from_numpy(mesh.vertices)[atlas.vertex], torch.from_numpy(mesh.normals)[atlas.vertex]]
    attributes = torch.cat([*columns, *([torch.from_numpy(tangents)] if normal_map else [])], dim=-1).to(device)
    coordinates = torch.from_numpy(atlas.coordinates).to(device)
    rows, rasterizer = max(1, TEXELS_AT_ONCE // size), make_rasterizer("torch", device)
    bands = [
        _bake_band(field, prepared, rasterizer, attributes, coordinates, faces, (start, min(start + rows, size)), size)
        for start in range(0, size, rows)
    ]
    covered = torch.cat([band[0] for band in bands])
    color = _finish(torch.cat([band[1] for band in bands]), covered)
    normal = _finish(torch.cat([band[2] for band in bands]), covered) if normal_map else None
    return Texture(atlas.vertex, atlas.faces, atlas.coordinates, color, normal, tangents)


def _bake_band(
    field: TriplaneField,
    prepared: PreparedPlanes,
    rasterizer: Rasterizer,
    attributes: Float[Tensor, "corners channels"],
    coordinates: Float[Tensor, "corners 2"],
    faces: Int[Tensor, "faces 3"],
    band: tuple[int, int],
    size: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Some rows of the pictures: what is covered [rows, size], colours and encoded normals [rows, size, 3]."""
    covered, texels = texels_of_band(rasterizer, attributes, coordinates, faces, band, size)
    points, gradient = move_to_surface(field, prepared, texels[:, :3])
    color = attributes.new_full((*covered.shape, 3), EMPTY_COLOR)
    color[covered] = field.color(prepared, points[None])[0].clamp(0, 1)
    if attributes.shape[1] == 6:
        return covered, color, None
    normal = attributes.new_tensor(FLAT_NORMAL).expand(*covered.shape, 3).clone()
    frames = tangent_frames(texels[:, 3:6], texels[:, 6:10])
    normal[covered] = encode_normals(frames, functional.normalize(gradient, dim=-1))
    return covered, color, normal


def texels_of_band(
    rasterizer: Rasterizer,
    attributes: Float[Tensor, "corners channels"],
    coordinates: Float[Tensor, "corners 2"],
    faces: Int[Tensor, "faces 3"],
    band: tuple[int, int],
    size: int,
) -> tuple[Tensor, Float[Tensor, "texels channels"]]:
    """Which texels of the rows ``band`` lie in a triangle [rows, size], and the attributes there, row by row."""
    start, end = band
    low, high = coordinates[faces, 1].amin(dim=1), coordinates[faces, 1].amax(dim=1)
    near = faces[(high * size >= start) & (low * size <= end)]
    across, down = coordinates[:, 0] * 2 - 1, (coordinates[:, 1] * size - start) / (end - start) * 2 - 1
    clip = torch.stack([across, down, torch.zeros_like(across), torch.ones_like(across)], dim=-1)
    raster = rasterizer.rasterize(clip[None], near, (end - start, size))
    covered = raster[0, ..., 3] > 0
    return covered, rasterizer.interpolate(attributes[None], raster, near)[0][covered]


def move_to_surface(
    field: TriplaneField, prepared: PreparedPlanes, points: Float[Tensor, "points 3"]
) -> tuple[Float[Tensor, "points 3"], Float[Tensor, "points 3"]]:
    """Points on the zero level near the given ones, and the field's gradients there."""
    if not len(points):
        return points, points
    distance, gradient = (value[0] for value in field.sdf_and_gradient(prepared, points[None]))
    step = gradient / gradient.square().sum(dim=-1, keepdim=True).clamp_min(1e-6)
    moved = points - _bounded(distance[:, None] * step)
    second = field.sdf(prepared, moved[None])[0]
    moved = points - _bounded(points - moved + second[:, None] * step)
    final, final_gradient = (value[0] for value in field.sdf_and_gradient(prepared, moved[None]))
    better = ((final.abs() < distance.abs()) & (moved.abs() <= 1).all(dim=-1))[:, None]
    return torch.where(better, moved, points), torch.where(better, final_gradient, gradient)


def _bounded(step: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
    """The step, shortened to the farthest move that is allowed."""
    length = step.norm(dim=-1, keepdim=True)
    return step * (FARTHEST_MOVE / length.clamp_min(FARTHEST_MOVE))


def encode_normals(frames: Float[Tensor, "texels 3 3"], normals: Float[Tensor, "texels 3"]) -> Float[Tensor, "texels 3"]:
    """Normals of the world in frames whose columns are tangent, bitangent and normal, from [-1, 1] to [0, 1].

    A normal that points below the surface of its triangle becomes one along it: a normal map holds none of them.
    """
    local = torch.linalg.solve(frames, normals[..., None])[..., 0]
    local = torch.cat([local[:, :2], local[:, 2:].clamp_min(0)], dim=-1)
    return (functional.normalize(local, dim=-1) + 1) / 2


def _finish(picture: Float[Tensor, "rows columns 3"], covered: Tensor):
    """Fills what no triangle covers, and rounds to 8 bits."""
    return (dilate(picture, covered) * 255).round().to(torch.uint8).cpu().numpy()


def dilate(picture: Float[Tensor, "rows columns 3"], covered: Tensor) -> Float[Tensor, "rows columns 3"]:
    """Covered texels stay; others take on their surroundings, so that filters and smaller pictures find no seam.

    The first rings around the charts are means of their covered neighbours; everything else comes from ever coarser means (as in
    Gortler et al.'s pull-push, 1996).
    """
    if not covered.any():
        return picture
    weight = covered.to(picture)[None, None]
    values = picture.permute(2, 0, 1)[None] * weight
    for _ in range(RINGS):
        values, weight = _grow(values, weight)
    return _pull_push(values, weight)[0].permute(1, 2, 0).clamp(0, 1)


def _grow(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """One more ring of texels, each the mean of its covered neighbours."""
    area = functional.avg_pool2d(weight, 3, 1, 1)
    mean = functional.avg_pool2d(values, 3, 1, 1) / area.clamp_min(1e-6)
    reached = (area > 1e-6).to(values)
    return torch.where(weight > 0, values, mean * reached), reached


def _pull_push(values: Tensor, weight: Tensor) -> Tensor:
    """Texels of weight 0 from the means of coarser pictures."""
    if weight.min() > 0 or min(weight.shape[-2:]) == 1:
        return torch.where(weight > 0, values, (values * weight).sum((-1, -2), keepdim=True) / weight.sum().clamp_min(1e-6))
    area = functional.avg_pool2d(weight, 2, ceil_mode=True)
    mean = functional.avg_pool2d(values, 2, ceil_mode=True) / area.clamp_min(1e-6)
    coarse = _pull_push(mean, (area > 0).to(values))
    fine = functional.interpolate(coarse, weight.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(weight > 0, values, fine)
