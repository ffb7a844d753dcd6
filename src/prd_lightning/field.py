"""From planes to signed distance, deformation, colour and normals.

A scene is two triplanes (geometry and texture). With f the sum of the three geometry look-ups at p (design section 3)::

    sdf = w3 relu(W2 relu(W1 f)) + |p| - r                    (r = 0.5: an untrained field is a sphere; negative inside)
    d sdf / d f = W1^T (m1 * W2^T (m2 * w3)),   m the ReLU masks
    d sdf / d p = (d f / d p)^T (d sdf / d f) + p / |p|

The look-up is bilinear, so d f / d p is available in closed form from the same four texels. ``grid_sample`` has no second
derivative; this way the gradient can stand in a loss with first-order autograd only.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Float, Int
from torch import Tensor, nn

COLOR_MARGIN = 0.001
NORM_EPSILON = 1e-6
# Coordinates of a point that index the columns and rows of the planes xy, xz and yz (design: (x, y), (x, z) and (z, y)).
PLANE_AXES = ((0, 1), (0, 2), (2, 1))


@dataclass(frozen=True)
class PreparedPlanes:
    """Planes made ready for look-up: turned, padded by one texel of zeros, channels last.

    Attributes:
        geometry: [B * 3 * (H + 2) * (W + 2), C] table of the geometry planes.
        texture: the same of the texture planes.
        batch, height, width: B, H, W.
    """

    geometry: Float[Tensor, "texels channels"]
    texture: Float[Tensor, "texels channels"]
    batch: int
    height: int
    width: int

    def item(self, index: int) -> "PreparedPlanes":
        """The planes of one scene."""
        size = 3 * (self.height + 2) * (self.width + 2)
        rows = slice(index * size, (index + 1) * size)
        return PreparedPlanes(self.geometry[rows], self.texture[rows], 1, self.height, self.width)


def orient_planes(planes: Float[Tensor, "batch 6 channels height width"]) -> Float[Tensor, "batch 6 channels height width"]:
    """Turns each plane from an upright picture to the axes of the look-up: xy transposed, xz by 180, yz by -90 degrees."""
    xy, xz, yz = planes[:, 0::3], planes[:, 1::3], planes[:, 2::3]
    turned = torch.stack([xy.transpose(-1, -2), torch.rot90(xz, 2, (-2, -1)), torch.rot90(yz, -1, (-2, -1))], dim=2)
    return turned.flatten(1, 2)


def texel_weights(
    points: Float[Tensor, "batch points 3"], height: int, width: int, derivatives: bool
) -> tuple[Int[Tensor, "batch points 3 4"], Float[Tensor, "batch points kinds 3 4"]]:
    """Rows of the table and weights of the four texels around each point, for each of the three planes.

    ``kinds`` is 1 (the value), or with ``derivatives`` 4: the value and its derivatives along x, y and z. Rows count from the
    start of each scene; out of the planes everything is zero.
    """
    column_axis, row_axis = zip(*PLANE_AXES)
    pixel_x = (points[..., list(column_axis)] + 1) * (0.5 * width) + 0.5  # in padded texels, whose centres are whole numbers
    pixel_y = (points[..., list(row_axis)] + 1) * (0.5 * height) + 0.5
    inside = (pixel_x > 0) & (pixel_x < width + 1) & (pixel_y > 0) & (pixel_y < height + 1)
    # A point that is not finite reads the corner with weights that are not finite, so that the training notices and goes on.
    left, top = (pixel.detach().floor().nan_to_num().clamp(0, size) for pixel, size in ((pixel_x, width), (pixel_y, height)))
    right_share, bottom_share = (pixel_x - left).clamp(0, 1), (pixel_y - top).clamp(0, 1)
    plane = torch.arange(3, device=points.device) * ((height + 2) * (width + 2))
    first = (top * (width + 2) + left).long() + plane
    rows = torch.stack([first, first + 1, first + width + 2, first + width + 3], dim=-1)
    inside = inside.to(points)
    left_share, top_share = 1 - right_share, 1 - bottom_share
    value = (
        torch.stack(
            [left_share * top_share, right_share * top_share, left_share * bottom_share, right_share * bottom_share], dim=-1
        )
        * inside[..., None]
    )
    if not derivatives:
        return rows, value.unsqueeze(-3)
    scale_x, scale_y = 0.5 * width * inside, 0.5 * height * inside
    along_x = torch.stack([-top_share, top_share, -bottom_share, bottom_share], dim=-1) * scale_x[..., None]
    along_y = torch.stack([-left_share, -right_share, left_share, right_share], dim=-1) * scale_y[..., None]
    weights = [value]
    for axis in range(3):
        per_plane = [
            along_x[..., index, :]
            if axis == columns
            else along_y[..., index, :]
            if axis == rows_axis
            else torch.zeros_like(along_x[..., 0, :])
            for index, (columns, rows_axis) in enumerate(PLANE_AXES)
        ]
        weights.append(torch.stack(per_plane, dim=-2))
    return rows, torch.stack(weights, dim=-3)


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False),
        nn.ReLU(),
        nn.Linear(hidden, hidden, bias=False),
        nn.ReLU(),
        nn.Linear(hidden, outputs, bias=False),
    )


class TriplaneField(nn.Module):
    """Three small networks over triplane features.

    Args:
        channels: C of a plane.
        hidden: width of the two hidden layers.
        sphere_radius: radius of the sphere that the field is without planes.
        color_gradient_floor: added to the sigmoid's derivative in the colour's gradient, so that a colour that has run into
            black or white can still come back; 0 is the true gradient (published weights were trained with it).
    """

    def __init__(
        self, channels: int = 32, hidden: int = 64, sphere_radius: float = 0.5, color_gradient_floor: float = 0.0
    ) -> None:
        super().__init__()
        self.sphere_radius, self.color_gradient_floor = sphere_radius, color_gradient_floor
        self.sdf_network = _network(channels, hidden, 1)
        self.deformation_network = _network(channels, hidden, 3)
        self.texture_network = _network(3 * channels, hidden, 3)

    @staticmethod
    def prepare(planes: Float[Tensor, "batch 6 channels height width"]) -> PreparedPlanes:
        """Turns and pads planes once, for any number of look-ups."""
        batch, _, channels, height, width = planes.shape
        table = functional.pad(orient_planes(planes), (1, 1, 1, 1)).permute(1, 0, 3, 4, 2)
        geometry = table[:3].transpose(0, 1).reshape(-1, channels)
        texture = table[3:].transpose(0, 1).reshape(-1, channels)
        return PreparedPlanes(geometry, texture, batch, height, width)

    def _gather(self, table: Tensor, prepared: PreparedPlanes, rows: Tensor) -> Tensor:
        """[B, N, 3, 4] rows of each scene to [B, N, 3, 4, C] texels."""
        scene = torch.arange(prepared.batch, device=rows.device) * (3 * (prepared.height + 2) * (prepared.width + 2))
        return functional.embedding(rows + scene[:, None, None, None], table)

    def _weighted(
        self,
        table: Float[Tensor, "texels channels"],
        prepared: PreparedPlanes,
        rows: Int[Tensor, "batch points groups texels_of_group"],
        weights: Float[Tensor, "batch points groups kinds texels_of_group"],
    ) -> Float[Tensor, "batch points groups kinds channels"]:
        """Weighted sums of groups of texels. Without gradients they are added up as they are read, several times as fast."""
        if torch.is_grad_enabled() or table.dtype != weights.dtype:
            return weights @ self._gather(table, prepared, rows)
        scene = torch.arange(prepared.batch, device=rows.device) * (3 * (prepared.height + 2) * (prepared.width + 2))
        bags = (rows + scene[:, None, None, None])[..., None, :].expand(weights.shape).flatten(0, -2)
        sums = functional.embedding_bag(bags, table, mode="sum", per_sample_weights=weights.flatten(0, -2).contiguous())
        return sums.view(*weights.shape[:-1], table.shape[-1])

    def geometry_features(
        self, prepared: PreparedPlanes, points: Float[Tensor, "batch points 3"]
    ) -> Float[Tensor, "batch points channels"]:
        """Sum of the three geometry planes."""
        rows, weights = texel_weights(points, prepared.height, prepared.width, derivatives=False)
        rows, weights = rows.flatten(2)[:, :, None], weights.flatten(3)[:, :, None]
        return self._weighted(prepared.geometry, prepared, rows, weights)[:, :, 0, 0]

    def texture_features(
        self, prepared: PreparedPlanes, points: Float[Tensor, "batch points 3"]
    ) -> Float[Tensor, "batch points features"]:
        """Concatenation of the three texture planes."""
        rows, weights = texel_weights(points, prepared.height, prepared.width, derivatives=False)
        return self._weighted(prepared.texture, prepared, rows, weights.transpose(2, 3)).flatten(2)

    def _sphere(self, points: Tensor) -> Tensor:
        return points.norm(dim=-1) - self.sphere_radius

    def sdf(self, prepared: PreparedPlanes, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points"]:
        """Signed distance, negative inside."""
        return self.sdf_network(self.geometry_features(prepared, points)).squeeze(-1) + self._sphere(points)

    @torch.no_grad()
    def grid_features(self, prepared: PreparedPlanes, resolution: int) -> Float[Tensor, "batch 3 side side channels"]:
        """Each geometry plane at the (resolution + 1)^2 places where a regular grid over [-1, 1]^3 looks it up.

        The tables are indexed by (x, y), (x, z) and (y, z); the features of a grid point are the sum of its three look-ups. Both
        axes are interpolated one after the other, because the grid's axes are the planes'.
        """
        table = prepared.geometry
        axis = torch.linspace(-1.0, 1.0, resolution + 1, device=table.device, dtype=table.dtype)
        values = table.view(prepared.batch, 3, prepared.height + 2, prepared.width + 2, -1)
        for dimension, size in ((2, prepared.height), (3, prepared.width)):
            pixel = (axis + 1) * (0.5 * size) + 0.5
            low = pixel.floor().clamp(0, size)
            share = (pixel - low).view(-1, *[1] * (4 - dimension))
            index = low.long()
            values = torch.lerp(values.index_select(dimension, index), values.index_select(dimension, index + 1), share)
        return torch.stack([values[:, 0].transpose(1, 2), values[:, 1].transpose(1, 2), values[:, 2]], dim=1)

    @torch.no_grad()
    def grid_sdf(self, prepared: PreparedPlanes, resolution: int) -> Float[Tensor, "batch points"]:
        """Signed distances at the (resolution + 1)^3 points of a regular grid over [-1, 1]^3, x slowest; without gradients.

        A grid point is a pixel of each plane, so (resolution + 1)^2 look-ups a plane suffice; the first layer is linear and has
        no bias, so it is applied before the three planes are summed.
        """
        axis = torch.linspace(-1.0, 1.0, resolution + 1, device=prepared.geometry.device, dtype=prepared.geometry.dtype)
        hidden = functional.linear(self.grid_features(prepared, resolution), self.sdf_network[0].weight)
        sphere = torch.hypot(axis[:, None], axis)
        slabs = []
        for index in range(resolution + 1):  # slab by slab, so that the hidden layers stay in the cache
            slab = hidden[:, 0, index, :, None] + hidden[:, 1, index, None, :] + hidden[:, 2]
            distance = self.sdf_network[1:](slab).squeeze(-1) + torch.hypot(sphere, axis[index]) - self.sphere_radius
            slabs.append(distance.flatten(1))
        return torch.cat(slabs, dim=1)

    def sdf_and_deformation(
        self, prepared: PreparedPlanes, points: Float[Tensor, "batch points 3"]
    ) -> tuple[Float[Tensor, "batch points"], Float[Tensor, "batch points 3"]]:
        """Signed distance and the raw deformation of the iso-surface's grid vertices."""
        features = self.geometry_features(prepared, points)
        return self.sdf_network(features).squeeze(-1) + self._sphere(points), self.deformation_network(features)

    def sdf_and_gradient(
        self, prepared: PreparedPlanes, points: Float[Tensor, "batch points 3"]
    ) -> tuple[Float[Tensor, "batch points"], Float[Tensor, "batch points 3"]]:
        """Signed distance and its gradient in the world, both differentiable once more by ordinary autograd."""
        rows, weights = texel_weights(points, prepared.height, prepared.width, derivatives=True)
        rows, weights = rows.flatten(2)[:, :, None], weights.flatten(3)[:, :, None]
        looked_up = self._weighted(prepared.geometry, prepared, rows, weights)[:, :, 0]
        features, feature_gradient = looked_up[..., 0, :], looked_up[..., 1:, :]
        first, second, last = (self.sdf_network[index].weight for index in (0, 2, 4))
        hidden1 = functional.relu(functional.linear(features, first))
        hidden2 = functional.relu(functional.linear(hidden1, second))
        value = functional.linear(hidden2, last).squeeze(-1) + self._sphere(points)
        back = ((hidden2 > 0) * last[0]) @ second
        back = ((hidden1 > 0) * back) @ first
        sphere = points / points.norm(dim=-1, keepdim=True).clamp_min(NORM_EPSILON)
        return value, (feature_gradient @ back.unsqueeze(-1)).squeeze(-1) + sphere

    def color(self, prepared: PreparedPlanes, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points 3"]:
        """Colour, a hair's breadth beyond [0, 1] on both sides so that pure black and white can be reached."""
        logits = self.texture_network(self.texture_features(prepared, points))
        rgb = torch.sigmoid(logits) * (1 + 2 * COLOR_MARGIN) - COLOR_MARGIN
        if self.color_gradient_floor:
            rgb = rgb + self.color_gradient_floor * (logits - logits.detach())
        return rgb
