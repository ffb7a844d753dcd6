"""Scores of a generator on the held-out prompts of the tiny world."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from prd_lightning.field import PreparedPlanes, TriplaneField
from prd_lightning.rendering import MeshRenderer, WhiteBackground
from prd_lightning.tinyworld.evaluation import GeneratedObject, Matcher, TinyWorldScores, matcher_cameras, score_objects
from prd_lightning.tinyworld.grammar import prompt_stream

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
    seed: int = 0,
    resolution: int = SURFACE_RESOLUTION,
    shuffle: bool = False,
) -> TinyWorldScores:
    """Generates every prompt, renders its mesh and compares it with the object that the prompt describes.

    Args:
        field: turns planes into distances and colours.
        generate: prompts and seeds to planes.
        prompts: of the tiny world's grammar.
        seed: of the first noise, the same for all prompts.
        resolution: cells of the iso-surface grid.
        shuffle: a control: every object is scored against the next prompt.

    Raises:
        PromptError: a prompt is not of the grammar.
    """
    device = next(field.parameters()).device
    renderer = MeshRenderer(resolution, PICTURE_SIZE).to(device)
    cameras, background = matcher_cameras().to(device), WhiteBackground()
    objects = []
    for prompt in prompts:
        planes = generate([prompt], [seed])
        maps = renderer(field, planes, cameras, background)
        objects.append(GeneratedObject(partial(_distance, field, planes), maps.rgb.cpu(), maps.opacity.cpu()))
    asked = [*prompts[1:], prompts[0]] if shuffle else prompts
    return score_objects(asked, objects, Matcher())


def _distance(field: TriplaneField, planes: PreparedPlanes, points: torch.Tensor) -> torch.Tensor:
    return field.sdf(planes, points.to(planes.geometry)[None])[0].cpu()
