"""Which composition an object is nearest to, among all that the tiny world can name.

The candidates are all ordered pairs of primitives in both arrangements (2 x 12 x 12). With the inside I of an object and the
insides A and B of a candidate's parts, the overlap with their union follows from sums over pairs::

    |I & (A | B)| = |I & A| + |I & B| - |I & A & B|        |A | B| = |A| + |B| - |A & B|

so that all candidates of an arrangement take one matrix product. The candidates' grids are made once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prd_lightning.tinyworld.shapes import ARRANGEMENTS, COLORS, PRIMITIVES, SHADE_RANGE, Scene, part_distance

GRID_RESOLUTION = 48
_ANY_COLOR = next(iter(COLORS))


def grid_points(resolution: int = GRID_RESOLUTION) -> Float[Tensor, "points 3"]:
    """Cell centres of a regular grid over [-1, 1]^3."""
    axis = (torch.arange(resolution) + 0.5) * (2.0 / resolution) - 1.0
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


@dataclass(frozen=True)
class Candidates:
    """Insides of the twelve primitives at both places of an arrangement, and the sizes of their unions.

    Attributes:
        first, second: [12, P] ones inside.
        overlap: [12, 12] cells that a first and a second part share.
    """

    first: Float[Tensor, "primitives points"]
    second: Float[Tensor, "primitives points"]
    overlap: Float[Tensor, "primitives primitives"]

    def intersection_over_union(self, inside: Bool[Tensor, " points"]) -> Float[Tensor, "primitives primitives"]:
        """[first, second] IoU of ``inside`` with every composition of this arrangement."""
        cells = inside.nonzero().squeeze(1)
        first, second = self.first[:, cells], self.second[:, cells]
        shared = first.sum(dim=1)[:, None] + second.sum(dim=1)[None] - first @ second.T
        union = self.first.sum(dim=1)[:, None] + self.second.sum(dim=1)[None] - self.overlap
        return shared / (union + len(cells) - shared)


@lru_cache(maxsize=2)
def candidates(resolution: int) -> dict[str, Candidates]:
    """The candidates of each arrangement on the grid of ``grid_points(resolution)``."""
    points, made = grid_points(resolution), {}
    for arrangement in ARRANGEMENTS:
        places = []
        for place in (0, 1):
            scenes = [Scene.composition(*[(shape, _ANY_COLOR)] * 2, arrangement) for shape in PRIMITIVES]
            places.append(torch.stack([part_distance(scene.parts[place], points) < 0 for scene in scenes]).float())
        made[arrangement] = Candidates(*places, overlap=places[0] @ places[1].T)
    return made


def nearest_composition(inside: Bool[Tensor, " points"], resolution: int = GRID_RESOLUTION) -> tuple[str, str, str] | None:
    """First primitive, second primitive and arrangement of the composition with the largest IoU; None for an empty object.

    Args:
        inside: [resolution^3] cells of ``grid_points(resolution)``.
        resolution: of the grid.
    """
    if not inside.any():
        return None
    shapes, best, found = list(PRIMITIVES), -1.0, None
    for arrangement, choice in candidates(resolution).items():
        overlaps = choice.intersection_over_union(inside)
        first, second = divmod(int(overlaps.argmax()), len(shapes))
        if overlaps[first, second] > best:
            best, found = float(overlaps[first, second]), (shapes[first], shapes[second], arrangement)
    return found


def nearest_color(colors: Float[Tensor, "points 3"]) -> str | None:
    """The palette entry, half in the light, nearest to the mean of some colours; None if there are none."""
    if not len(colors):
        return None
    palette = colors.new_tensor(list(COLORS.values())) * (sum(SHADE_RANGE) / 2)
    return list(COLORS)[int((palette - colors.mean(dim=0)).norm(dim=-1).argmin())]


def part_colors(
    scene: Scene, positions: Float[Tensor, "points 3"], colors: Float[Tensor, "points 3"]
) -> Sequence[str | None]:
    """The palette entry of each part of ``scene``: of the mean colour of the visible points that are nearer to it than to others.

    Args:
        scene: its shapes and places say which points belong to which part; its colours are not looked at.
        positions: visible surface points in the world.
        colors: their colours.
    """
    owner = torch.stack([part_distance(part, positions) for part in scene.parts]).argmin(dim=0)
    return [nearest_color(colors[owner == index]) for index in range(len(scene.parts))]
