"""A config becomes a training module, a data module and a trainer; each can be had by itself in Python."""

import logging
from pathlib import Path
from typing import Any

import hydra
import lightning
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from prd_lightning.architecture import Architecture
from prd_lightning.callbacks import (
    FolderCheckpointIO,
    MeshCallback,
    PreemptionCallback,
    PreviewCallback,
    StepCheckpoint,
    StepLogger,
    UnrollProgressBar,
    WeightAveraging,
)
from prd_lightning.cameras import CameraSettings
from prd_lightning.configuration import plain
from prd_lightning.data import PromptDataModule
from prd_lightning.diagnosis import DiagnosisCallback
from prd_lightning.errors import ConfigurationError, PRDError
from prd_lightning.module import PRDModule
from prd_lightning.rendering import MeshRenderer
from prd_lightning.run_folder import CHECKPOINTS
from prd_lightning.text import share_encoders
from prd_lightning.text_cache import EmbeddingCache

logger = logging.getLogger(__name__)


def build_module(config: DictConfig) -> PRDModule:
    """The training module of a config.

    Raises:
        MissingWeightsError, CheckpointFormatError: a model cannot be loaded.
        ConfigurationError: settings do not fit together.
    """
    renderers = dict(instantiate(config.renderer))
    teachers = dict(instantiate(config.teacher))
    for name, teacher in teachers.items():
        if not set(teacher.renderers) & set(renderers):
            logger.info("teacher %s scores %s, since %s is not rendered", name, list(renderers), list(teacher.renderers))
            teacher.renderers = tuple(renderers)
    module = PRDModule(
        architecture=Architecture.from_dict(plain(config.generator)),
        renderers=renderers,
        teachers=teachers,
        optimizer=instantiate(config.optimizer),
        **plain(config.module),
    )
    cache = config.text_cache
    disk_cache = None if cache.folder is None else EmbeddingCache(cache.folder, cache.limit)
    encoders = share_encoders([module, *teachers.values()], disk_cache)
    logger.info("text encoders: %d of %d different", len(encoders), 1 + len(teachers))
    return module


def build_data(config: DictConfig) -> PromptDataModule:
    """The data module of a config."""
    settings = {key: value for key, value in plain(config.data).items() if key != "source"}
    return PromptDataModule(
        source=instantiate(config.data.source),
        unroll_steps=config.module.unroll_steps,
        cameras=CameraSettings(**plain(config.cameras)),
        seed=config.seed,
        **settings,
    )


def build_trainer(config: DictConfig, folder: Path) -> lightning.Trainer:
    """The trainer of a config; everything it writes goes into ``folder``.

    Raises:
        ConfigurationError: strategy, devices and precision do not fit together or this machine.
    """
    preview = config.preview
    prompts = list(preview.prompts)
    callbacks: list[lightning.Callback] = [
        StepCheckpoint(
            folder / CHECKPOINTS,
            filename="step_{step:06d}",
            auto_insert_metric_name=False,
            every_n_train_steps=config.checkpoint.every_n_steps,
            save_top_k=-1 if config.checkpoint.keep is None else config.checkpoint.keep,
            monitor="step",
            mode="max",
            save_last=True,
            enable_version_counter=False,
        )
    ]
    callbacks.append(DiagnosisCallback())
    if config.ema.decay is not None:
        callbacks.append(WeightAveraging(**plain(config.ema)))  # before what generates
    if config.trainer.get("enable_progress_bar", True):
        callbacks.append(UnrollProgressBar())
    callbacks.append(PreemptionCallback(folder))
    if prompts:
        renderer = MeshRenderer(preview.resolution, preview.image_size)
        callbacks.append(PreviewCallback(prompts, folder, renderer, preview.every_n_steps, preview.views, preview.seed))
        callbacks.append(MeshCallback(prompts, folder, preview.seed, preview.mesh_resolution))
    loggers = [StepLogger(folder, name="", version="")]
    if config.logger.extra is not None:
        loggers.append(instantiate(config.logger.extra))
    settings = {**instantiate_strategy(config.strategy), **plain(config.trainer)}
    try:
        return lightning.Trainer(
            accumulate_grad_batches=config.module.unroll_steps,
            callbacks=callbacks,
            logger=loggers,
            plugins=[FolderCheckpointIO()],
            default_root_dir=folder,
            use_distributed_sampler=False,
            enable_model_summary=False,
            **settings,
        )
    except MisconfigurationException as error:
        raise ConfigurationError(f"the trainer cannot be made: {error}") from error


def instantiate_strategy(settings: DictConfig) -> dict[str, Any]:
    """The trainer's arguments of a ``strategy`` config.

    Raises:
        ConfigurationError: it needs a CUDA GPU or a library that is not there.
    """
    if settings.accelerator == "cuda" and not torch.cuda.is_available():
        name = str(OmegaConf.select(settings, "strategy._target_", default="this strategy")).rpartition(".")[2]
        raise ConfigurationError(
            f"{name} needs a CUDA GPU, and there is none here; strategy=ddp and strategy=fsdp run on a CPU too "
            "(strategy.accelerator=cpu)"
        )
    return instantiate(settings)


def instantiate(settings: DictConfig) -> Any:
    """What ``settings`` describe, with lists and dictionaries of Python as arguments.

    Raises:
        PRDError: what its constructor raises, which Hydra would wrap.
        ConfigurationError: its library is not installed, or it does not take these arguments.
    """
    try:
        return hydra.utils.instantiate(settings, _convert_="all")
    except hydra.errors.InstantiationException as error:
        if isinstance(error.__cause__, PRDError):
            raise error.__cause__ from None
        raise ConfigurationError(f"{settings.get('_target_', settings)} cannot be made: {error.__cause__ or error}") from error
