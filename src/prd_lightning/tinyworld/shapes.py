"""Procedural objects: twelve primitives as signed distances, ten colours, and scenes of one or two parts.

A distance is negative inside and never larger than the true distance, so sphere tracing cannot step through a surface. Unit
primitives fit a ball of radius 0.82; the wedge and the cross are asymmetric on purpose, so that orientation can be tested.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from prd_lightning.errors import ConfigurationError

Points = Float[Tensor, "*batch 3"]
Distances = Float[Tensor, "*batch"]


def _box(points: Tensor, x: float, y: float, z: float) -> Tensor:
    outside = points.abs() - points.new_tensor([x, y, z])
    return outside.clamp_min(0).norm(dim=-1) + outside.amax(dim=-1).clamp_max(0)


def _cylinder(points: Tensor, radius: float, half_height: float) -> Tensor:
    outside = torch.stack([points[..., :2].norm(dim=-1) - radius, points[..., 2].abs() - half_height], dim=-1)
    return outside.clamp_min(0).norm(dim=-1) + outside.amax(dim=-1).clamp_max(0)


def _sphere(points: Tensor) -> Tensor:
    return points.norm(dim=-1) - 0.55


def _cube(points: Tensor) -> Tensor:
    return _box(points, 0.42, 0.42, 0.42)


def _tall_cylinder(points: Tensor) -> Tensor:
    return _cylinder(points, 0.38, 0.48)


def _cone(points: Tensor) -> Tensor:
    slope, height = math.atan2(0.5, 1.0), points[..., 2]
    side = points[..., :2].norm(dim=-1) * math.cos(slope) + (height - 0.5) * math.sin(slope)
    return torch.maximum(side, -0.5 - height)


def _pyramid(points: Tensor) -> Tensor:
    slope, height = math.atan2(0.48, 0.95), points[..., 2]
    side = points[..., :2].abs().amax(dim=-1) * math.cos(slope) + (height - 0.5) * math.sin(slope)
    return torch.maximum(side, -0.45 - height)


def _torus(points: Tensor) -> Tensor:
    ring = points[..., :2].norm(dim=-1) - 0.42
    return torch.hypot(ring, points[..., 2]) - 0.18


def _capsule(points: Tensor) -> Tensor:
    height = points[..., 2] - points[..., 2].clamp(-0.34, 0.34)
    return torch.stack([points[..., 0], points[..., 1], height], dim=-1).norm(dim=-1) - 0.27


def _octahedron(points: Tensor) -> Tensor:
    return (points.abs().sum(dim=-1) - 0.64) / math.sqrt(3.0)


def _disk(points: Tensor) -> Tensor:
    return _cylinder(points, 0.58, 0.13)


def _dome(points: Tensor) -> Tensor:
    lifted = points + points.new_tensor([0.0, 0.0, 0.25])
    return torch.maximum(lifted.norm(dim=-1) - 0.58, -lifted[..., 2])


def _wedge(points: Tensor) -> Tensor:
    slope = math.atan2(0.85, 1.0)
    ramp = (points[..., 0] + 0.5) * math.sin(slope) + (points[..., 2] - 0.45) * math.cos(slope)
    return torch.maximum(ramp, _box(points, 0.5, 0.4, 0.4))


def _cross(points: Tensor) -> Tensor:
    return torch.minimum(_box(points, 0.17, 0.17, 0.58), _box(points - points.new_tensor([0.0, 0.0, 0.1]), 0.17, 0.5, 0.17))


PRIMITIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "sphere": _sphere,
    "cube": _cube,
    "cylinder": _tall_cylinder,
    "cone": _cone,
    "pyramid": _pyramid,
    "torus": _torus,
    "capsule": _capsule,
    "octahedron": _octahedron,
    "disk": _disk,
    "dome": _dome,
    "wedge": _wedge,
    "cross": _cross,
}

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.98, 0.52, 0.08),
    "yellow": (0.95, 0.88, 0.15),
    "green": (0.12, 0.62, 0.20),
    "cyan": (0.20, 0.80, 0.85),
    "blue": (0.12, 0.22, 0.85),
    "purple": (0.50, 0.12, 0.65),
    "pink": (0.98, 0.55, 0.75),
    "brown": (0.42, 0.25, 0.10),
    "gray": (0.50, 0.50, 0.50),
}

LIGHT_DIRECTION = (0.42, -0.30, 0.856)
SHADE_RANGE = (0.7, 1.0)
"""Albedo is multiplied by a factor between these two that depends on the normal in the world, not on the camera."""

ARRANGEMENTS = ("on", "beside")
PART_SCALE = 0.62


@dataclass(frozen=True)
class Part:
    """One primitive of a scene: ``shape`` scaled by ``scale`` about its centre and moved to ``center`` (world units)."""

    shape: str
    color: str
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.shape not in PRIMITIVES:
            raise ConfigurationError(f"unknown primitive {self.shape!r}; known: {', '.join(PRIMITIVES)}")
        if self.color not in COLORS:
            raise ConfigurationError(f"unknown colour {self.color!r}; known: {', '.join(COLORS)}")


@dataclass(frozen=True)
class Scene:
    """One part, or two parts in an arrangement ("on": first above second; "beside": first left of second)."""

    parts: tuple[Part, ...]
    arrangement: str | None = None

    @classmethod
    def single(cls, shape: str, color: str) -> "Scene":
        """A scene of one primitive in full size at the origin."""
        return cls((Part(shape, color),))

    @classmethod
    def composition(cls, first: tuple[str, str], second: tuple[str, str], arrangement: str) -> "Scene":
        """Two (shape, colour) pairs; y grows to the right as seen from the front camera, z upwards."""
        if arrangement not in ARRANGEMENTS:
            raise ConfigurationError(f"unknown arrangement {arrangement!r}; known: {', '.join(ARRANGEMENTS)}")
        center = (0.0, 0.0, 0.33) if arrangement == "on" else (0.0, -0.36, 0.0)
        opposite = tuple(-value for value in center)
        return cls((Part(*first, center, PART_SCALE), Part(*second, opposite, PART_SCALE)), arrangement)

    @property
    def concepts(self) -> tuple[tuple[str, str], ...]:
        """The (shape, colour) pairs of the scene."""
        return tuple((part.shape, part.color) for part in self.parts)


def part_distance(part: Part, points: Points) -> Distances:
    """Signed distance to one part."""
    local = (points - points.new_tensor(part.center)) / part.scale
    return PRIMITIVES[part.shape](local) * part.scale


def scene_distance(scene: Scene, points: Points) -> Distances:
    """Signed distance to the nearest part of a scene, in world units, negative inside."""
    return torch.stack([part_distance(part, points) for part in scene.parts]).amin(dim=0)


def scene_normal(scene: Scene, points: Points, step: float = 1e-3) -> Float[Tensor, "*batch 3"]:
    """Outward unit normal by central differences of the distance."""
    gradient = []
    for axis in range(3):
        offset = torch.zeros(3, dtype=points.dtype, device=points.device)
        offset[axis] = step
        gradient.append(scene_distance(scene, points + offset) - scene_distance(scene, points - offset))
    return torch.nn.functional.normalize(torch.stack(gradient, dim=-1), dim=-1)


def scene_color(scene: Scene, points: Points, normals: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Shaded colour in [0, 1] of the part nearest to each point."""
    distances = torch.stack([part_distance(part, points) for part in scene.parts])
    palette = points.new_tensor([COLORS[part.color] for part in scene.parts])
    albedo = palette[distances.argmin(dim=0)]
    light = points.new_tensor(LIGHT_DIRECTION)
    facing = 0.5 + 0.5 * (normals * light).sum(dim=-1, keepdim=True)
    low, high = SHADE_RANGE
    return albedo * (low + (high - low) * facing)
