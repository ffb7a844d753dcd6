"""``prd evaluate``: scores of a generator in the tiny world, or CLIP scores of any generator's or any other system's meshes."""

import argparse
import csv
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prd_lightning.errors import ConfigurationError, MeshFileError, OutputNotWritableError
from prd_lightning.files import atomic_write, check_output

if TYPE_CHECKING:
    from prd_lightning.evaluation.clip_evaluation import ClipEvaluation
    from prd_lightning.evaluation.matching import MeshItem
    from prd_lightning.pipeline import TextToMeshPipeline

logger = logging.getLogger(__name__)

EXAMPLES = """examples:
  prd evaluate                                       (the tiny world: the generator that ships with the package)
  prd evaluate --weights RUN --compositions --seeds 0 1 2 --output scores.json
  prd evaluate --weights RUN --shuffle               (control: scored against the prompts in another order)
  prd evaluate --weights triplaneturbo --prompts dreamfusion_415.txt --output evaluations/turbo
  prd evaluate --meshes other_system/ --prompts dreamfusion_415.txt --up y --output evaluations/other
  prd evaluate --meshes meshes/ --clip tinyworld:clip --prefix "" --recall-at 1

With --meshes, with --clip, or with weights that are not of the tiny world, the scores are CLIP score and R@k; the folder
--output then holds scores.json, scores.csv, sheet.png and the views, and an interrupted evaluation goes on where it stopped.
docs/evaluation.md says what every number is."""

OF_WEIGHTS = ("weights", "base", "seeds", "compositions", "resolution")
OF_CLIP = ("prefix", "protocol", "recall_at", "views", "size", "elevation", "distance", "fovy", "up", "display_colors", "missing")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument("--weights", default="tiny", help="run folder, checkpoint, generator file, or `tiny` (default)")
    parser.add_argument("--base", metavar="DIR", help="Stable Diffusion's folder, if not the one that the generator file names")
    parser.add_argument("--prompts", type=Path, help="file of prompts; default: the tiny world's held-out prompts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="of the first noise (default 0)")
    parser.add_argument("--output", type=Path, help="tiny world: JSON file (a CSV is written beside it); else a folder")
    parser.add_argument("--overwrite", action="store_true", help="replace --output if it exists, forget what was measured")
    parser.add_argument("--device", help="cpu, cuda, mps; default: the best there is")
    tiny = parser.add_argument_group("tiny world")
    tiny.add_argument("--compositions", action="store_true", help="held-out prompts with two parts as well")
    tiny.add_argument("--shuffle", action="store_true", help="control: score the objects against the prompts in another order")
    clip = parser.add_argument_group("CLIP score and R@k")
    clip.add_argument("--meshes", type=Path, metavar="FOLDER", help="score these files (glb, obj, ply, ...), not --weights")
    clip.add_argument("--manifest", type=Path, help="CSV or JSONL with `file`, `prompt` and perhaps `seconds`; default: by name")
    clip.add_argument("--clip", metavar="MODEL", help="folder, tinyworld:clip, or hub repository (openai/clip-vit-base-patch32)")
    clip.add_argument("--protocol", default="correct", help="correct (default), or published: as the original script computes")
    clip.add_argument("--prefix", default=None, help='put before every prompt (default "A photo depicts")')
    clip.add_argument("--recall-at", type=int, nargs="+", default=[1, 5], metavar="K", help="the k of R@k (default 1 5)")
    clip.add_argument("--views", type=int, default=4, help="pictures of each mesh (default 4)")
    clip.add_argument("--size", type=int, default=512, help="height and width of a picture (default 512)")
    clip.add_argument("--elevation", type=float, default=15.0, help="of the cameras, in degrees (default 15)")
    clip.add_argument("--distance", type=float, default=3.0, help="of the cameras (default 3; objects are 1.6 long)")
    clip.add_argument("--fovy", type=float, default=40.0, help="vertical field of view in degrees (default 40)")
    clip.add_argument("--up", default="auto", help="axis that points up in the files: x, y, z, -x, -y, -z (default: by format)")
    clip.add_argument("--display-colors", action="store_true", help="colours at the vertices of GLB files are sRGB, not linear")
    clip.add_argument("--missing", choices=("fail", "error"), default="fail", help="prompts without a mesh: failures, or stop")
    clip.add_argument("--resolution", type=int, default=128, metavar="N", help="cells of the generator's grid (default 128)")


def run(arguments: argparse.Namespace) -> int:
    """Prints the scores and writes them."""
    if arguments.meshes is not None:
        return _evaluate_files(arguments)
    if arguments.clip is None and arguments.output is not None and arguments.output.suffix == ".json":
        check_output(arguments.output, arguments.overwrite)  # before the weights are loaded
    from prd_lightning.pipeline import TextToMeshPipeline
    from prd_lightning.weights import SHIPPED_PREFIX

    pipeline = TextToMeshPipeline.from_pretrained(arguments.weights, arguments.device, arguments.base)
    if arguments.clip is None and pipeline.architecture.base.startswith(SHIPPED_PREFIX):
        return _evaluate_tiny_world(arguments, pipeline)
    return _evaluate_files(arguments, pipeline)


def _evaluate_tiny_world(arguments: argparse.Namespace, pipeline: "TextToMeshPipeline") -> int:
    from prd_lightning.data import FilePrompts
    from prd_lightning.evaluation import evaluate_tiny_world, held_out_prompts
    from prd_lightning.sampling import sample_planes

    _refuse(arguments, (*OF_CLIP, "manifest", "resolution"), "belongs to CLIP scores: add --clip tinyworld:clip, or leave it out")
    if arguments.output:
        check_output(arguments.output, arguments.overwrite)
    prompts = list(FilePrompts(arguments.prompts)) if arguments.prompts else held_out_prompts(arguments.compositions)
    generate = partial(sample_planes, pipeline.parts, steps=pipeline.architecture.steps)
    scores = evaluate_tiny_world(pipeline.parts.field, generate, prompts, arguments.seeds, shuffle=arguments.shuffle)
    print("\n".join(scores.lines()))
    if arguments.output:
        with atomic_write(arguments.output, arguments.overwrite) as temporary:
            temporary.write_text(json.dumps(scores.to_dict(), indent=2) + "\n")
        _write_rows(arguments.output.with_suffix(".csv"), scores.to_dict()["rows"])
        print(arguments.output)
    return 0


def _write_rows(path: Path, rows: list[dict]) -> None:
    with atomic_write(path, overwrite=True) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _evaluate_files(arguments: argparse.Namespace, pipeline: "TextToMeshPipeline | None" = None) -> int:
    """CLIP scores of files, which ``pipeline`` makes first if it is given."""
    from prd_lightning.data import FilePrompts
    from prd_lightning.evaluation import held_out_prompts
    from prd_lightning.evaluation.clip_evaluation import check_recall
    from prd_lightning.evaluation.matching import find_meshes
    from prd_lightning.evaluation.results import write_results
    from prd_lightning.evaluation.weights_meshes import make_meshes

    _refuse(arguments, ("shuffle",), "belongs to the tiny world's scores, not to CLIP scores")
    if arguments.meshes is not None:
        _refuse(arguments, OF_WEIGHTS, "says what a generator makes, but --meshes names finished files")
    else:
        _refuse(arguments, ("manifest",), "says which prompts files belong to: name their folder with --meshes")
    name = arguments.meshes.resolve().name if arguments.meshes is not None else Path(arguments.weights).name
    folder = arguments.output or Path("evaluations") / name
    if folder.is_file():
        raise OutputNotWritableError(f"{folder} is a file; --output names a folder here")
    prompts = list(dict.fromkeys(FilePrompts(arguments.prompts))) if arguments.prompts else None
    if prompts is None and pipeline is not None:
        prompts = held_out_prompts(arguments.compositions)
    evaluation = _clip_evaluation(arguments, folder)
    if prompts is not None:
        check_recall(prompts, evaluation.protocol)
    if pipeline is not None:
        meshes = folder / "meshes"
        items = make_meshes(pipeline, prompts, arguments.seeds, meshes, arguments.resolution, arguments.overwrite)
    else:
        items = find_meshes(arguments.meshes, prompts, arguments.manifest)
    _check_missing(items, arguments.missing)
    summary, results = evaluation(items)
    paths = write_results(folder, summary, results)
    _show(summary)
    print("\n".join(map(str, paths)))
    return 0


def _refuse(arguments: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    """Options that would have no effect are mistakes: nobody should read scores as if they had been made with them."""
    parser = argparse.ArgumentParser()
    configure(parser)
    for name in names:
        if getattr(arguments, name) != parser.get_default(name):
            raise ConfigurationError(f"--{name.replace('_', '-')} {reason}")


def _clip_evaluation(arguments: argparse.Namespace, folder: Path) -> "ClipEvaluation":
    from prd_lightning.evaluation.clip_evaluation import ClipEvaluation
    from prd_lightning.evaluation.pictures import ViewSettings
    from prd_lightning.evaluation.protocol import PREFIX, Protocol
    from prd_lightning.metrics.clip import PUBLISHED_CLIP, ClipJudge
    from prd_lightning.pipeline import resolve_device

    prefix = PREFIX if arguments.prefix is None else arguments.prefix
    protocol = Protocol(arguments.protocol, prefix, tuple(dict.fromkeys(arguments.recall_at)))
    views = ViewSettings(arguments.views, arguments.elevation, arguments.distance, arguments.fovy, arguments.size)
    location, device = arguments.clip or PUBLISHED_CLIP, resolve_device(arguments.device)
    judge = ClipJudge.from_pretrained(location, device)
    linear = not arguments.display_colors
    return ClipEvaluation(judge, str(location), folder, protocol, views, arguments.up, linear, arguments.overwrite, device)


def _check_missing(items: "list[MeshItem]", missing: str) -> None:
    without = [item.prompt for item in items if item.path is None]
    if without and missing == "error":
        raise MeshFileError(f"{len(without)} prompts have no mesh, e.g. {without[0]!r}; --missing fail counts them as failures")
    if without:
        logger.warning("%d prompts have no mesh and count as failures, e.g. %r", len(without), without[0])


def _show(summary: dict) -> None:
    """The means as text."""
    for name, value in summary.items():
        if isinstance(value, dict) and {"mean", "low", "high"} <= set(value):
            print(f"{name:<22} {value['mean']:.2f}  ({100 * value['level']:.0f} %: {value['low']:.2f} to {value['high']:.2f})")
        elif name in ("prompts", "meshes", "failures"):
            print(f"{name:<22} {value}")
        elif name == "clip_score_as_printed":
            print(f"{name:<22} {value:.2f}")
    if summary["seconds_per_mesh"]:
        print(f"{'seconds per mesh':<22} {summary['seconds_per_mesh']['mean']:.2f}")
    for name, value in summary["geometry"].items():
        print(f"{name:<32} {value:.2f}")
