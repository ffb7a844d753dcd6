"""``prd generate --prompts FILE --output FOLDER``: meshes of a whole corpus, by Lightning's ``predict``.

A run goes on where an earlier one stopped: what ``results.jsonl`` names as done is left alone, what failed is tried again.
"""

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.utilities import rank_zero_only

from prd_lightning.corpus.journal import Entry, Journal
from prd_lightning.corpus.plan import CorpusPlan
from prd_lightning.corpus.predictor import CorpusData, CorpusPredictor
from prd_lightning.data.prompts import FilePrompts
from prd_lightning.diffusion import unroll_timesteps
from prd_lightning.errors import ConfigurationError, OutputExistsError, PRDError
from prd_lightning.generate import SOME_FAILED, MeshWriter, Task, task_for
from prd_lightning.mesh import FORMATS, TEXTURED_FORMATS, check_turntable, mesh_files
from prd_lightning.mesh.arguments import mesh_options, placement_of
from prd_lightning.pipeline import GeneratedMesh, TextToMeshPipeline, find_generator, resolve_device
from prd_lightning.sampling import check_seeds

logger = logging.getLogger(__name__)

MOST_LISTED = 20


@dataclass(frozen=True)
class Maker:
    """How a task of the corpus becomes files."""

    plan: CorpusPlan
    writer: MeshWriter
    folder: Path
    kind: str
    turntable: str | None
    batch_size: int

    def task(self, prompt: str, seed: int) -> Task:
        """The task with all its files."""
        options = self.writer.options
        made = task_for(prompt, seed, self.folder / f"{self.plan.stem(prompt, seed)}.{self.kind}", self.turntable)
        return replace(made, companions=tuple(mesh_files(made.mesh, options.texture, options.normal_map)[1:]))

    def make(self, prompts: list[str], seeds: list[int]) -> Iterator[GeneratedMesh]:
        """Meshes, one after the other."""
        return self.writer.pipeline.stream(prompts, seeds, self.writer.options, self.batch_size, self.writer.steps)

    def write(self, prompt: str, seed: int, result: GeneratedMesh) -> tuple[Path | None, dict[str, Any], PRDError | None]:
        """Writes a mesh; see ``predictor.Write``."""
        task = self.task(prompt, seed)
        if (error := self.writer.write(task, result)) is not None:
            return None, {}, error
        numbers = {"vertices": len(result.mesh.vertices), "faces": len(result.mesh.faces), "about": task.sidecar.name}
        return task.mesh, numbers, None

    def settings(self) -> dict[str, Any]:
        """All that a mesh depends on beside prompt and seed, as JSON values."""
        values = {
            "weights_sha256": self.writer.pipeline.weights_hash,
            "steps": self.writer.steps,
            "format": self.kind,
            "turntable": self.turntable,
            "mesh": asdict(self.writer.options),
            "placement": asdict(self.writer.placement),
        }
        return json.loads(json.dumps(values))

    def check_free(self) -> None:
        """Raises OutputExistsError if a file would be replaced: a folder without results may hold other files alone."""
        for prompt, seed in self.plan.all():
            for path in self.task(prompt, seed).outputs:
                if path.exists():
                    raise OutputExistsError(f"{path} exists; choose another folder or pass --overwrite")


def generate_corpus(arguments: argparse.Namespace) -> int:
    """Makes what is left of the corpus, lists what failed; returns the exit status.

    Raises:
        PRDError: an argument, the file of prompts, the weights or the folder cannot be used; nothing was made then.
    """
    sizes, kind = _sizes(arguments), _format(arguments)
    maker = _maker(arguments, kind, sizes["batch_size"])
    journal = Journal(maker.folder)
    if journal.settings() is None and not arguments.overwrite:
        maker.check_free()
    if rank_zero_only.rank in (0, None):
        journal.open(maker.settings(), arguments.overwrite)
    else:
        journal.check(maker.settings())
    try:
        return _generate(arguments, maker, journal, sizes)
    finally:
        journal.close()


def _generate(arguments: argparse.Namespace, maker: Maker, journal: Journal, sizes: dict[str, int]) -> int:
    numbers, attempts = maker.plan.remaining(journal)
    _announce(maker.plan, len(numbers))
    predictor = CorpusPredictor(maker.writer.pipeline, maker.make, maker.write, journal, attempts, sizes["retries"])
    if len(numbers):
        trainer = _trainer(resolve_device(arguments.device).type, sizes, maker.folder)
        trainer.predict(predictor, CorpusData(maker.plan, numbers, sizes["batch_size"]), return_predictions=False)
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return 0
    return _report(journal.merge(maker.plan.all()), len(maker.plan), journal)


def _maker(arguments: argparse.Namespace, kind: str, batch_size: int) -> Maker:
    seeds = arguments.seeds or [arguments.seed or 0]
    check_seeds(seeds)
    if arguments.turntable is not None:
        check_turntable(arguments.turntable)
    placement, options = placement_of(arguments), mesh_options(arguments, kind in TEXTURED_FORMATS)
    find_generator(arguments.weights)
    plan = CorpusPlan(FilePrompts(arguments.prompts, on_error=arguments.on_error).snapshot(), seeds)
    resolve_device(arguments.device)
    pipeline = TextToMeshPipeline.from_pretrained(arguments.weights, "cpu", arguments.base)
    steps = pipeline.architecture.steps if arguments.steps is None else arguments.steps
    writer = MeshWriter(pipeline, options, placement, steps, overwrite=True)
    unroll_timesteps(steps, pipeline.parts.noise_schedule.num_timesteps)  # raises where K is out of range
    return Maker(plan, writer, Path(arguments.output).expanduser(), kind, arguments.turntable, batch_size)


def _sizes(arguments: argparse.Namespace) -> dict[str, int]:
    defaults = {"devices": (1, 1), "nodes": (1, 1), "retries": (1, 0), "batch_size": (4, 1)}
    sizes = {}
    for name, (default, least) in defaults.items():
        given = getattr(arguments, name)
        sizes[name] = default if given is None else given
        if sizes[name] < least:
            raise ConfigurationError(f"{name} must be at least {least}, got {given}")
    return sizes


def _format(arguments: argparse.Namespace) -> str:
    if arguments.format is not None and arguments.format not in FORMATS:
        raise ConfigurationError(f"unknown mesh format {arguments.format!r}; known: {', '.join(FORMATS)}")
    output = Path(arguments.output)
    if output.suffix.lower().removeprefix(".") in FORMATS and not output.is_dir():
        raise ConfigurationError(f"{output} is one file; name a folder for the meshes of a file of prompts with --output")
    return arguments.format or FORMATS[0]


@rank_zero_only
def _announce(plan: CorpusPlan, left: int) -> None:
    logger.info("%s of %s meshes are to be made", f"{left:,}", f"{len(plan):,}")
    if plan.repeated:
        logger.info("%s prompts of the file are repetitions; each is made once", f"{plan.repeated:,}")
    if plan.store.skipped_count:
        logger.warning("%d bad prompt entries were left out", plan.store.skipped_count)


def _trainer(device: str, sizes: dict[str, int], folder: Path) -> lightning.Trainer:
    """A trainer that only predicts: one process for each device, nothing logged, nothing saved."""
    warnings.filterwarnings("ignore", "predict returned None")  # meshes go to the disk, not into memory
    strategy: str | Strategy = "auto"
    if sizes["devices"] * sizes["nodes"] > 1:
        strategy = DDPStrategy(process_group_backend="nccl" if device == "cuda" else "gloo")
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=sizes["devices"],
        num_nodes=sizes["nodes"],
        strategy=strategy,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        inference_mode=False,
        default_root_dir=folder,
    )


def _report(failed: list[Entry], count: int, journal: Journal) -> int:
    """Lists what failed."""
    if not failed:
        return 0
    print(f"prd generate: {len(failed)} of {count} failed; the same command tries them again:", file=sys.stderr)
    for entry in failed[:MOST_LISTED]:
        print(f"  {entry.prompt!r} (seed {entry.seed}): {entry.error}", file=sys.stderr)
    if len(failed) > MOST_LISTED:
        print(f"  ... all are in {journal.path}", file=sys.stderr)
    return SOME_FAILED
