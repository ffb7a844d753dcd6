"""The control of an evaluation in the tiny world: prompts in another order, whose agreement is chance."""

import pytest

from prd_lightning.evaluation import held_out_prompts
from prd_lightning.evaluation.tiny_world import shuffled_prompts
from prd_lightning.tinyworld.grammar import parse


def test_shuffled_prompts_agree_with_their_places_by_chance_alone():
    prompts = held_out_prompts()
    scenes = {prompt: parse(prompt) for prompt in prompts}
    same_shape = same_color = 0
    for seed in range(100):
        shuffled = shuffled_prompts(prompts, seed)
        assert sorted(shuffled) == sorted(prompts)
        for prompt, other in zip(prompts, shuffled):
            first, second = scenes[prompt].parts, scenes[other].parts
            assert len(first) == len(second)
            if len(first) == 1:
                same_shape += first[0].shape == second[0].shape
                same_color += first[0].color == second[0].color
    assert same_shape / 2400 == pytest.approx(1 / 12, abs=0.02)
    assert same_color / 2400 == pytest.approx(1 / 10, abs=0.02)


def test_a_seed_gives_its_order_again():
    prompts = held_out_prompts()
    assert shuffled_prompts(prompts, 3) == shuffled_prompts(prompts, 3) != shuffled_prompts(prompts, 4)
