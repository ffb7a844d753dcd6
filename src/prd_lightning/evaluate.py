"""``prd evaluate``: scores of a generator on the held-out prompts of the tiny world."""

import argparse
import json
from functools import partial
from pathlib import Path

from prd_lightning.files import atomic_write, check_output

EXAMPLES = """examples:
  prd evaluate                                       (the generator that ships with the package)
  prd evaluate --weights runs/2026-01-31_12-00-00_richdreamer_seed0
  prd evaluate --weights RUN --compositions --output scores.json
  prd evaluate --weights RUN --prompts prompts.txt   (prompts of the tiny world's grammar)
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument("--weights", default="tiny", help="run folder, checkpoint, generator file, or `tiny` (default)")
    parser.add_argument("--prompts", type=Path, help="file of prompts of the tiny world's grammar; default: its held-out prompts")
    parser.add_argument("--compositions", action="store_true", help="held-out prompts with two parts as well")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="of the first noise (default 0)")
    parser.add_argument("--shuffle", action="store_true", help="control: score every object against the next prompt")
    parser.add_argument("--output", type=Path, help="JSON file for means and rows")
    parser.add_argument("--overwrite", action="store_true", help="replace --output if it exists")
    parser.add_argument("--device", help="cpu, cuda, mps; default: the best there is")


def run(arguments: argparse.Namespace) -> int:
    """Prints the scores and writes them."""
    if arguments.output:
        check_output(arguments.output, arguments.overwrite)
    from prd_lightning.data import FilePrompts
    from prd_lightning.evaluation import evaluate_tiny_world, held_out_prompts
    from prd_lightning.pipeline import TextToMeshPipeline
    from prd_lightning.sampling import sample_planes

    prompts = list(FilePrompts(arguments.prompts)) if arguments.prompts else held_out_prompts(arguments.compositions)
    pipeline = TextToMeshPipeline.from_pretrained(arguments.weights, arguments.device)
    generate = partial(sample_planes, pipeline.parts)
    scores = evaluate_tiny_world(pipeline.parts.field, generate, prompts, arguments.seeds, shuffle=arguments.shuffle)
    print("\n".join(scores.lines()))
    if arguments.output:
        with atomic_write(arguments.output, arguments.overwrite) as temporary:
            temporary.write_text(json.dumps(scores.to_dict(), indent=2) + "\n")
        print(arguments.output)
    return 0
