"""A teacher that knows the answer: it renders the true object from the same cameras, so its score is exact.

Its denoised estimate of any picture is the true picture, whatever the noise, so the distillation gradient of design section 6
with ``dmd`` weighting and the noise itself as the student becomes ``(x - x_true) / (mean |x - x_true| + 0.1)``, taken per view.
It separates faults of the generator and the renderers from faults of the learned teachers.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from prd_lightning.cameras import Cameras
from prd_lightning.draws import Draws
from prd_lightning.rendering import RenderedMaps
from prd_lightning.teachers import Teacher, TeacherResult
from prd_lightning.tinyworld.grammar import parse
from prd_lightning.tinyworld.renders import render_scene

NORMALIZER_OFFSET = 0.1


class OracleTeacher(Teacher):
    """Scores rendered maps against true renders of what the prompt says.

    Args:
        maps: the maps that are compared.
        weight: of this teacher in the sum.
        renderers: the renderers whose maps are scored.
    """

    name = "oracle"

    def __init__(
        self,
        maps: tuple[str, ...] = ("rgb", "normal_camera", "opacity"),
        weight: float = 1.0,
        renderers: tuple[str, ...] = ("volume", "mesh"),
    ) -> None:
        super().__init__(weight=weight, renderers=renderers)
        self.maps = tuple(maps)

    @torch.no_grad()
    def map_gradients(
        self,
        maps: Mapping[str, RenderedMaps],
        prompts: list[str],
        cameras: Cameras,
        step: int,
        generator: Draws = None,
    ) -> TeacherResult:
        """See ``Teacher.map_gradients``."""
        gradients: dict[str, dict[str, Tensor]] = {}
        loss = torch.zeros(())
        views = len(cameras) // len(prompts)
        for renderer, rendered in maps.items():
            truth = self._truth(prompts, cameras, views, rendered.rgb.shape[1])
            gradients[renderer] = {}
            for name in self.maps:
                residual = getattr(rendered, name) - truth[name]
                scale = residual.abs().mean(dim=(1, 2, 3), keepdim=True) + NORMALIZER_OFFSET
                gradient = residual / scale / (views * residual[0].numel())
                gradients[renderer][name] = gradient
                loss = loss + 0.5 * (gradient * residual).sum()
        return TeacherResult(loss=loss, gradients=gradients, log={}, nonfinite=0)

    @staticmethod
    def _truth(prompts: list[str], cameras: Cameras, views: int, size: int) -> dict[str, Tensor]:
        rendered = [
            render_scene(parse(prompt), cameras.select(slice(index * views, (index + 1) * views)), size)
            for index, prompt in enumerate(prompts)
        ]
        names = ("rgb", "opacity", "disparity", "normal_camera")
        return {name: torch.cat([getattr(maps, name) for maps in rendered]) for name in names}
