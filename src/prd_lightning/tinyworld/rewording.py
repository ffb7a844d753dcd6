"""Rewording: a text tower learns to say behind the end of a prompt what there is, in plain words of its own order.

Contrastive training looks at one vector of a prompt and keeps of it what tells pictures apart. In the tiny world these are few
directions (an effective rank of 9 of 64), from which a linear layer reads half of the shapes, and whatever is conditioned on them
learns slowly. Here every token from the end mark on is asked for one word and for the place of its object. One word each, so that
a token has no use for the company in which the word was met: held-out pairs of shape and colour are encoded like known ones.
"""

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTokenizer

from prd_lightning.text import PromptEncoder
from prd_lightning.tinyworld.grammar import describe, held_out_compositions, held_out_pairs, random_training_scene
from prd_lightning.tinyworld.models import TEXT_WIDTH, VIEW_WORDS, tokenize
from prd_lightning.tinyworld.shapes import COLORS, PRIMITIVES, Scene

WORDS = (*PRIMITIVES, *COLORS)
PLACES = ("alone", "above", "below", "left", "right")
COMPOSITIONS, NAMES_VIEW = 0.7, 0.5


def build_reader() -> nn.Linear:
    """The layer that reads word and place from a token; it is of use in training alone."""
    return nn.Linear(TEXT_WIDTH, len(WORDS) + len(PLACES))


def places(scene: Scene) -> tuple[str, ...]:
    """Where each part of a scene is."""
    if len(scene.parts) == 1:
        return ("alone",)
    return ("above", "below") if scene.arrangement == "on" else ("left", "right")


def spoken(scene: Scene, length: int) -> tuple[Int[Tensor, " length"], Int[Tensor, " length"]]:
    """Numbers of the word and of the place that each of ``length`` tokens speaks of: shape and colour of every part in turn."""
    cycle = [
        (WORDS.index(word), PLACES.index(place))
        for part, place in zip(scene.parts, places(scene))
        for word in (part.shape, part.color)
    ]
    word, place = torch.tensor(cycle).repeat(length // len(cycle) + 1, 1)[:length].unbind(dim=1)
    return word, place


def random_prompts(draw: random.Random, count: int) -> tuple[list[Scene], list[str]]:
    """Random training scenes and paraphrases of them; half of these name a view."""
    scenes = [random_training_scene(draw, COMPOSITIONS) for _ in range(count)]
    views = [f", {draw.choice(VIEW_WORDS)}" if draw.random() < NAMES_VIEW else "" for _ in scenes]
    return scenes, [describe(scene, draw) + view for scene, view in zip(scenes, views)]


def rewording_loss(
    text_model: nn.Module, tokenizer: CLIPTokenizer, reader: nn.Linear, scenes: Sequence[Scene], prompts: list[str]
) -> Float[Tensor, ""]:
    """Cross-entropy of words and places at the tokens from the end mark of each prompt on."""
    padded = tokenize(tokenizer, prompts)
    read = reader(text_model(padded.to(reader.weight.device)).last_hidden_state)
    word, place = (torch.stack(rows).to(read.device) for rows in zip(*(spoken(scene, padded.shape[1]) for scene in scenes)))
    behind = (padded == tokenizer.pad_token_id).to(read.device)
    of_word, of_place = read[behind].split((len(WORDS), len(PLACES)), dim=-1)
    return functional.cross_entropy(of_word, word[behind]) + functional.cross_entropy(of_place, place[behind])


def linear_reading(encoder: PromptEncoder, scenes: int = 400, last: int = 8) -> tuple[float, float]:
    """How well a linear layer reads the words of held-out scenes from their last tokens.

    The layer is the least-squares fit to tokens of training scenes.

    Returns:
        The share of words read right, and the share of the variance of their indicators that is explained.
    """
    draw = random.Random(1)

    def tokens_and_words(prompted: Sequence[Scene]) -> tuple[Tensor, Tensor]:
        tokens = encoder.encode([describe(scene) for scene in prompted]).tokens
        words = torch.stack([spoken(scene, tokens.shape[1])[0][-last:] for scene in prompted])
        constant = torch.ones(len(prompted), last, 1)
        return torch.cat([tokens[:, -last:], constant], dim=-1).flatten(0, 1), words.flatten()

    def indicators(words: Tensor) -> Tensor:
        return functional.one_hot(words, len(WORDS)).float()

    known, words = tokens_and_words([random_training_scene(draw, COMPOSITIONS) for _ in range(scenes)])
    layer = torch.linalg.lstsq(known, indicators(words)).solution
    tokens, words = tokens_and_words([*(Scene.single(*pair) for pair in held_out_pairs()), *held_out_compositions()])
    read, true = tokens @ layer, indicators(words)
    unexplained = (read - true).square().sum() / (true - true.mean(dim=0)).square().sum()
    return (read.argmax(dim=1) == words).float().mean().item(), 1 - unexplained.item()
