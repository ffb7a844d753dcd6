"""``prd train`` and ``python -m prd_lightning.train``: a config becomes a run folder.

The folder holds ``config.yaml`` (resolved), ``metrics.csv``, ``checkpoints/``, ``previews/`` (sheets over time), ``meshes/`` (GLB
files of the preview prompts) and, in the tiny world, ``evaluation.json`` (scores on held-out prompts).
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from prd_lightning.architecture import Architecture
from prd_lightning.callbacks import FolderCheckpointIO, MeshCallback, PreviewCallback, UnrollProgressBar
from prd_lightning.cameras import CameraSettings
from prd_lightning.configuration import check_overrides, config_directory, plain, to_yaml
from prd_lightning.data import PromptDataModule
from prd_lightning.errors import ConfigurationError, MissingWeightsError, OutputExistsError, OutputNotWritableError, PRDError
from prd_lightning.evaluation import evaluate_tiny_world, held_out_prompts
from prd_lightning.files import atomic_write
from prd_lightning.module import PRDModule
from prd_lightning.rendering import MeshRenderer

logger = logging.getLogger(__name__)

CONFIG_FILE, EVALUATION_FILE, CHECKPOINTS = "config.yaml", "evaluation.json", "checkpoints"
EXAMPLES = """examples:
  prd train teacher=richdreamer
  prd train teacher=mvdream trainer.max_steps=20 seed=3 output=runs/short
  prd train experiment=tiny
  prd train data=file data.source.path=prompts.txt
  prd train output=runs/short ckpt_path=last trainer.max_steps=40       (resume)
  prd train -m teacher=mvdream,richdreamer seed=0,1                     (sweep)
  prd train --cfg job                                                   (show the config)
  prd train --info defaults                                             (show the groups)
"""


def build_module(config: DictConfig) -> PRDModule:
    """The training module of a config.

    Raises:
        MissingWeightsError, CheckpointFormatError: a model cannot be loaded.
        ConfigurationError: settings do not fit together.
    """
    renderers = dict(hydra.utils.instantiate(config.renderer))
    teachers = dict(hydra.utils.instantiate(config.teacher, _convert_="all"))
    for name, teacher in teachers.items():
        if not set(teacher.renderers) & set(renderers):
            logger.info("teacher %s scores %s, since %s is not rendered", name, list(renderers), list(teacher.renderers))
            teacher.renderers = tuple(renderers)
    return PRDModule(
        architecture=Architecture.from_dict(plain(config.generator)),
        renderers=renderers,
        teachers=teachers,
        optimizer=hydra.utils.instantiate(config.optimizer, _convert_="all"),
        **plain(config.module),
    )


def build_data(config: DictConfig) -> PromptDataModule:
    """The data module of a config."""
    settings = {key: value for key, value in plain(config.data).items() if key != "source"}
    return PromptDataModule(
        source=hydra.utils.instantiate(config.data.source, _convert_="all"),
        unroll_steps=config.module.unroll_steps,
        cameras=CameraSettings(**plain(config.cameras)),
        seed=config.seed,
        **settings,
    )


def build_trainer(config: DictConfig, folder: Path) -> lightning.Trainer:
    """The trainer of a config; everything it writes goes into ``folder``."""
    preview = config.preview
    prompts = list(preview.prompts)
    callbacks: list[lightning.Callback] = [
        ModelCheckpoint(
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
    callbacks[0].FILE_EXTENSION = ""  # a checkpoint is a folder
    if config.trainer.get("enable_progress_bar", True):
        callbacks.append(UnrollProgressBar())
    if prompts:
        renderer = MeshRenderer(preview.resolution, preview.image_size)
        callbacks.append(PreviewCallback(prompts, folder, renderer, preview.every_n_steps, preview.views, preview.seed))
        callbacks.append(MeshCallback(prompts, folder, preview.seed, preview.mesh_resolution))
    loggers = [CSVLogger(folder, name="", version="")]
    if config.logger.extra is not None:
        loggers.append(_instantiate_logger(config.logger.extra))
    return lightning.Trainer(
        accumulate_grad_batches=config.module.unroll_steps,
        callbacks=callbacks,
        logger=loggers,
        plugins=[FolderCheckpointIO()],
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_model_summary=False,
        **hydra.utils.instantiate(config.strategy, _convert_="all"),
        **plain(config.trainer),
    )


def _instantiate_logger(settings: DictConfig) -> lightning.pytorch.loggers.Logger:
    try:
        return hydra.utils.instantiate(settings, _convert_="all")
    except (ImportError, ModuleNotFoundError, hydra.errors.InstantiationException) as error:
        raise ConfigurationError(f"the logger {settings._target_} cannot be used: {error}") from error


def train(config: DictConfig, folder: Path) -> dict[str, float]:
    """Runs one training in ``folder``; returns the scores on held-out prompts (empty outside the tiny world).

    Raises:
        PRDError: a setting, file or model cannot be used; nothing was trained then.
    """
    if config.seed < 0:
        raise ConfigurationError(f"seed must not be negative, got {config.seed}")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    check_run_folder(folder, config.overwrite or config.ckpt_path is not None)
    checkpoint = find_checkpoint(config.ckpt_path, folder)
    lightning.seed_everything(config.seed, verbose=False)
    module, data = build_module(config), build_data(config)
    trainer = build_trainer(config, folder)
    _describe(module)
    if trainer.is_global_zero:
        with atomic_write(folder / CONFIG_FILE, overwrite=True) as temporary:
            temporary.write_text(to_yaml(config))
    trainer.fit(module, data, ckpt_path=checkpoint)
    if trainer.interrupted:
        raise KeyboardInterrupt
    scores = _evaluate(config, module, folder) if trainer.is_global_zero and config.evaluation.enabled else {}
    trainer.strategy.barrier()
    return scores


def check_run_folder(folder: Path, may_exist: bool) -> None:
    """Checks that a run can be written to ``folder``.

    Raises:
        OutputExistsError: it holds a run and ``may_exist`` is false.
        OutputNotWritableError: it cannot be created.
    """
    if (folder / CONFIG_FILE).exists() and not may_exist and "LOCAL_RANK" not in os.environ:
        raise OutputExistsError(
            f"{folder} holds a run; choose another `output`, resume with ckpt_path=last, or pass overwrite=true"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputNotWritableError(f"the run folder {folder} cannot be created: {error.strerror or error}") from error


def find_checkpoint(location: str | None, folder: Path) -> Path | None:
    """The checkpoint folder that ``ckpt_path`` names.

    Raises:
        MissingWeightsError: there is none.
    """
    if location is None:
        return None
    path = folder / CHECKPOINTS / "last" if location == "last" else Path(location).expanduser()
    if not path.is_dir():
        raise MissingWeightsError(f"there is no checkpoint {path}; ckpt_path takes a folder under RUN/{CHECKPOINTS}, or `last`")
    return path


def _describe(module: PRDModule) -> None:
    trained = sum(parameter.numel() for parameter in module.trainable_parameters())
    frozen = sum(parameter.numel() for parameter in module.generator.parameters()) - module.generator.trainable_parameter_count()
    logger.info("training %s values of adapters, field and background; the frozen base has %s", f"{trained:,}", f"{frozen:,}")
    logger.info("attention: torch scaled_dot_product_attention (the best kernel that the device has)")
    if "mesh" in module.renderers:
        logger.info("iso-surface: torch marching tetrahedra (differentiable, runs on every device)")


@rank_zero_only
def _evaluate(config: DictConfig, module: PRDModule, folder: Path) -> dict[str, float]:
    prompts = held_out_prompts(compositions=config.evaluation.compositions)
    scores = evaluate_tiny_world(module.field, module.eval().generate, prompts, config.evaluation.seed)
    with atomic_write(folder / EVALUATION_FILE, overwrite=True) as temporary:
        temporary.write_text(json.dumps(scores.to_dict(), indent=2) + "\n")
    print(f"\nscores on {len(prompts)} held-out prompts:")
    for name, value in scores.summary().items():
        print(f"  {name:<18} {value:.3f}")
    return scores.summary()


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments: all go to Hydra."""
    parser.epilog = EXAMPLES
    parser.add_argument("overrides", nargs=argparse.REMAINDER, help="Hydra overrides such as teacher=mvdream, and Hydra's flags")


def run(arguments: argparse.Namespace) -> int:
    """Trains as the overrides say."""
    return main(arguments.overrides)


def main(arguments: Sequence[str] | None = None) -> int:
    """Hands ``arguments`` to Hydra after a check; used by ``python -m prd_lightning.train`` too.

    Raises:
        PRDError: the first mistake that a job ran into; in a sweep the other jobs have run all the same.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    check_overrides([argument for argument in given if not argument.startswith("-") and "=" in argument])
    failures: list[PRDError] = []
    command_line = sys.argv

    def job(config: DictConfig) -> float | None:
        sys.argv = command_line  # Lightning starts further processes with it
        return _run_job(config, failures)

    sys.argv = ["prd train", *given]
    try:
        hydra.main(version_base="1.3", config_path=str(config_directory()), config_name="train")(job)()
    finally:
        sys.argv = command_line
    if failures:
        raise failures[0]
    return 0


def _run_job(config: DictConfig, failures: list[PRDError]) -> float | None:
    """One training; a user's mistake is carried past Hydra, which would print a traceback."""
    folder = Path(HydraConfig.get().runtime.output_dir).resolve()
    try:
        scores = train(config, folder)
    except PRDError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            logger.error("job %s: %s", HydraConfig.get().job.num, error)
        failures.append(error)
        return None
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        print(folder, flush=True)
    return scores.get("iou")


if __name__ == "__main__":
    from prd_lightning.cli import main as command_line

    sys.exit(command_line(["train", *sys.argv[1:]]))
