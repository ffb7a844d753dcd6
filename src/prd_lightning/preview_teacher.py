"""``prd preview-teacher``: samples of a teacher itself, so that people see what can be learned before they spend days.

The teacher of a config (``conf/teacher/part``) is sampled by deterministic DDIM with classifier-free guidance, for a ring of
cameras a prompt: what a multi-view teacher draws as many-faced, flat or of the wrong colour, no distillation can mend.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from prd_lightning.errors import ConfigurationError
from prd_lightning.files import check_output

EXAMPLES = """examples:
  prd preview-teacher mvdream "a red cone"                           (the tiny world's)
  prd preview-teacher richdreamer_nd "a red cone" "a blue torus" --guidance-scale 2 --output nd.png
  prd preview-teacher mvdream "a wooden chair" --world sd21 --device cuda --steps 50
  prd preview-teacher stable_diffusion "a corgi" --world sd21 --set world.stable_diffusion.folder=weights/my-sd21

--set takes any override of `prd train`. A sheet has a row of views for each prompt, from azimuth 0 (the
front) on; a normal-depth teacher has a row of normals and one of disparity."""

PARTS = ("stable_diffusion", "mvdream", "richdreamer_nd")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument("teacher", help=f"one of conf/teacher/part: {', '.join(PARTS)}")
    parser.add_argument("prompt", nargs="+", metavar="PROMPT", help="what to draw; several are allowed")
    parser.add_argument("--world", default="tiny", help="tiny (default) or sd21: whose sizes, guidance and weights")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the config")
    parser.add_argument("--output", type=Path, help="PNG (default: TEACHER_preview.png)")
    parser.add_argument("--overwrite", action="store_true", help="replace --output if it exists")
    parser.add_argument("--steps", type=int, default=25, help="of DDIM (default 25)")
    parser.add_argument("--guidance-scale", type=float, help="default: the config's at the first step")
    parser.add_argument("--elevation", type=float, default=15.0, help="of the cameras, in degrees (default 15)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    parser.add_argument("--device", help="cpu, cuda, mps; default: the best there is")


def run(arguments: argparse.Namespace) -> int:
    """Writes the sheet and prints its path."""
    prompts = arguments.prompt
    output = check_output(arguments.output or Path(f"{arguments.teacher}_preview.png"), arguments.overwrite)
    from prd_lightning.pipeline import resolve_device
    from prd_lightning.sampling import check_prompts, check_seeds
    from prd_lightning.teachers.previews import preview_cameras, teacher_sheet

    check_prompts(prompts)
    check_seeds([arguments.seed])
    teacher = configured_teacher(arguments.teacher, arguments.world, arguments.set).to(resolve_device(arguments.device))
    cameras = preview_cameras(len(prompts), getattr(teacher, "views", 4), arguments.elevation)
    settings = (arguments.steps, arguments.guidance_scale, arguments.seed)
    print(teacher_sheet(teacher, prompts, cameras, output, *settings, overwrite=arguments.overwrite))
    return 0


def configured_teacher(part: str, world: str = "tiny", overrides: Sequence[str] = ()):  # noqa: ANN201 - torch is imported late
    """The teacher that ``prd train generator=WORLD`` would distil, by the name of its part.

    Raises:
        ConfigurationError: there is no such part or world; the message lists what there is.
        MissingWeightsError: its weights are not on this machine.
    """
    from prd_lightning.building import instantiate
    from prd_lightning.configuration import compose_config

    if part not in PARTS:
        raise ConfigurationError(f"there is no teacher {part!r}; conf/teacher/part has {', '.join(PARTS)}")
    config = compose_config([f"generator={world}", "teacher=triplaneturbo", *overrides])
    return instantiate(config.teacher[part])
