"""Prompts to meshes: the inference path, in the manner of a diffusers pipeline.

    pipeline = TextToMeshPipeline.from_pretrained("tiny")
    mesh = pipeline("a red cone on a blue cube", seed=0).meshes[0]
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from prd_lightning.architecture import Architecture, GeneratorParts
from prd_lightning.checkpoints import GENERATOR_FILE
from prd_lightning.diffusion import unroll_timesteps
from prd_lightning.errors import ConfigurationError, EmptyMeshError, MissingWeightsError, NonFiniteError, PRDError
from prd_lightning.field import PreparedPlanes
from prd_lightning.formats.published import PUBLISHED, find_published, read_generator
from prd_lightning.mesh import MakingReport, Mesh, MeshOptions, make_mesh
from prd_lightning.sampling import check_prompts, check_seeds, sample_planes
from prd_lightning.tinyworld import weights_root
from prd_lightning.weights import SHIPPED_PREFIX

logger = logging.getLogger(__name__)

SHIPPED = ("tiny", f"{SHIPPED_PREFIX}generator")
PLACES = (".", "last", "checkpoints/last")
"""Where a checkpoint folder, a folder of checkpoints and a run's folder hold the generator file."""


@dataclass(frozen=True)
class GeneratedMesh:
    """What became of one prompt.

    Attributes:
        prompt, seed: what was asked for.
        mesh: None if the prompt failed.
        error: why it failed, None if it did not.
        seconds: its share of the batch's denoising plus its own extraction, clean-up and texture.
        report: what was mended, how many faces were reached, what became of the texture; None if the prompt failed.
    """

    prompt: str
    seed: int
    mesh: Mesh | None
    error: PRDError | None
    seconds: float
    report: MakingReport | None = None


@dataclass(frozen=True)
class TextToMeshOutput:
    """One item for each prompt, in the order of the prompts."""

    items: list[GeneratedMesh]

    @property
    def meshes(self) -> list[Mesh | None]:
        """Meshes, None for a prompt that failed."""
        return [item.mesh for item in self.items]

    @property
    def errors(self) -> list[PRDError | None]:
        """What went wrong, None where nothing did."""
        return [item.error for item in self.items]

    @property
    def prompts(self) -> list[str]:
        """The prompts."""
        return [item.prompt for item in self.items]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the first noise."""
        return [item.seed for item in self.items]

    @property
    def seconds(self) -> list[float]:
        """Time that each mesh took."""
        return [item.seconds for item in self.items]


class TextToMeshPipeline:
    """A trained generator with its adapters folded away, ready to make meshes.

    Args:
        parts: a generator with its field, text encoder and noise schedule.
        architecture: that ``parts`` were built from.
        weights_path: generator file that was loaded.
        weights_hash: SHA-256 of that file.
    """

    def __init__(self, parts: GeneratorParts, architecture: Architecture, weights_path: Path, weights_hash: str) -> None:
        self.parts, self.architecture = parts, architecture
        self.weights_path, self.weights_hash = weights_path, weights_hash
        parts.generator.fold().eval()
        parts.field.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(
        cls, location: str | Path = "tiny", device: str | torch.device | None = None, base: str | Path | None = None
    ) -> "TextToMeshPipeline":
        """Loads a trained generator.

        Args:
            location: ``tiny`` for the generator that ships with the package; ``triplaneturbo`` for the authors' among the
                downloaded weights; a ``generator.safetensors``, or the authors' file as it is; a checkpoint's folder; or a run's
                folder, whose last checkpoint is taken.
            device: where to run; None for the GPU if there is one.
            base: folder of the Stable Diffusion that the generator adapts, where it is not the one that its file names.

        Raises:
            MissingWeightsError: nothing is there, or the base model is missing.
            CheckpointFormatError: the file is damaged, foreign, or its tensors do not fit its own architecture.
            ConfigurationError: there is no such device.
        """
        device = resolve_device(device)
        path = find_generator(location)
        tensors, header = read_generator(path, base)
        architecture = Architecture.from_dict(header)
        parts = architecture.build()
        parts.load(tensors)
        logger.info("generator: %s (base %s, rank %d) on %s", path, architecture.base, architecture.rank, device)
        return cls(parts, architecture, path, hashlib.sha256(path.read_bytes()).hexdigest()).to(device)

    @property
    def device(self) -> torch.device:
        """Where the pipeline runs."""
        return next(self.parts.field.parameters()).device

    def to(self, device: str | torch.device) -> "TextToMeshPipeline":
        """Moves the pipeline, in place.

        Raises:
            ConfigurationError: there is no such device.
        """
        device = resolve_device(device)
        for part in (self.parts.generator, self.parts.field, self.parts.prompt_encoder):
            part.to(device)
        return self

    def __call__(
        self,
        prompts: str | Sequence[str],
        seeds: Sequence[int] | None = None,
        seed: int = 0,
        steps: int | None = None,
        resolution: int | None = None,
        batch_size: int = 4,
        target_faces: int | None = None,
        options: MeshOptions | None = None,
    ) -> TextToMeshOutput:
        """Meshes of the prompts. A prompt that fails has no mesh but an error; the others are not touched by it.

        Args:
            prompts: one or several.
            seeds: one for each prompt; a mesh depends on its prompt and seed, not on its company.
            seed: of all prompts, where ``seeds`` is not given.
            steps: DDIM steps; None for as many as the generator was trained for.
            resolution: cells of the iso-surface grid along each axis; short for the same of ``options``.
            batch_size: prompts that are denoised together.
            target_faces: largest number of faces wished for; short for the same of ``options``.
            options: how meshes are made: clean-up, texture, ...; the default is a surface with colours at its vertices.

        Raises:
            PromptError: a prompt is blank.
            ConfigurationError: a number is out of range. Both are found before any work is done.
        """
        short = {"resolution": resolution, "target_faces": target_faces}
        options = replace(options or MeshOptions(), **{name: value for name, value in short.items() if value is not None})
        chosen = [prompts] if isinstance(prompts, str) else list(prompts)
        chosen_seeds = [seed] * len(chosen) if seeds is None else list(seeds)
        return TextToMeshOutput(list(self.stream(chosen, chosen_seeds, options, batch_size, steps)))

    def stream(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        options: MeshOptions | None = None,
        batch_size: int = 4,
        steps: int | None = None,
    ) -> Iterator[GeneratedMesh]:
        """As ``__call__``, one mesh at a time, so that any number of prompts fits in memory. Arguments are checked at once."""
        check_prompts(prompts)
        check_seeds(seeds)
        if len(seeds) != len(prompts):
            raise ConfigurationError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
        if batch_size < 1:
            raise ConfigurationError(f"batch_size must be at least 1, got {batch_size}")
        steps = self.architecture.steps if steps is None else steps
        unroll_timesteps(steps, self.parts.noise_schedule.num_timesteps)
        return self._stream(prompts, seeds, options or MeshOptions(), batch_size, steps)

    def _stream(
        self, prompts: Sequence[str], seeds: Sequence[int], options: MeshOptions, batch_size: int, steps: int
    ) -> Iterator[GeneratedMesh]:
        for start in range(0, len(prompts), batch_size):
            window = slice(start, start + batch_size)
            begun = time.perf_counter()
            planes = sample_planes(self.parts, prompts[window], seeds[window], steps)
            share = (time.perf_counter() - begun) / planes.batch
            for index, (prompt, seed) in enumerate(zip(prompts[window], seeds[window])):
                yield self._mesh(prompt, seed, planes.item(index), options, share)

    def _mesh(self, prompt: str, seed: int, planes: PreparedPlanes, options: MeshOptions, share: float) -> GeneratedMesh:
        begun, mesh, report, failure = time.perf_counter(), None, None, None
        try:
            mesh, report = make_mesh(self.parts.field, planes, options)
        except (EmptyMeshError, NonFiniteError) as error:
            failure = error
            logger.warning("no mesh of %r (seed %d): %s", prompt, seed, error)
        return GeneratedMesh(prompt, seed, mesh, failure, share + time.perf_counter() - begun, report)


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; None is the GPU if there is one.

    Raises:
        ConfigurationError: the name is unknown, or the device is not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"there is no device {str(device)!r} here ({reason}); 'cpu' always works") from error
    return chosen


def find_generator(location: str | Path) -> Path:
    """The generator file of a location, see ``TextToMeshPipeline.from_pretrained``.

    Raises:
        MissingWeightsError: there is none; the message says how to get one.
    """
    if str(location) in SHIPPED:
        path = weights_root() / "generator" / GENERATOR_FILE
        if not path.is_file():
            raise MissingWeightsError(
                f"the tiny generator that ships with the package is not there ({path}); train one with "
                "`make train TEACHER=richdreamer` and name its run folder (--weights RUN)"
            )
        return path
    if str(location) == PUBLISHED and not Path(PUBLISHED).exists():
        return find_published()
    path = Path(location).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise MissingWeightsError(
            f"there is no file or folder {path}; name a {GENERATOR_FILE}, a checkpoint's folder, a run's folder, 'tiny', or "
            f"'{PUBLISHED}'"
        )
    candidates = [path / place / GENERATOR_FILE for place in PLACES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise MissingWeightsError(f"no generator in {path}; looked for {', '.join(map(str, candidates))}")
