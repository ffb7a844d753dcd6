"""Which points of a grid are inside a field's object, without evaluating the field where that is certain.

The grid's axes are those of the planes, so the first layer's values at a grid point are a sum of three look-ups,
``z = Zxy[x, y] + Zxz[x, z] + Zyz[y, z]``, in tables made once. For every block of points, least and greatest z give linear bounds
of the network (``bounds``), and a linear function of z is a sum of three scalars per point:

1. a block whose bounds, with those of |p| - r, exclude zero is settled as a whole;
2. in the other blocks the bounds are added up point by point, which settles most points;
3. the network is evaluated at the remaining points, in float64 where float32 cannot tell the sign.

No step guesses: the signs are those of an evaluation of every point. The bounds are tight where the field is smooth at the scale
of a block, as trained fields are. Where a first look at some blocks finds them too loose to be of use, ``sampled`` takes over,
which measures its margin instead.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prd_lightning.errors import NonFiniteError
from prd_lightning.field import PreparedPlanes, TriplaneField
from prd_lightning.isosurface.bounds import linear_bounds
from prd_lightning.isosurface.sampled import sampled_signs

BLOCK, SMALL_BLOCK, FINE = 8, 4, 96
"""Points along a block's sides, for grids of at least FINE cells and for coarser ones."""
BLOCKS_AT_ONCE = 2048
BLOCKS_TRIED = 400
POINTS_AT_ONCE = 32_768
BOX_POINTS_AT_ONCE = 8192
"""Points whose hidden layers fit into the cache."""
LOOSE = 0.5
"""Mean width of the bounds of the network over a block beyond which they are not worth their time."""
ROUNDING = 16
"""Roundings of float32 (relative to the largest possible sum of magnitudes) within which a sign is looked up in float64."""
REMEDY = "try another seed, or weights that were trained longer"


@dataclass(frozen=True)
class GridSigns:
    """What is known of a grid.

    Attributes:
        inside: [S, S, S] whether each point is inside, x first.
        evaluated: points at which the network was evaluated.
        certain: whether every sign was evaluated or follows from bounds; else some rest on a measured margin.
    """

    inside: Bool[Tensor, "side side side"]
    evaluated: int
    certain: bool = True


class FieldGrid:
    """The field of one scene on a regular grid over [-1, 1]^3.

    Args:
        field: networks.
        prepared: planes of one scene.
        resolution: cells along each axis.
    """

    @torch.no_grad()
    def __init__(self, field: TriplaneField, prepared: PreparedPlanes, resolution: int) -> None:
        self.field, self.resolution, self.side = field, resolution, resolution + 1
        self.features = field.grid_features(prepared, resolution)[0]
        self.axis = torch.linspace(-1.0, 1.0, self.side, device=self.features.device, dtype=self.features.dtype)
        self.first, self.second, self.last = (field.sdf_network[index].weight.detach() for index in (0, 2, 4))
        self.hidden = functional.linear(self.features, self.first)
        largest = self.hidden.abs().amax(dim=(1, 2)).sum(dim=0)
        magnitude = (self.last.abs() @ (self.second.abs() @ largest)).squeeze() + 2
        self.tolerance = ROUNDING * torch.finfo(torch.float32).eps * magnitude

    def coordinates(self, points: Int[Tensor, " points"]) -> tuple[Tensor, Tensor, Tensor]:
        """Indices along x, y and z of grid points."""
        return points // self.side**2, points // self.side % self.side, points % self.side

    def gather(self, tables: Float[Tensor, "3 side side channels"], points: Int[Tensor, " points"]) -> Tensor:
        """[N, C] sums of the three tables at grid points."""
        x, y, z = self.coordinates(points)
        flat = tables.flatten(1, 2)
        total = flat[0].index_select(0, x * self.side + y)
        total += flat[1].index_select(0, x * self.side + z)
        return total.add_(flat[2].index_select(0, y * self.side + z))

    def _sphere(self, points: Tensor, axis: Tensor) -> Tensor:
        x, y, z = (axis[index] for index in self.coordinates(points))
        return (x * x + y * y + z * z).sqrt() - self.field.sphere_radius

    @torch.no_grad()
    def distances(self, points: Int[Tensor, " points"]) -> Float[Tensor, " points"]:
        """Signed distances at grid points."""
        parts = []
        for chunk in points.split(POINTS_AT_ONCE):
            hidden = self.gather(self.hidden, chunk).relu_()
            hidden = functional.linear(hidden, self.second).relu_()
            parts.append((hidden @ self.last[0]).add_(self._sphere(chunk, self.axis)))
        return torch.cat(parts) if parts else self.axis.new_zeros(0)

    @torch.no_grad()
    def distances_and_deformation(self, points: Int[Tensor, " points"]) -> tuple[Tensor, Tensor]:
        """[N] signed distances and [N, 3] raw deformations at grid points."""
        features = self.gather(self.features, points)
        distance = self.field.sdf_network(features).squeeze(-1) + self._sphere(points, self.axis)
        return distance, self.field.deformation_network(features)

    def _precise(self, points: Tensor) -> Tensor:
        """Signed distances in float64, from the same look-ups and weights."""
        first, second, last = (weight.double() for weight in (self.first, self.second, self.last))
        parts = []
        for chunk in points.split(POINTS_AT_ONCE):
            x, y, z = self.coordinates(chunk)
            features = self.features[0, x, y].double() + self.features[1, x, z].double() + self.features[2, y, z].double()
            hidden = functional.relu(functional.relu(features @ first.T) @ second.T)
            parts.append(hidden @ last[0] + self._sphere(chunk, self.axis.double()))
        return torch.cat(parts)

    def settle(self, points: Int[Tensor, " points"], values: Float[Tensor, " points"]) -> Bool[Tensor, " points"]:
        """Which points are inside, given their distances in float32.

        Raises:
            NonFiniteError: a distance is not finite.
        """
        if not values.isfinite().all():
            count = int((~values.isfinite()).sum())
            raise NonFiniteError(f"{count} of {len(values)} signed distances are not finite; {REMEDY}")
        inside = values < 0
        near = (values.abs() < self.tolerance).nonzero().squeeze(1)
        if len(near):
            inside[near] = self._precise(points[near]) < 0
        return inside

    def _settle_boxes(
        self, x: Int[Tensor, "boxes along_x"], y: Int[Tensor, "boxes along_y"], z: Int[Tensor, "boxes along_z"]
    ) -> tuple[Float[Tensor, "boxes along_x along_y along_z"], Bool[Tensor, "boxes along_x along_y along_z"]]:
        """Distances at boxes of grid points, and which are inside. Points of a box share their look-ups."""
        xy, xz, yz = self.hidden.flatten(1, 2)
        distances, numbers = [], []
        at_once = max(1, BOX_POINTS_AT_ONCE // (x.shape[1] * y.shape[1] * z.shape[1]))
        for i, j, k in zip(x.split(at_once), y.split(at_once), z.split(at_once)):
            rows = i[:, :, None] * self.side + j[:, None]
            hidden = xy[rows][:, :, :, None] + xz[i[:, :, None] * self.side + k[:, None]][:, :, None]
            hidden = hidden.add_(yz[j[:, :, None] * self.side + k[:, None]][:, None]).relu_().flatten(0, 3)
            hidden = functional.linear(hidden, self.second).relu_()
            numbers.append((rows[..., None] * self.side + k[:, None, None]).flatten())
            distances.append((hidden @ self.last[0]).add_(self._sphere(numbers[-1], self.axis)))
        values = torch.cat(distances)
        shape = (*x.shape, y.shape[1], z.shape[1])
        return values.view(shape), self.settle(torch.cat(numbers), values).view(shape)

    @torch.no_grad()
    def dense_signs(self) -> GridSigns:
        """The signs by evaluating every point."""
        count, parts = self.side**3, []
        every = torch.arange(count, device=self.axis.device)
        for slab in every.split(self.side**2):
            parts.append(self.settle(slab, self._slab(int(slab[0]) // self.side**2)))
        return GridSigns(torch.cat(parts).view(self.side, self.side, self.side), count)

    def _slab(self, x: int) -> Tensor:
        """[S * S] distances of one value of x, so that the hidden layers stay in the cache."""
        hidden = (self.hidden[0, x, :, None] + self.hidden[1, x, None, :]).add_(self.hidden[2]).relu_().flatten(0, 1)
        hidden = functional.linear(hidden, self.second).relu_()
        squares = self.axis.square()
        sphere = (squares[x] + squares[:, None] + squares).sqrt().flatten() - self.field.sphere_radius
        return (hidden @ self.last[0]).add_(sphere)

    @torch.no_grad()
    def sparse_signs(self) -> GridSigns:
        """The same signs by evaluating the points that bounds leave open, or those near the surface of a rough field."""
        size = BLOCK if self.resolution >= FINE else SMALL_BLOCK
        search = _BlockSearch(self, size)
        if search.looseness() > LOOSE:
            found = sampled_signs(self._settle_boxes, self.side, self.axis.device)
            return GridSigns(*found, certain=False) if found else self.dense_signs()
        search.prepare()
        state = search.settle_blocks()
        inside = (state > 0)[:, None].repeat(1, size**3)
        evaluated = 0
        for chosen in (state == 0).nonzero().squeeze(1).split(BLOCKS_AT_ONCE):
            part, is_open = search.settle_points(chosen)
            place = is_open.nonzero()
            points = search.grid_points_of(chosen[place[:, 0]], place[:, 1])
            for at, numbers in zip(place.split(POINTS_AT_ONCE), points.split(POINTS_AT_ONCE)):
                part[at[:, 0], at[:, 1]] = self.settle(numbers, self.distances(numbers))
            inside[chosen] = part
            evaluated += len(points)
        blocks = search.count
        volume = inside.view(blocks, blocks, blocks, size, size, size).permute(0, 3, 1, 4, 2, 5)
        volume = volume.reshape(blocks * size, blocks * size, blocks * size)
        return GridSigns(volume[: self.side, : self.side, : self.side].contiguous(), evaluated)


class _BlockSearch:
    """Bounds of a grid cut into n^3 blocks of size^3 points (the last ones repeat the grid's end)."""

    def __init__(self, grid: FieldGrid, size: int) -> None:
        self.grid, self.size, self.count = grid, size, -(-grid.side // size)
        self.padded = padded = torch.arange(self.count * size, device=grid.axis.device).clamp_max(grid.side - 1)
        self.coordinates = grid.axis[padded]
        self.linear: list[Tensor] = []
        n, units = self.count, grid.hidden.shape[-1]
        tables = grid.hidden[:, padded][:, :, padded]
        along = tables.view(3, n, size, n * size, units)
        along = (along.amin(dim=2).view(3, n, n, size, units), along.amax(dim=2).view(3, n, n, size, units))
        self.low, self.high = self._spread(along[0].amin(dim=3)), self._spread(along[1].amax(dim=3))
        self.tables = tables

    def _bounds(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        return linear_bounds(low, high, self.grid.second, self.grid.last[0])

    def looseness(self) -> float:
        """Mean distance between the bounds of the network, over some of the blocks."""
        some = slice(None, None, max(1, len(self.low) // BLOCKS_TRIED))
        low, high = self.low[some], self.high[some]
        coefficients, offsets = self._bounds(low, high)
        least = coefficients.clamp_min(0) * low[:, None] + coefficients.clamp_max(0) * high[:, None]
        return float(-(least.sum(dim=-1) + offsets).sum(dim=-1).mean())

    def prepare(self) -> None:
        """The linear bounds at every look-up of every block: scalars that add up to the bounds of a point."""
        n, size, units = self.count, self.size, self.low.shape[-1]
        parts = [self._bounds(*pair) for pair in zip(self.low.split(BLOCKS_AT_ONCE), self.high.split(BLOCKS_AT_ONCE))]
        coefficients, self.offsets = (torch.cat(values) for values in zip(*parts))
        patches = self.tables.view(3, n, size, n, size, units).permute(0, 1, 3, 5, 2, 4).reshape(3, n, n, units, size**2)
        # The two axes of each plane first: all blocks behind a patch share its look-ups.
        shaped = coefficients.view(n, n, n, 2, units)
        for plane, order in enumerate(((0, 1, 2), (0, 2, 1), (1, 2, 0))):
            ahead = shaped.permute(*order, 3, 4).reshape(n, n, n * 2, units)
            product = (ahead @ patches[plane]).view(n, n, n, 2, size**2)
            back = [order.index(axis) for axis in range(3)]
            self.linear.append(product.permute(*back, 3, 4).reshape(n**3, 2, size**2))

    def _spread(self, planes: Float[Tensor, "3 blocks blocks units"]) -> Float[Tensor, "cubes units"]:
        """Sums of the three planes' values for every block."""
        xy, xz, yz = planes
        return (xy[:, :, None] + xz[:, None] + yz).flatten(0, 2)

    def settle_blocks(self) -> Int[Tensor, " cubes"]:
        """1 for blocks inside, -1 outside, 0 open; bounds that are not finite leave a block open."""
        lowest = sum(part.amin(dim=-1) for part in self.linear) + self.offsets
        sizes = self.coordinates.abs().view(self.count, self.size).square()
        sphere = []
        for squares in (sizes.amin(dim=1), sizes.amax(dim=1)):
            distance = (squares[:, None, None] + squares[:, None] + squares).sqrt().flatten()
            sphere.append(distance - self.grid.field.sphere_radius)
        outside = lowest[:, 0] + sphere[0] > self.grid.tolerance
        inside = lowest[:, 1] - sphere[1] > self.grid.tolerance
        return inside.long() - outside.long()

    def settle_points(self, blocks: Int[Tensor, " chosen"]) -> tuple[Tensor, Tensor]:
        """[N, size^3] whether points are certainly inside, and whether they are open."""
        xy, xz, yz = (part[blocks].view(-1, 2, self.size, self.size) for part in self.linear)
        bound = xy[..., None] + (xz[:, :, :, None] + self.offsets[blocks].view(-1, 2, 1, 1, 1)) + yz[:, :, None]
        x, y, z = (axis.square() for axis in self._axes(blocks))
        sphere = (x[:, :, None, None] + y[:, None, :, None] + z[:, None, None]).sqrt_().sub_(self.grid.field.sphere_radius)
        outside = bound[:, 0] + sphere > self.grid.tolerance
        inside = bound[:, 1] - sphere > self.grid.tolerance
        return inside.flatten(1), ~(inside | outside).flatten(1)

    def _corner(self, blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return blocks // self.count**2, blocks // self.count % self.count, blocks % self.count

    def _axes(self, blocks: Tensor) -> list[Tensor]:
        """[N, size] coordinates of the points of each block along x, y and z."""
        shaped = self.coordinates.view(self.count, self.size)
        return [shaped[index] for index in self._corner(blocks)]

    def grid_points_of(self, blocks: Int[Tensor, " points"], places: Int[Tensor, " points"]) -> Int[Tensor, " points"]:
        """Numbers of grid points from the blocks and the places in them."""
        within = (places // self.size**2, places // self.size % self.size, places % self.size)
        x, y, z = (self.padded[corner * self.size + step] for corner, step in zip(self._corner(blocks), within))
        return (x * self.grid.side + y) * self.grid.side + z
