"""Prompts of the tiny world: words, paraphrases, parsing, and the split into training and held-out concepts.

A concept is a (shape, colour) pair or a composition of two pairs. Held-out concepts appear neither in the training of the
teachers nor in that of the generator; every shape and every colour does, in other company.
"""

import random
import re
from collections.abc import Iterator
from itertools import product

from prd_lightning.errors import ConfigurationError, PromptError
from prd_lightning.tinyworld.shapes import ARRANGEMENTS, COLORS, PRIMITIVES, Scene

Concept = tuple[str, str]

SHAPE_SYNONYMS = {
    "sphere": ("sphere", "ball"),
    "cube": ("cube", "box"),
    "torus": ("torus", "donut", "ring"),
    "capsule": ("capsule", "pill"),
    "octahedron": ("octahedron", "diamond"),
    "disk": ("disk", "coin"),
    "dome": ("dome", "hemisphere"),
    "wedge": ("wedge", "ramp"),
    "cross": ("cross", "plus"),
}
COLOR_SYNONYMS = {"purple": ("purple", "violet"), "gray": ("gray", "grey"), "cyan": ("cyan", "turquoise")}

OBJECT_PHRASES = ("{color} {shape}", "{shape} in {color}", "{color} coloured {shape}", "{shape} that is {color}")
FRAMES = ("{}", "a 3d model of {}", "a render of {}", "an object: {}")
RELATION_PHRASES = {
    "on": ("{first} on {second}", "{first} on top of {second}", "{first} placed on {second}", "{second} under {first}"),
    "beside": (
        "{first} beside {second}",
        "{first} next to {second}",
        "{first} to the left of {second}",
        "{second} to the right of {first}",
    ),
}

_SHAPE_OF = {word: shape for shape in PRIMITIVES for word in SHAPE_SYNONYMS.get(shape, (shape,))}
_COLOR_OF = {word: color for color in COLORS for word in COLOR_SYNONYMS.get(color, (color,))}
_REVERSED_RELATIONS = {"under": "on", "right": "beside"}
_RELATION_OF = {"on": "on", "placed": "on", "beside": "beside", "next": "beside", "left": "beside", **_REVERSED_RELATIONS}


def is_held_out_pair(shape: str, color: str) -> bool:
    """Whether a (shape, colour) pair is held out: 24 of the 120, two of each shape's colours."""
    return (3 * list(PRIMITIVES).index(shape) + list(COLORS).index(color)) % 10 in (0, 5)


def is_held_out(scene: Scene) -> bool:
    """Whether a scene belongs to the held-out concepts: a held-out pair in it, or one composition in eight."""
    if any(is_held_out_pair(*concept) for concept in scene.concepts):
        return True
    if len(scene.parts) == 1:
        return False
    (shape_a, color_a), (shape_b, color_b) = scene.concepts
    shapes, colors = list(PRIMITIVES), list(COLORS)
    code = shapes.index(shape_a) + 5 * colors.index(color_a) + 3 * shapes.index(shape_b) + 7 * colors.index(color_b)
    return (code + 4 * ARRANGEMENTS.index(scene.arrangement)) % 8 == 0


def training_pairs() -> list[Concept]:
    """The 96 (shape, colour) pairs of the training split."""
    return [pair for pair in product(PRIMITIVES, COLORS) if not is_held_out_pair(*pair)]


def held_out_pairs() -> list[Concept]:
    """The 24 (shape, colour) pairs of the held-out split."""
    return [pair for pair in product(PRIMITIVES, COLORS) if is_held_out_pair(*pair)]


def held_out_compositions(count: int = 48, seed: int = 7) -> list[Scene]:
    """A fixed list of held-out compositions of trained pairs (the pairs are known, their company is not)."""
    draw, pairs, scenes = random.Random(seed), training_pairs(), []
    while len(scenes) < count:
        scene = _random_composition(draw, pairs)
        if is_held_out(scene) and scene not in scenes:
            scenes.append(scene)
    return scenes


def _random_composition(draw: random.Random, pairs: list[Concept]) -> Scene:
    first, second = draw.choice(pairs), draw.choice(pairs)
    while second == first:
        second = draw.choice(pairs)
    return Scene.composition(first, second, draw.choice(ARRANGEMENTS))


def random_training_scene(draw: random.Random, compositions: float) -> Scene:
    """A scene of the training split, a composition with probability ``compositions``."""
    pairs = training_pairs()
    if draw.random() >= compositions:
        return Scene.single(*draw.choice(pairs))
    while is_held_out(scene := _random_composition(draw, pairs)):
        pass
    return scene


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def describe(scene: Scene, draw: random.Random | None = None) -> str:
    """A prompt for a scene: the plain wording, or with ``draw`` a random paraphrase with synonyms."""

    def pick(options: tuple[str, ...]) -> str:
        return draw.choice(options) if draw else options[0]

    phrases = [
        _with_article(
            pick(OBJECT_PHRASES).format(
                color=pick(COLOR_SYNONYMS.get(color, (color,))), shape=pick(SHAPE_SYNONYMS.get(shape, (shape,)))
            )
        )
        for shape, color in scene.concepts
    ]
    if len(phrases) == 1:
        return pick(FRAMES).format(phrases[0])
    return pick(FRAMES).format(pick(RELATION_PHRASES[scene.arrangement]).format(first=phrases[0], second=phrases[1]))


def parse(prompt: str) -> Scene:
    """The scene that a prompt of the grammar describes.

    Raises:
        PromptError: the words do not name one or two coloured primitives in a known arrangement.
    """
    words = re.findall(r"[a-z0-9]+", prompt.lower())
    shapes = [(index, _SHAPE_OF[word]) for index, word in enumerate(words) if word in _SHAPE_OF]
    colors = [(index, _COLOR_OF[word]) for index, word in enumerate(words) if word in _COLOR_OF]
    if len(shapes) != len(colors) or not 1 <= len(shapes) <= 2:
        raise PromptError(
            f"{prompt!r} does not name one or two coloured primitives; "
            f"shapes: {', '.join(_SHAPE_OF)}; colours: {', '.join(_COLOR_OF)}"
        )
    concepts = [(shape, color) for (_, shape), (_, color) in zip(shapes, colors)]
    if len(concepts) == 1:
        return Scene.single(*concepts[0])
    start, end = max(shapes[0][0], colors[0][0]), min(shapes[1][0], colors[1][0])
    relation = next((word for word in words[start:end] if word in _RELATION_OF), None)
    if relation is None:
        raise PromptError(f"{prompt!r} names two objects but no arrangement; use one of: {', '.join(_RELATION_OF)}")
    first, second = reversed(concepts) if relation in _REVERSED_RELATIONS else concepts
    return Scene.composition(first, second, _RELATION_OF[relation])


def training_prompts() -> list[str]:
    """Plain prompts of the training pairs."""
    return [describe(Scene.single(*pair)) for pair in training_pairs()]


def held_out_pair_prompts() -> list[str]:
    """Plain prompts of the held-out pairs."""
    return [describe(Scene.single(*pair)) for pair in held_out_pairs()]


def prompt_stream(split: str = "train", compositions: float = 0.5, seed: int = 0) -> Iterator[str]:
    """An endless stream of paraphrased prompts of the training split, or one pass over the held-out prompts.

    Raises:
        ConfigurationError: unknown ``split``, or ``compositions`` outside [0, 1].
    """
    if split not in ("train", "held_out"):
        raise ConfigurationError(f"unknown split {split!r}; known: train, held_out")
    if not 0.0 <= compositions <= 1.0:
        raise ConfigurationError(f"compositions is a share between 0 and 1, got {compositions}")
    if split == "held_out":
        yield from held_out_pair_prompts()
        yield from (describe(scene) for scene in (held_out_compositions() if compositions else ()))
        return
    draw = random.Random(seed)
    while True:
        yield describe(random_training_scene(draw, compositions), draw)
