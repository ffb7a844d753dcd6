"""Scores of a generator on the held-out prompts of the tiny world."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from prd_lightning.errors import ConfigurationError, PromptError
from prd_lightning.field import PreparedPlanes, TriplaneField
from prd_lightning.rendering import MeshRenderer, WhiteBackground
from prd_lightning.sampling import check_seeds
from prd_lightning.tinyworld.evaluation import GeneratedObject, Matcher, TinyWorldScores, matcher_cameras, score_objects
from prd_lightning.tinyworld.grammar import parse, prompt_stream

PICTURE_SIZE = 128
SURFACE_RESOLUTION = 64


def held_out_prompts(compositions: bool = True) -> list[str]:
    """The fixed held-out prompts: 24 single objects, and with ``compositions`` 48 of two parts."""
    return list(prompt_stream("held_out", compositions=float(compositions)))


@torch.no_grad()
def evaluate_tiny_world(
    field: TriplaneField,
    generate: Callable[[list[str], list[int]], PreparedPlanes],
    prompts: Sequence[str],
    seeds: Sequence[int] = (0,),
    resolution: int = SURFACE_RESOLUTION,
    shuffle: bool = False,
) -> TinyWorldScores:
    """Generates every prompt with every seed, renders its mesh and compares it with the object that the prompt describes.

    Args:
        field: turns planes into distances and colours.
        generate: prompts and seeds to planes.
        prompts: of the tiny world's grammar.
        seeds: of the first noise, the same for all prompts.
        resolution: cells of the iso-surface grid.
        shuffle: a control: the objects are scored against the prompts in another order, drawn for each seed among single
            objects and among compositions. Scores are those of chance then.

    Raises:
        PromptError: there is no prompt, one is not of the grammar, or a single one is to be shuffled.
        ConfigurationError: there is no seed, or one is out of range.
    """
    if not len(seeds):
        raise ConfigurationError("an evaluation needs at least one seed, got none")
    least = 2 if shuffle else 1
    if len(prompts) < least:
        kind = "shuffled control" if shuffle else "evaluation"
        raise PromptError(f"the {kind} needs at least {least} prompts, got {len(prompts)}")
    check_seeds(seeds)
    for prompt in prompts:
        parse(prompt)
    renderer = MeshRenderer(resolution, PICTURE_SIZE, depth="ray").to(next(field.parameters()).device)
    matcher, rows = Matcher(), []
    for seed in dict.fromkeys(seeds):
        asked = shuffled_prompts(prompts, seed) if shuffle else list(prompts)
        rows += score_objects(asked, _generated(field, generate, renderer, prompts, seed), matcher, seed)
    return TinyWorldScores.from_rows(rows)


def shuffled_prompts(prompts: Sequence[str], seed: int) -> list[str]:
    """Single objects and compositions in another order each, drawn uniformly, so that a prompt may keep its place.

    A fixed rule such as "the next prompt" would be no control: neighbours in a list have more in common than chance.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = list(prompts)
    for parts in (1, 2):
        places = [place for place, prompt in enumerate(prompts) if len(parse(prompt).parts) == parts]
        order = torch.randperm(len(places), generator=generator).tolist()
        for place, other in zip(places, order):
            shuffled[place] = prompts[places[other]]
    return shuffled


def _generated(
    field: TriplaneField,
    generate: Callable[[list[str], list[int]], PreparedPlanes],
    renderer: MeshRenderer,
    prompts: Sequence[str],
    seed: int,
) -> Iterator[GeneratedObject]:
    cameras, background = matcher_cameras().to(renderer.grid.device), WhiteBackground()
    for prompt in prompts:
        planes = generate([prompt], [seed])
        maps = renderer(field, planes, cameras, background)
        yield GeneratedObject(partial(_distance, field, planes), maps.rgb.cpu(), maps.opacity.cpu(), maps.depth.cpu())


def _distance(field: TriplaneField, planes: PreparedPlanes, points: torch.Tensor) -> torch.Tensor:
    return field.sdf(planes, points.to(planes.geometry)[None])[0].cpu()
