"""Whether the sparse search finds the signs of a dense evaluation, on many fields: ``python -m benchmarks.surface_check``.

A mesh depends on the field's signs on the grid and on look-ups at the surface, and those are the same code for both; equal signs
make equal meshes (at 64^3 the meshes themselves are compared too). Fields: every held-out prompt of the tiny world with the
shipped generator, and random ones of many kinds, whose planes are as fine for the grid as the published ones (256 texels at 160
cells). It also measures the memory of one surface at 256^3.

What was found so far stands in a file beside ``--output``; the same command goes on from there, unless the code has changed
(with another generator shipped, the tiny world's fields are compared again).
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import Settings, environment, write_results
from benchmarks.surface_fields import KINDS, compare, random_field
from prd_lightning.checkpoints import GENERATOR_FILE
from prd_lightning.errors import ConfigurationError, PRDError
from prd_lightning.field import PreparedPlanes, TriplaneField
from prd_lightning.files import atomic_write, check_output
from prd_lightning.pipeline import TextToMeshPipeline
from prd_lightning.sampling import sample_planes
from prd_lightning.tinyworld import weights_folder
from prd_lightning.tinyworld.grammar import describe, held_out_compositions, held_out_pair_prompts

SCHEMA = "prd_lightning.surface_check.1"
PLANES = {64: 102, 128: 204, 160: 256, 256: 410}
"""Size of the random planes at each resolution."""
SPREAD = (0, 1, 0, 2, 0, 1, 0, 1, 0, 2, 0, 1, 0, 3, 0, 1, 0, 2, 0, 1)
"""Which resolution random fields are compared at first, in turn: half of them at the coarsest, one in twenty at the finest."""
AT_ONCE = 50
"""Fields that are then compared at every resolution before the next ones are."""
MESHES = 64
"""Resolution at which the meshes are compared as well."""
REPOSITORY = Path(__file__).resolve().parents[1]
MESH_EVERY = 11
"""Of so many random fields the meshes of one are compared (no multiple of the number of kinds); all of the tiny world's are."""
MEMORY_OF, MEMORY_CASES = "memory", [(kind, search) for kind in (KINDS[0], KINDS[-1]) for search in ("sparse", "dense")]
SOURCES = ("src/prd_lightning/field.py", "src/prd_lightning/isosurface/*.py", "benchmarks/surface_fields.py")
"""What the outcome depends on."""
MEMORY = """
import sys, torch
from benchmarks.surface_fields import random_field
from prd_lightning.mesh.extraction import extract_surface
from pathlib import Path
torch.set_num_threads(1)
def kib(key):
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)).split()[1])
field, planes = random_field(int(sys.argv[1]), 32, 64, 256)
torch.ones(64, 64) @ torch.ones(64, 64)
Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
before = kib("VmRSS")
extract_surface(field, planes, int(sys.argv[3]), dense=sys.argv[2] == "dense")
print((kib("VmHWM") - before) / 1024)
"""

Job = tuple[str, int, int]
"""World (tiny, random or memory), number of the field or of the case, resolution."""


def jobs_of(prompts: int, fields: int) -> Iterator[Job]:
    """The tiny world and every random field at one resolution, the fewer the finer; the memory; then all that is left."""
    *coarser, finest = resolutions = list(PLANES)
    yield from (("tiny", number, resolution) for resolution in coarser for number in range(prompts))
    first = [resolutions[SPREAD[number // len(KINDS) % len(SPREAD)]] for number in range(fields)]
    yield from (("random", number, resolution) for number, resolution in enumerate(first))
    yield from (("tiny", number, finest) for number in range(prompts))
    yield from ((MEMORY_OF, number, finest) for number in range(len(MEMORY_CASES)))
    for start in range(0, fields, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, fields))
        pairs = ((number, resolution) for resolution in resolutions for number in numbers)
        yield from (("random", *pair) for pair in pairs if first[pair[0]] != pair[1])


def held_out() -> list[str]:
    """The prompts, single objects first."""
    return [*held_out_pair_prompts(), *map(describe, held_out_compositions())]


class TinyFields:
    """The fields of the shipped generator, one for each prompt, each sampled once.

    Args:
        prompts: by number.
    """

    def __init__(self, prompts: Sequence[str]) -> None:
        self.prompts = prompts
        self.pipeline = TextToMeshPipeline.from_pretrained("tiny", device="cpu")
        self.planes: dict[int, PreparedPlanes] = {}

    def __call__(self, number: int) -> tuple[TriplaneField, PreparedPlanes]:
        """Field and planes of a prompt."""
        if number not in self.planes:
            parts, steps = self.pipeline.parts, self.pipeline.architecture.steps
            self.planes[number] = sample_planes(parts, [self.prompts[number]], [0], steps)
        return self.pipeline.parts.field, self.planes[number]


def source_hash() -> str:
    """Of the code that the outcome depends on."""
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(REPOSITORY.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def generator_hash() -> str:
    """Of the shipped generator, whose fields are those of the tiny world."""
    return hashlib.sha256((weights_folder("generator") / GENERATOR_FILE).read_bytes()).hexdigest()


def read_partial(path: Path) -> dict[Job, dict[str, Any]]:
    """What an earlier run with the same code found, of the tiny world with the same generator; a cut off line is left out."""
    outcomes: dict[Job, dict[str, Any]] = {}
    if not path.is_file():
        return outcomes
    lines = path.read_text().split("\n")
    code, _, generator = lines[0].partition(" ")
    if code != source_hash():
        return outcomes
    for line in lines[1:-1]:  # the last one has no end
        outcome = json.loads(line)
        outcomes[tuple(outcome.pop("job"))] = outcome
    return {job: outcome for job, outcome in outcomes.items() if job[0] != "tiny" or generator == generator_hash()}


def run_jobs(jobs: Sequence[Job], partial: Path | None, seconds: float) -> dict[Job, dict[str, Any]]:
    """The outcome of every job, or of those that the time allows.

    Args:
        jobs: what to do, in order.
        partial: file for what was found so far.
        seconds: after which no job is begun any more.
    """
    outcomes = read_partial(partial) if partial else {}
    if partial:  # written anew, so that a line cut off by a kill is gone
        with atomic_write(partial, overwrite=True) as temporary:
            rows = [json.dumps({"job": job, **outcome}) for job, outcome in outcomes.items()]
            temporary.write_text("\n".join([f"{source_hash()} {generator_hash()}", *rows]) + "\n")
    tiny: Callable[[int], tuple[TriplaneField, PreparedPlanes]] | None = None
    begun, left = time.monotonic(), [job for job in jobs if job not in outcomes]
    for world, number, resolution in left:
        if time.monotonic() - begun > seconds:
            break
        if world == MEMORY_OF:
            outcome = {"megabytes": peak_megabytes(*MEMORY_CASES[number], resolution)}
        elif world == "tiny":
            tiny = tiny or TinyFields(held_out())
            outcome = compare(*tiny(number), resolution, resolution == MESHES)
        else:
            field, planes = random_field(number, size=PLANES[resolution])
            outcome = compare(field, planes, resolution, resolution == MESHES and number % MESH_EVERY == 0)
        outcomes[world, number, resolution] = outcome
        if partial:
            with partial.open("a") as stream:
                stream.write(json.dumps({"job": [world, number, resolution], **outcome}) + "\n")
    return {job: outcomes[job] for job in jobs if job in outcomes}


def tally(outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts of some outcomes."""
    differing = [outcome for outcome in outcomes if outcome["differing"]]
    meshes = [outcome for outcome in outcomes if "same_faces" in outcome]
    return {
        "fields": len(outcomes),
        "with_a_surface": sum(outcome["surface"] for outcome in outcomes),
        "by_margin": sum(not outcome["certain"] for outcome in outcomes),
        "differing_fields": len(differing),
        "differing_though_certain": sum(outcome["certain"] for outcome in differing),
        "differing_points": sum(outcome["differing"] for outcome in differing),
        "largest_piece": max((outcome["piece"] for outcome in differing), default=0),
        "mean_evaluated_share": round(sum(outcome["share"] for outcome in outcomes) / max(len(outcomes), 1), 4),
        "meshes": len(meshes),
        "same_faces": sum(outcome["same_faces"] for outcome in meshes),
        "largest_distance": max((outcome["distance"] for outcome in meshes if "distance" in outcome), default=0.0),
    }


def summarize(outcomes: dict[Job, dict[str, Any]]) -> dict[str, Any]:
    """Tallies by world and resolution, and of the random fields by kind; the memory."""
    chosen = {
        world: {
            str(resolution): [outcome for job, outcome in outcomes.items() if job[::2] == (world, resolution)]
            for resolution in PLANES
        }
        for world in ("tiny", "random")
    }
    chosen["random_by_kind"] = {
        kind: [outcome for job, outcome in outcomes.items() if job[0] == "random" and job[1] % len(KINDS) == index]
        for index, kind in enumerate(KINDS)
    }
    tallies = {name: {key: tally(found) for key, found in group.items() if found} for name, group in chosen.items()}
    memory = {", ".join(MEMORY_CASES[job[1]]): outcome["megabytes"] for job, outcome in outcomes.items() if job[0] == MEMORY_OF}
    return tallies | {f"peak_megabytes_at_{max(PLANES)}": memory}


def peak_megabytes(kind: str, search: str, resolution: int) -> float | None:
    """Memory that one surface takes beside the planes (32 channels, 256 x 256), measured in a process of its own; None where the
    system does not tell.
    """
    if not Path("/proc/self/clear_refs").is_file():
        return None
    command = [sys.executable, "-c", MEMORY, str(KINDS.index(kind)), search, str(resolution)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(float(finished.stdout), 1)


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.surface_check", description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=int, default=1000, metavar="N", help="random fields (default 1000)")
    parser.add_argument("--prompts", type=int, metavar="N", help="prompts of the tiny world (default: all that are held out)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this time; the same command goes on")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file for what was found")
    parser.add_argument("--overwrite", action="store_true", help="replace --output if it exists")
    return parser


def check(given: argparse.Namespace) -> bool:
    """Runs, prints and writes what was asked for; whether the meshes are the same wherever they must be."""
    prompts = len(held_out()) if given.prompts is None else given.prompts
    if not 0 <= prompts <= len(held_out()) or given.fields < 0:
        raise ConfigurationError(f"--fields and --prompts must be at least 0, --prompts at most {len(held_out())}")
    partial = None
    if given.output:
        check_output(given.output, given.overwrite)
        partial = given.output.with_name(given.output.name + ".partial")
    jobs = list(jobs_of(prompts, given.fields))
    outcomes = run_jobs(jobs, partial, given.minutes * 60)
    found = {"schema": SCHEMA, "environment": environment(Settings(torch.device("cpu")))}
    found |= {"complete": len(outcomes) == len(jobs), "planes": PLANES, **summarize(outcomes)}
    print(json.dumps(found, indent=2))
    write_results(found, given.output, given.overwrite)
    if partial and found["complete"]:
        partial.unlink()
    return not any(tally["differing_though_certain"] for group in ("tiny", "random") for tally in found[group].values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; status 1 if a sign that follows from bounds is wrong, 2 after a user's mistake."""
    torch.set_num_threads(1)
    try:
        return 0 if check(build_parser().parse_args(arguments)) else 1
    except PRDError as error:
        print(f"python -m benchmarks.surface_check: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
