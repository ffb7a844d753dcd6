"""Pictures and meshes of the preview prompts, while training and at its end."""

import logging
from pathlib import Path
from typing import Any

import lightning
import torch

from prd_lightning import __version__
from prd_lightning.callbacks.averaging import averaged_weights
from prd_lightning.cameras import turntable_cameras
from prd_lightning.errors import ConfigurationError, EmptyMeshError, NonFiniteError
from prd_lightning.mesh import clean_mesh, extract_mesh, file_stem, preview_sheet, save_mesh
from prd_lightning.module import PRDModule
from prd_lightning.rendering import MeshRenderer, RenderedMaps, WhiteBackground
from prd_lightning.run_folder import MESHES, PREVIEWS
from prd_lightning.strategies import shards_networks

logger = logging.getLogger(__name__)


@torch.no_grad()
def render_prompts(
    module: PRDModule, prompts: list[str], renderer: MeshRenderer, views: int, seed: int = 0
) -> list[RenderedMaps]:
    """Generates every prompt with the current weights and renders it on white from ``views`` turntable cameras."""
    cameras = turntable_cameras(views).to(module.device)
    background = WhiteBackground()
    return [
        renderer(module.field, module.generate([prompt], [seed]), cameras, background) for prompt in prompts
    ]


@torch.no_grad()
def export_meshes(module: PRDModule, prompts: list[str], folder: str | Path, seed: int = 0, resolution: int = 128) -> list[Path]:
    """Writes a GLB of every prompt with the current weights; files of those names are replaced.

    A prompt without a surface is a logged warning.

    Returns:
        Paths of the files that were written.
    """
    written = []
    for prompt in prompts:
        try:
            mesh, _ = clean_mesh(extract_mesh(module.field, module.generate([prompt], [seed]), resolution))
        except (EmptyMeshError, NonFiniteError) as error:
            logger.warning("no mesh of %r: %s", prompt, error)
            continue
        path = Path(folder) / f"{file_stem(prompt, seed)}.glb"
        metadata = {"prompt": prompt, "seed": seed, "versions": {"prd_lightning": __version__, "torch": torch.__version__}}
        written.append(save_mesh(mesh, path, overwrite=True, metadata=metadata))
    return written


@torch.no_grad()
def generate_along(trainer: lightning.Trainer, module: PRDModule, prompts: list[str], seed: int) -> None:
    """What the other processes do while the first one generates: they take part where networks are sharded over all of them."""
    if not shards_networks(trainer.strategy):
        return
    with averaged_weights(trainer, module):
        for prompt in prompts:
            module.generate([prompt], [seed])


class MeshCallback(lightning.Callback):
    """Writes ``meshes/PROMPT_seedN.glb`` of every prompt when training ends.

    Args:
        prompts: to make meshes of.
        folder: of the run; meshes go into its ``meshes``.
        seed: of the first noise.
        resolution: cells of the iso-surface grid along each axis.
    """

    def __init__(self, prompts: list[str], folder: str | Path, seed: int = 0, resolution: int = 128) -> None:
        self.prompts, self.folder, self.seed, self.resolution = list(prompts), Path(folder) / MESHES, seed, resolution

    def on_train_end(self, trainer: lightning.Trainer, pl_module: PRDModule) -> None:
        """The meshes of the trained generator."""
        self._write(trainer, pl_module)

    def _write(self, trainer: lightning.Trainer, module: PRDModule) -> None:
        if not trainer.is_global_zero:
            generate_along(trainer, module, self.prompts, self.seed)
            return
        with averaged_weights(trainer, module):
            written = export_meshes(module, self.prompts, self.folder, self.seed, self.resolution)
        logger.info("%d of %d meshes written to %s", len(written), len(self.prompts), self.folder)


class PreviewCallback(lightning.Callback):
    """Writes ``previews/step_NNNNNN.png`` at the start, every ``every_n_steps`` optimizer steps, and at the end.

    Args:
        prompts: one row of pictures and one of normals for each.
        folder: of the run; sheets go into its ``previews``.
        every_n_steps: optimizer steps between sheets; 0 leaves the first and the last.
        views: turntable views of each prompt.
        renderer: makes the pictures.
        seed: of the first noise, the same in every sheet so that sheets can be compared.
    """

    def __init__(
        self,
        prompts: list[str],
        folder: str | Path,
        renderer: MeshRenderer,
        every_n_steps: int = 50,
        views: int = 4,
        seed: int = 0,
    ) -> None:
        if not prompts:
            raise ConfigurationError("preview.prompts is empty; name at least one prompt or set preview.enabled=false")
        self.prompts, self.folder, self.renderer = list(prompts), Path(folder) / PREVIEWS, renderer
        self.every_n_steps, self.views, self.seed = every_n_steps, views, seed
        self._last_step = -1

    def on_train_start(self, trainer: lightning.Trainer, pl_module: PRDModule) -> None:
        """The sheet before training."""
        self._write(trainer, pl_module)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: PRDModule, *_: Any) -> None:
        """A sheet when a multiple of ``every_n_steps`` is reached."""
        if self.every_n_steps and trainer.global_step and trainer.global_step % self.every_n_steps == 0:
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: PRDModule) -> None:
        """The sheet after training."""
        self._write(trainer, pl_module)

    def _write(self, trainer: lightning.Trainer, module: PRDModule) -> None:
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        if not trainer.is_global_zero:
            generate_along(trainer, module, self.prompts, self.seed)
            return
        with averaged_weights(trainer, module):
            rows = render_prompts(module, self.prompts, self.renderer.to(module.device), self.views, self.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        preview_sheet(rows, self.prompts, self.folder / f"step_{trainer.global_step:06d}.png")
