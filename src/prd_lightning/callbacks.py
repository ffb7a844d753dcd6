"""What a run leaves behind: preview sheets over time, checkpoints of the trainable part, and meshes at the end."""

import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only

from prd_lightning import __version__
from prd_lightning.cameras import turntable_cameras
from prd_lightning.checkpoints import GENERATOR_FILE, load_generator, save_generator
from prd_lightning.errors import (
    CheckpointFormatError,
    ConfigurationError,
    EmptyMeshError,
    MissingWeightsError,
    NonFiniteError,
)
from prd_lightning.mesh import clean_mesh, extract_mesh, file_stem, preview_sheet, save_mesh
from prd_lightning.module import PRDModule
from prd_lightning.rendering import MeshRenderer, RenderedMaps, WhiteBackground
from prd_lightning.run_folder import MESHES, PREVIEWS

logger = logging.getLogger(__name__)

TRAINER_FILE = "trainer_state.ckpt"


class FolderCheckpointIO(TorchCheckpointIO):
    """A checkpoint is a folder: ``generator.safetensors`` (what ``prd generate`` loads) and ``trainer_state.ckpt``.

    The second file holds optimizer, loops and callbacks, everything that resuming needs beside the weights. The folder appears
    under its final name only when both are complete.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes the folder ``path``; a folder of that name is replaced once the new one is complete."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        state = dict(checkpoint)
        tensors = {name: value.detach().cpu().contiguous() for name, value in state.pop("state_dict").items()}
        save_generator(partial / GENERATOR_FILE, tensors, state.pop("architecture", {}))
        torch.save(state, partial / TRAINER_FILE)
        if path.exists():
            previous = path.with_name(f".{path.name}.previous")
            shutil.rmtree(previous, ignore_errors=True)
            path.rename(previous)
            partial.rename(path)
            shutil.rmtree(previous)
        else:
            partial.rename(path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads what ``save_checkpoint`` wrote.

        Raises:
            MissingWeightsError: there is no such folder.
            CheckpointFormatError: a file of it is missing or damaged.
        """
        path = Path(path)
        if not path.exists():
            raise MissingWeightsError(f"there is no checkpoint {path}")
        if not (path / TRAINER_FILE).is_file():
            raise CheckpointFormatError(f"{path} is not a training checkpoint: it has no {TRAINER_FILE}")
        tensors, architecture = load_generator(path / GENERATOR_FILE)
        try:
            state = torch.load(path / TRAINER_FILE, map_location=map_location or "cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # torch's own message advises to unpickle everything
            raise CheckpointFormatError(
                f"{path / TRAINER_FILE} cannot be read: it is damaged, or holds objects other than tensors and plain values"
            ) from error
        except (RuntimeError, EOFError, OSError, ValueError) as error:
            raise CheckpointFormatError(f"{path / TRAINER_FILE} cannot be read: {error}") from error
        return {**state, "state_dict": tensors, "architecture": architecture}

    def remove_checkpoint(self, path: str | Path) -> None:
        """Deletes a checkpoint folder."""
        shutil.rmtree(path, ignore_errors=True)


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
        self._write(pl_module)

    @rank_zero_only
    def _write(self, module: PRDModule) -> None:
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

    @rank_zero_only
    def _write(self, trainer: lightning.Trainer, module: PRDModule) -> None:
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        rows = render_prompts(module, self.prompts, self.renderer.to(module.device), self.views, self.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        preview_sheet(rows, self.prompts, self.folder / f"step_{trainer.global_step:06d}.png")


class UnrollProgressBar(TQDMProgressBar):
    """Counts micro-batches: ``accumulate_grad_batches`` of them make one optimizer step."""

    @property
    def total_train_batches(self) -> int | float:
        """Micro-batches that are left of ``max_steps``."""
        if self.trainer.max_steps > 0:
            return (self.trainer.max_steps - self.trainer.global_step) * self.trainer.accumulate_grad_batches
        return super().total_train_batches

    def on_train_epoch_start(self, trainer: lightning.Trainer, *unused: Any) -> None:
        """Names the bar: an endless stream has a single epoch."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description("training")

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Optimizer steps, and the losses without their prefix."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return {"step": trainer.global_step} | {name.removeprefix("train/"): value for name, value in metrics.items()}
