"""``prd train`` and ``python -m prd_lightning.train``: a config becomes a run folder.

The folder holds ``config.yaml`` (resolved), ``metrics.csv``, ``checkpoints/``, ``previews/`` (sheets over time), ``meshes/`` (GLB
files of the preview prompts) and, in the tiny world, ``evaluation.json`` (scores on held-out prompts).
"""

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import hydra
import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from prd_lightning.building import build_data, build_module, build_trainer
from prd_lightning.callbacks import averaged_weights, read_checkpoint
from prd_lightning.configuration import check_overrides, config_directory, to_yaml
from prd_lightning.data import PromptDataModule
from prd_lightning.errors import ConfigurationError, OutputExistsError, PRDError, SweepError
from prd_lightning.evaluation import evaluate_tiny_world, held_out_prompts
from prd_lightning.files import atomic_write
from prd_lightning.module import PRDModule
from prd_lightning.resuming import requeued_overrides, resumed_overrides, save_overrides
from prd_lightning.run_folder import (
    CONFIG_FILE,
    EVALUATION_FILE,
    check_run_folder,
    create_folder,
    find_checkpoint,
    lock_run_folder,
    make_room,
)
from prd_lightning.shards import check_sharding
from prd_lightning.starting import start_from
from prd_lightning.strategies import deepspeed_stage, group_failures_named, shards_networks
from prd_lightning.sweeps.callback import SummaryCallback
from prd_lightning.sweeps.job import run_job
from prd_lightning.sweeps.record import read_record, record_failure, recorded
from prd_lightning.sweeps.runs import FAILED

logger = logging.getLogger(__name__)

LIBRARY_WARNINGS = (
    ".*exists and is not empty. Previous log files.*",  # make_room has set them aside
    ".*in eval mode at the start of training.*",  # teachers and text encoders are frozen on purpose
    ".*isinstance.treespec, LeafSpec.*",
    ".*does not have many workers.*",
)
EXAMPLES = """examples:
  prd train teacher=richdreamer
  prd train teacher=mvdream trainer.max_steps=20 seed=3 output=runs/short
  prd train experiment=tiny
  prd train data=file data.source.path=prompts.txt
  prd train output=runs/short ckpt_path=last trainer.max_steps=40       (resume with the run's own settings)
  prd train -m teacher=mvdream,richdreamer seed=0,1                     (sweep)
  prd train --cfg job                                                   (show the config)
  prd train --info defaults                                             (show the groups)
"""


def train(config: DictConfig, folder: Path, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Runs one training in ``folder``; returns the scores on held-out prompts (empty outside the tiny world).

    Args:
        config: see ``conf/train.yaml``.
        folder: of the run.
        overrides: that ``config`` was made with; the folder keeps them, so that going on needs none of them typed again.

    Raises:
        PRDError: a setting, file or model cannot be used; nothing was trained then.
    """
    if config.seed < 0:
        raise ConfigurationError(f"seed must not be negative, got {config.seed}")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    check_run_folder(folder, config.overwrite or config.ckpt_path is not None)
    checkpoint = find_checkpoint(config.ckpt_path, folder, read_checkpoint)
    for message in LIBRARY_WARNINGS:
        warnings.filterwarnings("ignore", message)
    lightning.seed_everything(config.seed, verbose=False)
    module, data = build_module(config), build_data(config)
    trainer = build_trainer(config, folder)
    if checkpoint is not None:
        check_sharding(checkpoint, deepspeed_stage(trainer.strategy), trainer.world_size)
    elif config.start_from is not None:
        start_from(module, config.start_from)
    _describe(module)
    if trainer.is_global_zero:
        lock_run_folder(folder)
        make_room(folder, keep_outputs=checkpoint is not None)
        with atomic_write(folder / CONFIG_FILE, overwrite=True) as temporary:
            temporary.write_text(to_yaml(config))
        save_overrides(folder, overrides)
    with recorded(folder, config.seed):
        return _fit(config, module, data, trainer, folder, checkpoint)


def _fit(
    config: DictConfig,
    module: PRDModule,
    data: PromptDataModule,
    trainer: lightning.Trainer,
    folder: Path,
    checkpoint: Path | None,
) -> dict[str, float]:
    with group_failures_named(trainer.world_size):
        trainer.fit(module, data, ckpt_path=checkpoint)
    if trainer.interrupted:
        raise KeyboardInterrupt
    scores = {}
    if config.evaluation.enabled and (trainer.is_global_zero or shards_networks(trainer.strategy)):
        with averaged_weights(trainer, module):
            scores = _evaluate(config, module, folder, trainer.is_global_zero)
    trainer.strategy.barrier()
    return scores


def _describe(module: PRDModule) -> None:
    trained = sum(parameter.numel() for parameter in module.trainable_parameters())
    frozen = sum(parameter.numel() for parameter in module.generator.parameters()) - module.generator.trainable_parameter_count()
    logger.info("training %s values of adapters, field and background; the frozen base has %s", f"{trained:,}", f"{frozen:,}")
    logger.info("attention: torch scaled_dot_product_attention (the best kernel that the device has)")
    if "mesh" in module.renderers:
        logger.info("iso-surface: torch marching tetrahedra (differentiable, runs on every device)")


def _evaluate(config: DictConfig, module: PRDModule, folder: Path, is_writer: bool) -> dict[str, float]:
    prompts = held_out_prompts(compositions=config.evaluation.compositions)
    scores = evaluate_tiny_world(module.field, module.eval().generate, prompts, list(config.evaluation.seeds))
    if not is_writer:
        return scores.summary()
    with atomic_write(folder / EVALUATION_FILE, overwrite=True) as temporary:
        temporary.write_text(json.dumps(scores.to_dict(), indent=2) + "\n")
    print(f"\nscores on {len(prompts)} held-out prompts, seeds {', '.join(map(str, scores.seeds))}:")
    for line in scores.lines():
        print(f"  {line}")
    return scores.summary()


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments: all go to Hydra."""
    parser.epilog = EXAMPLES
    parser.add_argument("overrides", nargs="*", help="Hydra overrides such as teacher=mvdream, and Hydra's flags")


def run(arguments: argparse.Namespace) -> int:
    """Trains as the overrides say."""
    return main(arguments.overrides)


def main(arguments: Sequence[str] | None = None) -> int:
    """Hands ``arguments`` to Hydra after a check; used by ``python -m prd_lightning.train`` too.

    Raises:
        PRDError: the training's mistake.
        SweepError: jobs of a sweep failed; the others have run all the same.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    overrides = [argument for argument in given if not argument.startswith("-") and "=" in argument]
    is_multirun = any(argument in ("-m", "--multirun") for argument in given)
    if not is_multirun:
        flags = [argument for argument in given if argument not in overrides]
        overrides = resumed_overrides(requeued_overrides(overrides))
        given = flags + overrides
    check_overrides(overrides)
    if output := dict(override.split("=", 1) for override in overrides).get("output"):
        create_folder(Path(output))  # Hydra would do it with a traceback
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
    summary = SummaryCallback.latest if is_multirun else None
    if summary and (failed := [run for run in summary.unfinished if run.status == FAILED]):
        raise SweepError(f"{len(failed)} of {summary.run_count} jobs failed: {', '.join(run.folder.name for run in failed)}")
    return 0


def _run_job(config: DictConfig, failures: list[PRDError]) -> float | None:
    """One training; a user's mistake is carried past Hydra, which would print a traceback."""
    context = HydraConfig.get()
    folder, overrides = Path(context.runtime.output_dir).resolve(), list(context.overrides.task)
    if context.mode == RunMode.MULTIRUN:
        return run_job(folder, overrides, context.job.num, config.objective)
    before = read_record(folder)
    try:
        scores = train(config, folder, overrides)
    except PRDError as error:
        if not isinstance(error, OutputExistsError):  # then the folder holds another run
            record_failure(folder, overrides, str(error), before)
        failures.append(error)
        return None
    except Exception as error:
        record_failure(folder, overrides, f"{type(error).__name__}: {error}", before)
        raise
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        print(folder, flush=True)
    return scores.get("iou")


if __name__ == "__main__":
    from prd_lightning.cli import main as command_line

    sys.exit(command_line(["train", *sys.argv[1:]]))
