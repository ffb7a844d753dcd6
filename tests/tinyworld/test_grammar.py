"""Prompts and scenes: every paraphrase is understood, and the split of concepts is fixed."""

import itertools
import random

import pytest

from prd_lightning.errors import ConfigurationError, PromptError
from prd_lightning.tinyworld import grammar
from prd_lightning.tinyworld.shapes import ARRANGEMENTS, COLORS, PRIMITIVES, Scene


class Every(random.Random):
    """Draws a given choice each time."""

    def __init__(self, index: int) -> None:
        super().__init__(0)
        self.index = index

    def choice(self, options):
        return options[self.index % len(options)]


@pytest.mark.parametrize("wording", range(12))
def test_every_wording_of_every_pair_is_understood(wording: int):
    for pair in itertools.product(PRIMITIVES, COLORS):
        scene = Scene.single(*pair)
        assert grammar.parse(grammar.describe(scene, Every(wording))) == scene


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_every_wording_of_compositions_is_understood(arrangement: str):
    for frame, relation, phrase in itertools.product(
        grammar.FRAMES, grammar.RELATION_PHRASES[arrangement], grammar.OBJECT_PHRASES
    ):
        for first, second in ((("cone", "red"), ("octahedron", "orange")), (("cross", "gray"), ("cross", "cyan"))):
            parts = [f"a {phrase.format(color=color, shape=shape)}" for shape, color in (first, second)]
            prompt = frame.format(relation.format(first=parts[0], second=parts[1]))
            assert grammar.parse(prompt) == Scene.composition(first, second, arrangement), prompt


def test_random_paraphrases_are_understood():
    draw = random.Random(0)
    for _ in range(1500):
        scene = grammar.random_training_scene(draw, 0.7)
        assert grammar.parse(grammar.describe(scene, draw)) == scene


def test_the_split_is_disjoint_complete_and_fair():
    train, held_out = grammar.training_pairs(), grammar.held_out_pairs()
    assert (len(train), len(held_out)) == (96, 24)
    assert not set(train) & set(held_out) and set(train) | set(held_out) == set(itertools.product(PRIMITIVES, COLORS))
    for pairs, index, names in ((train, 0, PRIMITIVES), (train, 1, COLORS), (held_out, 0, PRIMITIVES)):
        assert {pair[index] for pair in pairs} == set(names)
    assert grammar.held_out_pairs() == held_out


def test_held_out_compositions_are_fixed_and_of_trained_pairs():
    scenes = grammar.held_out_compositions()
    assert scenes == grammar.held_out_compositions() and len(set(scenes)) == 48
    assert all(grammar.is_held_out(scene) for scene in scenes)
    assert not any(grammar.is_held_out_pair(*concept) for scene in scenes for concept in scene.concepts)


def test_training_scenes_are_never_held_out():
    draw = random.Random(1)
    assert not any(grammar.is_held_out(grammar.random_training_scene(draw, 0.8)) for _ in range(2000))


@pytest.mark.parametrize(
    "prompt", ["a teapot", "a red thing", "cube", "a red cube a blue cone", "red cube on blue cone on pink disk", ""]
)
def test_what_is_not_understood_is_refused(prompt: str):
    with pytest.raises(PromptError):
        grammar.parse(prompt)


def test_the_share_of_compositions():
    prompts = list(itertools.islice(grammar.prompt_stream(compositions=0.25), 2000))
    share = sum(len(grammar.parse(prompt).parts) == 2 for prompt in prompts) / 2000
    assert 0.2 < share < 0.3
    with pytest.raises(ConfigurationError, match="share between 0 and 1, got 2"):
        next(grammar.prompt_stream(compositions=2))
