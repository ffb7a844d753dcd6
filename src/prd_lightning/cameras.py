"""Orbit cameras: matrices, rays and random training views.

World: right-handed, z up, the camera at azimuth 0 stands on +x and azimuth grows towards +y. A camera-to-world matrix has the
columns [right, up, -view direction, position]: an OpenGL-style camera that looks along its own -z (design section 5).
"""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from prd_lightning.draws import Draws, uniform
from prd_lightning.errors import ConfigurationError


@dataclass(frozen=True)
class Cameras:
    """A batch of V cameras, prompt-major: the views of one prompt are adjacent.

    Attributes:
        camera_to_world: [V, 4, 4] matrices.
        fovy: [V] vertical field of view in radians.
        distance: [V] distance to the origin in world units.
        relative_distance: [V] ``distance * tan(fovy / 2)``: the half height of the picture at the origin.
        elevation: [V] degrees above the horizon.
        azimuth: [V] degrees from +x towards +y.
    """

    camera_to_world: Float[Tensor, "views 4 4"]
    fovy: Float[Tensor, " views"]
    distance: Float[Tensor, " views"]
    relative_distance: Float[Tensor, " views"]
    elevation: Float[Tensor, " views"]
    azimuth: Float[Tensor, " views"]

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    @property
    def position(self) -> Float[Tensor, "views 3"]:
        """World positions of the cameras."""
        return self.camera_to_world[:, :3, 3]

    def select(self, index: Tensor | slice | list[int]) -> "Cameras":
        """The cameras at ``index`` (anything that indexes a tensor's first axis)."""
        return replace(self, **{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def to(self, device: torch.device | str) -> "Cameras":
        """The same cameras on another device."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def rays(
        self, height: int, width: int, focal_height: int | None = None
    ) -> tuple[Float[Tensor, "views height width 3"], Float[Tensor, "views height width 3"]]:
        """Origins and unit directions of the rays through the pixel centres, row 0 at the top.

        Args:
            height, width: of the picture.
            focal_height: height whose focal length is used, default the picture's own. Published weights were trained with
                backgrounds of rasterized pictures that took the focal length of the smaller volume-rendered ones.
        """
        matrices = self.camera_to_world
        kind = {"device": matrices.device, "dtype": matrices.dtype}
        focal = 0.5 * (focal_height or height) / torch.tan(0.5 * self.fovy)
        columns = torch.arange(width, **kind) + 0.5 - 0.5 * width
        rows = torch.arange(height, **kind) + 0.5 - 0.5 * height
        x = columns[None, None, :] / focal[:, None, None]
        y = -rows[None, :, None] / focal[:, None, None]
        x, y = torch.broadcast_tensors(x, y)
        local = torch.stack([x, y, -torch.ones_like(x)], dim=-1)
        directions = torch.nn.functional.normalize(torch.einsum("vij,vhwj->vhwi", matrices[:, :3, :3], local), dim=-1)
        origins = self.position[:, None, None, :].expand_as(directions)
        return origins, directions

    def model_view_projection(
        self, near: float = 0.1, far: float = 1000.0, aspect: float = 1.0
    ) -> Float[Tensor, "views 4 4"]:
        """World to clip space, y negated so that row 0 is the rasterizer's top row; ``aspect`` is width / height."""
        matrices = self.camera_to_world
        projection = torch.zeros_like(matrices)
        scale = 1.0 / torch.tan(0.5 * self.fovy)
        projection[:, 0, 0] = scale / aspect
        projection[:, 1, 1] = -scale
        projection[:, 2, 2] = -(far + near) / (far - near)
        projection[:, 2, 3] = -2.0 * far * near / (far - near)
        projection[:, 3, 2] = -1.0
        return projection @ self.world_to_camera()

    def world_to_camera(self) -> Float[Tensor, "views 4 4"]:
        """Inverse of ``camera_to_world``, from the transposed rotation."""
        rotation = self.camera_to_world[:, :3, :3].transpose(1, 2)
        matrices = torch.zeros_like(self.camera_to_world)
        matrices[:, :3, :3] = rotation
        matrices[:, :3, 3] = -torch.einsum("vij,vj->vi", rotation, self.position)
        matrices[:, 3, 3] = 1.0
        return matrices


def orbit_cameras(
    elevation: Float[Tensor, " views"],
    azimuth: Float[Tensor, " views"],
    distance: Float[Tensor, " views"],
    fovy: Float[Tensor, " views"],
    relative: bool = False,
) -> Cameras:
    """Cameras on a sphere that look at the origin.

    Args:
        elevation: degrees, below 90 in magnitude.
        azimuth: degrees.
        distance: world units, or with ``relative`` the half height of the picture at the origin.
        fovy: vertical field of view in degrees.
        relative: whether ``distance`` is to be divided by ``tan(fovy / 2)``.
    """
    half_tangent = torch.tan(0.5 * torch.deg2rad(fovy))
    world_distance = distance / half_tangent if relative else distance
    theta, phi = torch.deg2rad(elevation), torch.deg2rad(azimuth)
    outward = torch.stack([theta.cos() * phi.cos(), theta.cos() * phi.sin(), theta.sin()], dim=-1)
    world_up = torch.zeros_like(outward)
    world_up[:, 2] = 1.0
    right = torch.nn.functional.normalize(torch.linalg.cross(-outward, world_up), dim=-1)
    up = torch.nn.functional.normalize(torch.linalg.cross(right, -outward), dim=-1)
    matrices = torch.zeros(len(elevation), 4, 4, device=elevation.device, dtype=elevation.dtype)
    matrices[:, :3, :] = torch.stack([right, up, outward, outward * world_distance[:, None]], dim=-1)
    matrices[:, 3, 3] = 1.0
    return Cameras(
        camera_to_world=matrices,
        fovy=torch.deg2rad(fovy),
        distance=world_distance,
        relative_distance=distance if relative else distance * half_tangent,
        elevation=elevation,
        azimuth=azimuth,
    )


@dataclass(frozen=True)
class CameraSettings:
    """Distribution of the training cameras (design section 5).

    Attributes:
        views_per_prompt: views, evenly spaced in azimuth from a random start.
        elevation_range: degrees.
        fovy_range: vertical field of view in degrees.
        relative_distance_range: in units of ``1 / tan(fovy / 2)``.
    """

    views_per_prompt: int = 4
    elevation_range: tuple[float, float] = (0.0, 30.0)
    fovy_range: tuple[float, float] = (60.0, 60.0)
    relative_distance_range: tuple[float, float] = (0.8, 1.0)

    def __post_init__(self) -> None:
        if self.views_per_prompt < 1:
            raise ConfigurationError(f"views_per_prompt must be at least 1, got {self.views_per_prompt}")
        for name in ("elevation_range", "fovy_range", "relative_distance_range"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigurationError(f"{name} must be [low, high] with low <= high, got [{low}, {high}]")
        if self.fovy_range[0] <= 0 or self.fovy_range[1] >= 180:
            raise ConfigurationError(f"fovy_range must lie between 0 and 180 degrees, got {tuple(self.fovy_range)}")
        if self.relative_distance_range[0] <= 0:
            raise ConfigurationError(f"relative_distance_range must be positive, got {tuple(self.relative_distance_range)}")


def sample_training_cameras(
    num_prompts: int, settings: CameraSettings, generator: Draws = None
) -> Cameras:
    """Random views: one elevation, distance and field of view per prompt, azimuths evenly spaced from a random start."""
    views = settings.views_per_prompt

    def drawn(bounds: tuple[float, float]) -> Tensor:
        low, high = bounds
        return (low + (high - low) * uniform((num_prompts,), generator)).repeat_interleave(views)

    start = drawn((0.0, 360.0))
    azimuth = (start + torch.arange(views).repeat(num_prompts) * (360.0 / views)) % 360.0
    return orbit_cameras(
        elevation=drawn(settings.elevation_range),
        azimuth=azimuth,
        distance=drawn(settings.relative_distance_range),
        fovy=drawn(settings.fovy_range),
        relative=True,
    )


def turntable_cameras(views: int, elevation: float = 15.0, distance: float = 3.0, fovy: float = 40.0) -> Cameras:
    """Evaluation cameras: ``views`` evenly spaced azimuths from the front (azimuth 0)."""
    if views < 1:
        raise ConfigurationError(f"a turntable needs at least one view, got {views}")
    ones = torch.ones(views)
    azimuth = torch.arange(views) * (360.0 / views)
    return orbit_cameras(ones * elevation, azimuth, ones * distance, ones * fovy)


def horizontal_view_name(azimuth_degrees: float) -> str:
    """Where a camera stands: "front" within 45 degrees of +x, "back" opposite, otherwise "side"."""
    folded = abs((azimuth_degrees + 180.0) % 360.0 - 180.0)
    return "front" if folded < 45.0 else "back" if folded > 135.0 else "side"

