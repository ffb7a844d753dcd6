"""``prd tinyworld``: trains the tiny models again, measures them, and draws their samples."""

import argparse
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prd_lightning.errors import ConfigurationError

if TYPE_CHECKING:
    from prd_lightning.tinyworld.training import TinyWorldTrainer

logger = logging.getLogger(__name__)

TEACHERS = ("stable_diffusion", "mvdream", "richdreamer_nd")
STAGES = ("clip", "text", "vae", *TEACHERS)
EXAMPLES = """examples:
  prd tinyworld                                    (everything, into tinyworld_weights/; about two hours on two cores)
  prd tinyworld --stages mvdream card samples      (one model, then the card and the sample sheets)
  prd tinyworld --stages richdreamer_nd --start-from src/prd_lightning/tinyworld/weights    (goes on with the shipped one)
  prd tinyworld --output src/prd_lightning/tinyworld/weights --samples docs/teachers    (what the package ships)

An interrupted training continues where it stopped; delete --cache to start afresh.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.epilog = EXAMPLES
    steps = [*STAGES, "card", "samples"]
    parser.add_argument(
        "--stages", nargs="+", choices=steps, default=steps, metavar="STAGE", help=f"which of: {', '.join(steps)}"
    )
    parser.add_argument("--output", type=Path, default=Path("tinyworld_weights"), help="folder of the models")
    parser.add_argument("--cache", type=Path, default=Path("tinyworld_cache"), help="folder of renders and training states")
    parser.add_argument("--start-from", type=Path, metavar="FOLDER", help="denoisers go on from the models in this folder")
    parser.add_argument("--samples", type=Path, default=Path("tinyworld_samples"), help="folder of the sample sheets")
    parser.add_argument("--steps", type=int, help="of each of the chosen stages, instead of the plan's")
    parser.add_argument("--device", default="cpu", help="where to train (cpu, cuda)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the denoisers' training")
    parser.add_argument("--threads", type=int, help="CPU threads; default: PyTorch's")
    parser.add_argument("--seed", type=int, default=0, help="of data and training (default 0)")


def run(arguments: argparse.Namespace) -> int:
    """Runs the stages in their order."""
    if arguments.seed < 0:
        raise ConfigurationError(f"--seed must not be negative, got {arguments.seed}")
    if arguments.steps is not None and arguments.steps < 1:
        raise ConfigurationError(f"--steps must be at least 1, got {arguments.steps}")
    _check_start(arguments)
    import torch

    from prd_lightning.tinyworld import card, dataset, samples
    from prd_lightning.tinyworld.training import TinyWorldPlan, TinyWorldTrainer

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    # A trained attention's smallest weights times a small loss's gradient are denormal numbers, which processors are slow with:
    # the backward pass of a finished normal-depth teacher took 1.4 times as long with them.
    torch.set_flush_denormal(True)
    plan = TinyWorldPlan(seed=arguments.seed)
    if arguments.steps is not None:
        chosen = [stage for stage in STAGES if stage in arguments.stages]
        plan = replace(plan, **{stage: replace(getattr(plan, stage), steps=arguments.steps) for stage in chosen})
    trainer = TinyWorldTrainer(
        arguments.output, arguments.cache, plan, torch.device(arguments.device), arguments.precision, arguments.start_from
    )
    for stage in STAGES:
        if stage in arguments.stages:
            getattr(trainer, f"train_{stage}")()
            card.record_training(arguments.output, stage, _settings(trainer, stage))
    if "card" in arguments.stages:
        held_out = dataset.render_groups(dataset.held_out_scenes(), arguments.cache / "held_out_renders.safetensors", seed=1)
        written = card.write_card(arguments.output, held_out)
        for name, losses in written["held_out"]["denoising"].items():
            print(name, {key: None if value is None else round(value, 4) for key, value in losses.items()})
        print(arguments.output / "card.json")
    if "samples" in arguments.stages:
        for name in TEACHERS:
            print(samples.sample_sheet(name, arguments.output, arguments.samples / f"{name}.png"))
    return 0


def _check_start(arguments: argparse.Namespace) -> None:
    """Raises a ConfigurationError if ``--start-from`` lacks a denoiser that is to go on."""
    if arguments.start_from is None:
        return
    for stage in TEACHERS:
        folder = arguments.start_from / stage / "unet"
        if stage in arguments.stages and not (folder / "config.json").is_file():
            raise ConfigurationError(f"--start-from {arguments.start_from}: there is no model in {folder}; train it from nothing")


def _settings(trainer: "TinyWorldTrainer", stage: str) -> dict:
    """Length of a stage, its arithmetic, what its data were, and how the model that it went on with was trained, for the card."""
    from prd_lightning.tinyworld.card import read_card
    from prd_lightning.tinyworld.dataset import CAMERAS

    plan, precision = trainer.plan, trainer.precision if stage in TEACHERS else "float32"
    settings = asdict(getattr(plan, stage)) | {"precision": precision}
    if stage != "text":  # which sees no renders
        settings |= {"rings_per_pair": plan.rings_per_pair, "compositions": plan.compositions, "data_seed": plan.seed}
        settings["elevation_range"] = list(CAMERAS.elevation_range)
    if trainer.start_from is not None and stage in TEACHERS:
        settings["start_from"] = read_card(trainer.start_from).get("training", {}).get(stage)
    return settings
