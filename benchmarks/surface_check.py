"""Whether the sparse search finds the signs of a dense evaluation, on many fields: ``python -m benchmarks.surface_check``.

A mesh depends on the field's signs on the grid and on look-ups at the surface, and those are the same code for both; equal signs
make equal meshes. Fields: every held-out prompt of the tiny world with the shipped generator, and random ones of many kinds
(smooth or white planes, weak or strong, plain or sharpened networks). It also measures the memory of one mesh at 256^3.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as functional

from prd_lightning.errors import EmptyMeshError
from prd_lightning.field import PreparedPlanes, TriplaneField
from prd_lightning.files import atomic_write
from prd_lightning.isosurface import FieldGrid
from prd_lightning.mesh.extraction import extract_surface
from prd_lightning.pipeline import TextToMeshPipeline
from prd_lightning.sampling import sample_planes
from prd_lightning.tinyworld.grammar import describe, held_out_compositions, held_out_pair_prompts

RESOLUTIONS = (64, 128, 160, 256)
MEMORY = """
import sys, torch
from benchmarks.surface_check import random_field
from prd_lightning.mesh.extraction import extract_surface
from pathlib import Path
torch.set_num_threads(1)
def kib(key):
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)).split()[1])
field, planes = random_field(0, 32, 64, 256)
torch.ones(64, 64) @ torch.ones(64, 64)
before = kib("VmRSS")
extract_surface(field, planes, 256, dense=sys.argv[1] == "dense")
print((kib("VmHWM") - before) / 1024)
"""


@torch.no_grad()
def random_field(seed: int, channels: int = 8, hidden: int = 16, size: int = 32) -> tuple[TriplaneField, PreparedPlanes]:
    """A field whose kind follows from its seed."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    field = TriplaneField(channels, hidden).requires_grad_(False)
    strength = 10 ** float(torch.rand((), generator=generator) * 1.7 - 1.5)
    gain = (1.0, 1.5, 2.5)[seed % 3]
    for layer in (0, 2, 4):
        field.sdf_network[layer].weight.mul_(gain)
    coarse = (4, 8, size // 2, size)[seed % 4]
    planes = torch.randn(6, channels, coarse, coarse, generator=generator) * strength
    planes = functional.interpolate(planes, (size, size), mode="bicubic", align_corners=False) if coarse < size else planes
    return field, field.prepare(planes[None])


def compare(field: TriplaneField, planes: PreparedPlanes, resolution: int, tally: dict[str, float]) -> None:
    """Adds one field to the tally of a resolution."""
    grid = FieldGrid(field, planes, resolution)
    dense, sparse = grid.dense_signs(), grid.sparse_signs()
    wrong = int((dense.inside != sparse.inside).sum())
    kind = "bounds" if sparse.certain else "margin"
    for name, value in ((f"fields_by_{kind}", 1), (f"differing_fields_by_{kind}", int(wrong > 0)), ("differing_points", wrong)):
        tally[name] = tally.get(name, 0) + value
    tally["evaluated_share_sum"] = tally.get("evaluated_share_sum", 0.0) + sparse.evaluated / grid.side**3


def compare_meshes(field: TriplaneField, planes: PreparedPlanes, resolution: int, tally: dict[str, float]) -> None:
    """Adds the meshes themselves to the tally."""
    try:
        (vertices, faces), (expected, expected_faces) = (
            extract_surface(field, planes, resolution, dense) for dense in (False, True)
        )
    except EmptyMeshError:
        return
    same = faces.shape == expected_faces.shape and bool((faces == expected_faces).all())
    tally["meshes"] = tally.get("meshes", 0) + 1
    tally["same_faces"] = tally.get("same_faces", 0) + int(same)
    if same:
        tally["largest_distance"] = max(tally.get("largest_distance", 0.0), float((vertices - expected).abs().max()))


def finish(tally: dict[str, float]) -> dict[str, float]:
    """The tally with a mean instead of a sum."""
    count = tally.get("fields_by_bounds", 0) + tally.get("fields_by_margin", 0)
    return {**tally, "mean_evaluated_share": tally.pop("evaluated_share_sum", 0.0) / max(count, 1)}


def check_tiny_world(limit: int | None) -> dict[str, dict[str, float]]:
    """Every held-out prompt, single objects first."""
    pipeline = TextToMeshPipeline.from_pretrained("tiny", device="cpu")
    prompts = [*held_out_pair_prompts(), *map(describe, held_out_compositions())][:limit]
    tallies: dict[str, dict[str, float]] = {str(resolution): {} for resolution in RESOLUTIONS}
    for prompt in prompts:
        planes = sample_planes(pipeline.parts, [prompt], [0], pipeline.architecture.steps)
        for resolution in RESOLUTIONS:
            compare(pipeline.parts.field, planes, resolution, tallies[str(resolution)])
        compare_meshes(pipeline.parts.field, planes, 128, tallies["128"])
    return {name: finish(tally) for name, tally in tallies.items()}


def check_random(count: int, seconds: float) -> dict[str, dict[str, float]]:
    """Random fields, as many as the time allows."""
    tallies: dict[str, dict[str, float]] = {str(resolution): {} for resolution in RESOLUTIONS}
    begun = time.monotonic()
    for seed in range(count):
        if time.monotonic() - begun > seconds:
            break
        field, planes = random_field(seed)
        for resolution in RESOLUTIONS:
            compare(field, planes, resolution, tallies[str(resolution)])
        if seed % 10 == 0:
            compare_meshes(field, planes, 64, tallies["64"])
    return {name: finish(tally) for name, tally in tallies.items()}


def peak_megabytes(kind: str) -> float:
    """Memory that one mesh at 256^3 takes beside the planes (32 channels, 256 x 256), measured in a process of its own."""
    finished = subprocess.run([sys.executable, "-c", MEMORY, kind], capture_output=True, text=True, check=True)
    return round(float(finished.stdout), 1)


def main() -> None:
    """Prints what was found, and writes it where ``--output`` says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.surface_check", description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=int, default=1000, metavar="N", help="random fields (default 1000)")
    parser.add_argument("--prompts", type=int, metavar="N", help="prompts of the tiny world (default: all that are held out)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop with the random fields after this time")
    parser.add_argument("--output", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    found = {
        "tiny_world": check_tiny_world(arguments.prompts),
        "random": check_random(arguments.fields, arguments.seconds),
        "peak_megabytes_at_256": {kind: peak_megabytes(kind) for kind in ("sparse", "dense")},
    }
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.output:
        with atomic_write(arguments.output, True) as temporary:
            temporary.write_text(text + "\n")


if __name__ == "__main__":
    main()
