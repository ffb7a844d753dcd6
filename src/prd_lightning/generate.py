"""``prd generate``: prompts to mesh files.

Every output is checked before any work is done; each mesh is written as soon as it is ready, with a JSON file beside it that says
how it was made. The exit status is 1 if some prompts failed (they are listed), 2 for a user's mistake.
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from prd_lightning import __version__
from prd_lightning.data.prompts import FilePrompts
from prd_lightning.errors import ConfigurationError, NotWatertightError, PRDError, PromptError
from prd_lightning.files import atomic_write, check_output
from prd_lightning.mesh import (
    FORMATS,
    TEXTURED_FORMATS,
    TURNTABLES,
    UNITS,
    MeshOptions,
    Placement,
    check_turntable,
    file_stem,
    format_of,
    mesh_files,
    mesh_health,
    place_mesh,
    save_mesh,
    save_turntable,
)
from prd_lightning.mesh.arguments import add_mesh_arguments, add_placement_arguments, mesh_options, placement_of
from prd_lightning.pipeline import GeneratedMesh, TextToMeshPipeline, find_generator
from prd_lightning.sampling import check_prompts, check_seeds

SOME_FAILED = 1

EXAMPLES = """examples:
  prd generate "a red cone on a blue cube" --output out.glb --seed 0
  prd generate "a red cone" "a blue cube" --seeds 0 1 2 --output meshes --turntable
  prd generate --prompts corpus.jsonl --output corpus --devices 8        # any number of prompts: see docs/data.md
  prd generate --prompts prompts.txt --format obj --target-faces 5000 --texture-size 2048 --normal-map --output meshes
  prd generate "a red cone" --output cone.stl --scale 0.08 --smooth                    # 8 cm, to be printed
  prd generate "a green torus" --weights runs/my_run --output torus.ply --overwrite
  prd generate "a delicious hamburger" --weights triplaneturbo --output burger.glb

A mesh depends on its prompt, its seed and the weights alone. Beside NAME.glb there is NAME.json with prompt, seed, weights,
versions and the health of the mesh. GLB and OBJ have a texture, are y up, face +z and are in metres; PLY has colours at its
vertices; PLY and STL are z up and face +x; STL has no colours, is in millimetres and must be watertight."""


@dataclass(frozen=True)
class Task:
    """One mesh to make, and the files that it ends in.

    Attributes:
        prompt, seed: what to make.
        mesh, sidecar: paths.
        turntable: path of the pictures, None if none are wanted.
        companions: further files of the mesh, such as an OBJ's texture.
    """

    prompt: str
    seed: int
    mesh: Path
    sidecar: Path
    turntable: Path | None
    companions: tuple[Path, ...] = ()

    @property
    def outputs(self) -> list[Path]:
        """All files of the task."""
        return [path for path in (self.mesh, self.sidecar, self.turntable, *self.companions) if path is not None]


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments and examples."""
    parser.epilog = EXAMPLES
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="what to make; several are allowed")
    parser.add_argument(
        "--prompts", metavar="FILE", help="file of prompts: .txt (one a line), .jsonl, .json, .csv, .tsv (all also .gz), .parquet"
    )
    parser.add_argument(
        "--on-error", choices=("raise", "skip"), default="raise", help="bad lines of the prompt file: stop, or leave them out"
    )
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, metavar="N", help="of the first noise of every prompt (default 0)")
    seeds.add_argument("--seeds", type=int, nargs="+", metavar="N", help="several seeds: one mesh for each prompt and seed")
    parser.add_argument(
        "--weights", default="tiny", metavar="LOCATION",
        help="tiny (ships with the package), triplaneturbo (the published one, see prd weights), a run's folder, a checkpoint's "
        "folder or a generator.safetensors (default tiny)",
    )
    parser.add_argument("--base", metavar="DIR", help="Stable Diffusion's folder, if not the one that the generator file names")
    output = parser.add_argument_group("output")
    output.add_argument("--output", default="meshes", metavar="PATH", help="a file for one mesh, or a folder (default: meshes)")
    output.add_argument("--format", metavar="FORMAT", help=f"{', '.join(FORMATS)} (default: the suffix of --output, or glb)")
    output.add_argument("--overwrite", action="store_true", help="replace files that exist")
    output.add_argument(
        "--turntable", nargs="?", const=TURNTABLES[0], metavar="KIND",
        help="pictures from all around beside each mesh: a sheet (png, the default), or a turn in motion (gif, mp4)",
    )
    add_placement_arguments(output)
    quality = parser.add_argument_group("quality")
    quality.add_argument("--resolution", type=int, default=128, metavar="N", help="cells of the grid along an axis (default 128)")
    quality.add_argument("--steps", type=int, metavar="K", help="denoising steps (default: what the generator was trained for)")
    quality.add_argument("--batch-size", type=int, default=4, metavar="B", help="prompts denoised together (default 4)")
    quality.add_argument("--device", metavar="NAME", help="cpu, cuda, mps, ... (default: the GPU if there is one)")
    corpus = parser.add_argument_group("many prompts (--prompts alone; repeat the command to go on where it stopped)")
    corpus.add_argument("--devices", type=int, metavar="N", help="processes, each on a GPU of its own or on the CPU (default 1)")
    corpus.add_argument("--nodes", type=int, metavar="N", help="machines (default 1); Slurm or torchrun start the command")
    corpus.add_argument("--retries", type=int, metavar="N", help="further attempts for a prompt that fails (default 1)")
    add_mesh_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Generates and writes; prints the path of each mesh."""
    if arguments.prompts is not None and not arguments.prompt:
        from prd_lightning.corpus.command import generate_corpus

        return generate_corpus(arguments)
    only_given = [name for name in ("devices", "nodes", "retries") if getattr(arguments, name) is not None]
    if only_given:
        raise ConfigurationError(f"--{only_given[0]} is for a file of prompts alone (--prompts FILE without a PROMPT beside it)")
    prompts = _read_prompts(arguments)
    seeds = arguments.seeds or [arguments.seed or 0]
    check_seeds(seeds)
    if arguments.turntable is not None:
        check_turntable(arguments.turntable)
    placement = placement_of(arguments)
    find_generator(arguments.weights)
    tasks = plan_tasks(prompts, seeds, arguments.output, arguments.format, arguments.turntable)
    options = mesh_options(arguments, format_of(tasks[0].mesh) in TEXTURED_FORMATS)
    tasks = [replace(task, companions=tuple(mesh_files(task.mesh, options.texture, options.normal_map)[1:])) for task in tasks]
    for path in (path for task in tasks for path in task.outputs):
        check_output(path, arguments.overwrite)
    pipeline = TextToMeshPipeline.from_pretrained(arguments.weights, arguments.device, arguments.base)
    writer = MeshWriter(pipeline, options, placement, arguments.steps or pipeline.architecture.steps, arguments.overwrite)
    given = [task.prompt for task in tasks], [task.seed for task in tasks]
    results = pipeline.stream(*given, options, arguments.batch_size, arguments.steps)
    return _report(len(tasks), [(task, error) for task, result in zip(tasks, results) if (error := writer.write(task, result))])


def _report(count: int, failed: list[tuple[Task, PRDError]]) -> int:
    """Lists what failed; returns the exit status."""
    if not failed:
        return 0
    print(f"prd generate: {len(failed)} of {count} failed:", file=sys.stderr)
    for task, error in failed:
        print(f"  {task.prompt!r} (seed {task.seed}): {error}", file=sys.stderr)
    return SOME_FAILED


def _read_prompts(arguments: argparse.Namespace) -> list[str]:
    prompts = list(arguments.prompt)
    if arguments.prompts is not None:
        prompts += list(FilePrompts(arguments.prompts, on_error=arguments.on_error))
    if not prompts:
        if arguments.prompts is not None:
            raise PromptError(f"{arguments.prompts} holds no prompt")
        raise PromptError("no prompt was given: name one on the command line, or a file with --prompts")
    check_prompts(prompts)
    return [prompt.strip() for prompt in prompts]


def plan_tasks(
    prompts: Sequence[str], seeds: Sequence[int], output: str | Path, mesh_format: str | None, turntable: str | None = None
) -> list[Task]:
    """One task for each different pair of prompt and seed.

    Args:
        prompts, seeds: every prompt is made with every seed.
        output: a file if there is one mesh and the name has a suffix, else a folder.
        mesh_format: one of ``FORMATS``; None takes the suffix of ``output``, or glb.
        turntable: one of ``TURNTABLES``, None for no pictures.

    Raises:
        ConfigurationError: unknown format, a suffix that contradicts it, or one file for several meshes.
    """
    if mesh_format is not None and mesh_format not in FORMATS:
        raise ConfigurationError(f"unknown mesh format {mesh_format!r}; known: {', '.join(FORMATS)}")
    pairs = list(dict.fromkeys((prompt, seed) for prompt in prompts for seed in seeds))
    output = Path(output).expanduser()
    names_format = output.suffix.lower().removeprefix(".") in FORMATS and not output.is_dir()
    if names_format and len(pairs) > 1:
        raise ConfigurationError(f"{output} is one file, but {len(pairs)} meshes are to be made; name a folder with --output")
    if names_format and mesh_format not in (None, format_of(output)):
        raise ConfigurationError(f"--format {mesh_format} contradicts the suffix of {output}")
    if not names_format and mesh_format is None and len(pairs) == 1 and output.suffix and not output.is_dir():
        format_of(output)  # raises: a single file of an unknown kind
    if names_format:
        return [task_for(*pairs[0], output, turntable)]
    suffix = mesh_format or FORMATS[0]
    return [task_for(prompt, seed, output / f"{file_stem(prompt, seed)}.{suffix}", turntable) for prompt, seed in pairs]


def task_for(prompt: str, seed: int, path: Path, turntable: str | None) -> Task:
    """The task that ends in ``path``."""
    return Task(prompt, seed, path, path.with_suffix(".json"), path.with_suffix(f".{turntable}") if turntable else None)


@dataclass(frozen=True)
class MeshWriter:
    """Writes meshes, and beside each one what is known of it."""

    pipeline: TextToMeshPipeline
    options: MeshOptions
    placement: Placement
    steps: int
    overwrite: bool

    def write(self, task: Task, result: GeneratedMesh) -> PRDError | None:
        """Writes the files of a task; returns why its prompt failed, if it did. What would hit every prompt is raised."""
        if result.mesh is None:
            return result.error
        description = self.describe(task, result)
        kept = {key: description[key] for key in ("prompt", "seed", "weights_sha256", "versions")}
        try:
            save_mesh(result.mesh, task.mesh, self.overwrite, kept, self.placement)
        except NotWatertightError as error:
            return error
        if task.turntable is not None:
            save_turntable(result.mesh, f"{task.prompt} (seed {task.seed})", task.turntable, self.overwrite)
        with atomic_write(task.sidecar, self.overwrite) as temporary:
            temporary.write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(task.mesh, flush=True)
        return None

    def describe(self, task: Task, result: GeneratedMesh) -> dict[str, Any]:
        """What the file beside the mesh says."""
        mesh, kind, pipeline = result.mesh, format_of(task.mesh), self.pipeline
        health = mesh_health(place_mesh(mesh, kind, self.placement), UNITS[kind][0])
        up, front = self.placement.axes(kind)
        return {
            "prompt": result.prompt,
            "seed": result.seed,
            "mesh": task.mesh.name,
            "files": [path.name for path in (task.mesh, *task.companions) if mesh.texture or path == task.mesh],
            "seconds": round(result.seconds, 3),
            "vertices": len(mesh.vertices),
            "faces": len(mesh.faces),
            "target_faces": self.options.faces_wished,
            "watertight": health.watertight,
            "up": up,
            "front": front,
            "steps": self.steps,
            "resolution": self.options.resolution,
            **result.report.to_dict(),
            "health": health.to_dict(),
            "weights": str(pipeline.weights_path),
            "weights_sha256": pipeline.weights_hash,
            "base": pipeline.architecture.base,
            "device": str(pipeline.device),
            "versions": {"prd_lightning": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }
