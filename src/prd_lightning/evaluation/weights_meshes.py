"""Meshes of a generator for an evaluation: files like those of any other system, made once."""

import json
from collections.abc import Sequence
from pathlib import Path

from prd_lightning.evaluation.matching import MeshItem
from prd_lightning.files import atomic_write
from prd_lightning.mesh import MeshOptions, file_stem, save_mesh
from prd_lightning.pipeline import TextToMeshPipeline
from prd_lightning.sampling import check_prompts, check_seeds


def make_meshes(
    pipeline: TextToMeshPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    resolution: int = 128,
    overwrite: bool = False,
) -> list[MeshItem]:
    """Writes a GLB of every prompt and seed with a JSON file beside it; what the same weights made before is kept.

    Args:
        pipeline: the generator.
        prompts, seeds: every prompt is made with every seed.
        folder: of the files.
        resolution: cells of the iso-surface grid along each axis.
        overwrite: make all of them again.

    Returns:
        One item for each prompt and seed, with the seconds that the mesh took; without a path where nothing came about.
    """
    check_prompts(prompts)
    check_seeds(seeds)
    pairs = [(prompt, seed) for prompt in prompts for seed in dict.fromkeys(seeds)]
    made_with = {"weights_sha256": pipeline.weights_hash, "resolution": resolution}
    paths = {pair: folder / f"{file_stem(*pair)}.glb" for pair in pairs}
    known = {} if overwrite else {pair: _known(paths[pair], made_with) for pair in pairs}
    open_pairs = [pair for pair in pairs if known.get(pair) is None]
    if open_pairs:
        options = MeshOptions(resolution=resolution)
        for result in pipeline.stream([pair[0] for pair in open_pairs], [pair[1] for pair in open_pairs], options):
            pair = (result.prompt, result.seed)
            description = {"prompt": result.prompt, "seed": result.seed, "seconds": result.seconds, **made_with}
            if result.mesh is None:
                description["error"] = str(result.error)
                paths[pair].unlink(missing_ok=True)
            else:
                save_mesh(result.mesh, paths[pair], overwrite=True)
            with atomic_write(paths[pair].with_suffix(".json"), overwrite=True) as temporary:
                temporary.write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            known[pair] = description
    return [
        MeshItem(pair[0], None if "error" in known[pair] else paths[pair], known[pair].get("seconds")) for pair in pairs
    ]


def _known(path: Path, made_with: dict[str, object]) -> dict | None:
    """The description of a mesh that the same weights made with the same settings; None if it has to be made."""
    try:
        description = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(description, dict) and all(description.get(key) == value for key, value in made_with.items())
    return description if same and ("error" in description or path.is_file()) else None
