import random

import pytest
import torch

from prd_lightning.text import PromptEncoder
from prd_lightning.tinyworld import models
from prd_lightning.tinyworld.grammar import is_held_out, parse
from prd_lightning.tinyworld.rewording import PLACES, WORDS, build_reader, linear_reading, random_prompts, rewording_loss, spoken
from prd_lightning.tinyworld.shapes import Scene
from prd_lightning.weights import resolve_folder

CONE_ON_CUBE = Scene.composition(("cone", "red"), ("cube", "blue"), "on")


def said(scene: Scene, length: int) -> list[tuple[str, str]]:
    return [(WORDS[word], PLACES[place]) for word, place in zip(*(numbers.tolist() for numbers in spoken(scene, length)))]


def test_tokens_speak_of_shape_and_colour_of_each_part_in_turn() -> None:
    assert said(CONE_ON_CUBE, 5) == [("cone", "above"), ("red", "above"), ("cube", "below"), ("blue", "below"), ("cone", "above")]
    beside = Scene.composition(("cone", "red"), ("cube", "blue"), "beside")
    assert [place for _, place in said(beside, 4)] == ["left", "left", "right", "right"]
    assert said(Scene.single("torus", "pink"), 3) == [("torus", "alone"), ("pink", "alone"), ("torus", "alone")]


def test_prompts_are_of_training_scenes_and_half_of_them_name_a_view() -> None:
    scenes, prompts = random_prompts(random.Random(0), 400)
    assert not any(is_held_out(scene) for scene in scenes)
    assert [parse(prompt) for prompt in prompts] == scenes
    assert 150 < sum(prompt.endswith(models.VIEW_WORDS) for prompt in prompts) < 250


def test_the_loss_counts_the_tokens_from_the_end_mark_on() -> None:
    tokenizer = models.build_tokenizer()
    torch.manual_seed(0)
    text_model, reader = models.build_clip(tokenizer).text_model, build_reader()
    scenes, prompts = [CONE_ON_CUBE, Scene.single("torus", "pink")], ["a red cone on a blue cube", "a pink torus"]
    found = rewording_loss(text_model, tokenizer, reader, scenes, prompts)
    errors = {"word": [], "place": []}
    for scene, prompt in zip(scenes, prompts):
        hidden = text_model(tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids).last_hidden_state[0]
        word, place = reader(hidden).split((len(WORDS), len(PLACES)), dim=-1)
        end = len(prompt.split()) + 1
        for position, (word_said, place_said) in list(enumerate(said(scene, 77)))[end:]:
            errors["word"].append(-word[position].log_softmax(-1)[WORDS.index(word_said)])
            errors["place"].append(-place[position].log_softmax(-1)[PLACES.index(place_said)])
    torch.testing.assert_close(found, torch.stack(errors["word"]).mean() + torch.stack(errors["place"]).mean())


@pytest.mark.parametrize("name", ["text", "stable_diffusion", "mvdream", "richdreamer_nd"])
def test_linear_layers_read_held_out_scenes_from_the_shipped_tokens(name: str) -> None:
    """What the tiny diffusion models are conditioned on says clearly what their pictures are to show."""
    right, explained = linear_reading(PromptEncoder.from_folder(resolve_folder(f"tinyworld:{name}")))
    assert right > 0.99 and explained > 0.9
