"""Several teachers that score the same maps."""

from collections.abc import Mapping

from torch import nn

from prd_lightning.cameras import Cameras
from prd_lightning.draws import Draws
from prd_lightning.errors import ConfigurationError
from prd_lightning.rendering import RenderedMaps
from prd_lightning.teachers.base import Teacher
from prd_lightning.teachers.exchange import TeacherResult


def ask_teachers(
    teachers: Mapping[str, Teacher],
    maps: Mapping[str, RenderedMaps],
    prompts: list[str],
    cameras: Cameras,
    step: int,
    generator: Draws = None,
) -> dict[str, TeacherResult]:
    """What each teacher says about the maps of the renderers that it scores; see ``Teacher.map_gradients``."""
    return {
        name: teacher.map_gradients(teacher.scored(maps), prompts, cameras, step, generator=generator)
        for name, teacher in teachers.items()
    }


def check_teachers(renderers: Mapping[str, nn.Module], teachers: Mapping[str, Teacher]) -> None:
    """Raises ConfigurationError unless there are both and every teacher scores a renderer."""
    if not renderers or not teachers:
        raise ConfigurationError(f"training needs a renderer and a teacher, got {list(renderers)} and {list(teachers)}")
    for name, teacher in teachers.items():
        if not set(teacher.renderers) & set(renderers):
            raise ConfigurationError(
                f"teacher {name!r} scores {list(teacher.renderers)}, but the renderers are {list(renderers)}; "
                "set the teacher's `renderers` or choose another renderer group"
            )
