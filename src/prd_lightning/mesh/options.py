"""What can be asked of a mesh, in one place: the pipeline and ``prd generate`` take the same options."""

from dataclasses import dataclass
from typing import Any

from prd_lightning.errors import ConfigurationError
from prd_lightning.mesh.extraction import check_resolution

FEWEST_FACES = 4
TEXTURE_SIZES = (512, 4096)
TEXTURED_FACES = 20_000
"""Largest number of faces of a textured mesh where none is asked for: its details are in the texture, and the time that an atlas
takes grows faster than the faces."""
HOLE_EDGES, SMOOTHING_STEPS, REMESH_PERCENT = 100, 10, 1.0
"""What ``--fill-holes``, ``--smooth`` and ``--remesh`` mean without a number."""


def whole_number(name: str, value: Any, low: int, high: int | None = None) -> int:
    """``value`` as an int; texts of digits are accepted.

    Raises:
        ConfigurationError: it is no whole number, or out of range.
    """
    wish = f"at least {low}" if high is None else f"a whole number between {low} and {high}"
    try:
        number = int(value)
        exact = not isinstance(value, float) or number == value
    except (TypeError, ValueError, OverflowError):
        exact = False
    if not exact or isinstance(value, bool):
        raise ConfigurationError(f"{name} must be {wish}, got {value!r}")
    if number < low or (high is not None and number > high):
        raise ConfigurationError(f"{name} must be {wish}, got {number}")
    return number


def check_target_faces(target_faces: int | None) -> None:
    """Raises ConfigurationError if no closed mesh can have so few faces."""
    if target_faces is not None:
        whole_number("target_faces", target_faces, FEWEST_FACES)


@dataclass(frozen=True)
class MeshOptions:
    """How a field becomes a mesh. Checked when it is made.

    Attributes:
        resolution: cells of the iso-surface grid along each axis.
        target_faces: largest number of faces wished for; None leaves the surface as it is, a textured one up to
            ``TEXTURED_FACES``. A mesh that has fewer is kept.
        smallest_component: loose parts with fewer faces than this share of the largest part are dropped; 0 keeps all.
        fill_holes: holes of up to so many edges are closed.
        smooth: steps of Taubin's smoothing, which does not shrink the object.
        remesh: length of an edge, in percent of the diagonal of the object's box, to which the surface is divided into nearly
            equilateral triangles; None leaves it.
        texture: bake colours into a picture; otherwise vertices have colours.
        texture_size: its height and width.
        normal_map: bake the normals of the full surface as well (only with a texture).
        texture_timeout: seconds that the atlas may take before the mesh falls back to colours of its vertices.

    Raises:
        ConfigurationError: a number is out of range or no number.
    """

    resolution: int = 128
    target_faces: int | None = None
    smallest_component: float = 0.02
    fill_holes: int = 0
    smooth: int = 0
    remesh: float | None = None
    texture: bool = False
    texture_size: int = 1024
    normal_map: bool = False
    texture_timeout: float = 60.0

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        check_target_faces(self.target_faces)
        object.__setattr__(self, "texture_size", whole_number("texture_size", self.texture_size, *TEXTURE_SIZES))
        whole_number("fill_holes", self.fill_holes, 0)
        whole_number("smooth", self.smooth, 0)
        if not 0 <= self.smallest_component <= 1:
            raise ConfigurationError(f"smallest_component is a share between 0 and 1, got {self.smallest_component}")
        if self.remesh is not None and not 0.1 <= self.remesh <= 50:
            raise ConfigurationError(f"remesh is a percentage between 0.1 and 50 of the object's diagonal, got {self.remesh}")
        if not self.texture_timeout > 0:
            raise ConfigurationError(f"texture_timeout must be a positive number of seconds, got {self.texture_timeout}")
        if self.normal_map and not self.texture:
            raise ConfigurationError("a normal map needs a texture: its coordinates are those of the texture's atlas")

    @property
    def faces_wished(self) -> int | None:
        """``target_faces``, or what a texture makes of None."""
        return TEXTURED_FACES if self.target_faces is None and self.texture else self.target_faces
