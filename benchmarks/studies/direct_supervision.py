"""What can the tiny generator learn at all? It is trained on true distances and colours instead of a teacher's score.

    python -m benchmarks.studies.direct_supervision --steps 900
    python -m benchmarks.studies.direct_supervision --steps 900 --text embeddings

No renderer and no teacher stands between the generator and the truth, so what it does not learn here in some number of steps, it
does not learn from teachers either. With ``--text embeddings`` no text encoder does either: a table holds one vector for every
word and place. Prompts, latents, learning rate and scores are those of ``experiment=tiny``; nothing that ships is made this way.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from prd_lightning.architecture import Architecture, GeneratorParts
from prd_lightning.configuration import compose_config, plain
from prd_lightning.diffusion import unroll_timesteps
from prd_lightning.evaluation.tiny_world import evaluate_tiny_world, held_out_prompts
from prd_lightning.field import PreparedPlanes
from prd_lightning.generator import PLANES
from prd_lightning.sampling import sample_planes
from prd_lightning.text import TextEmbeddings
from prd_lightning.tinyworld.grammar import describe, parse, random_training_scene
from prd_lightning.tinyworld.rewording import PLACES, WORDS, spoken
from prd_lightning.tinyworld.shapes import Scene, scene_color, scene_distance, scene_normal

LAST_SHARE = 0.05
POINTS, NEAR, COLORED = 1024, 512, 200
"""Random points of a scene, those of them nearest to its surface that are looked at, and those whose colour is."""
HALF_SIDE, DISTANCE_WEIGHT = 0.85, 5.0


class EmbeddedScenes(nn.Module):
    """What a perfect text encoder could say: for each part of a scene two vectors, of its shape and its colour, with its place.

    Trained with the generator; it stands in for ``PromptEncoder`` and knows prompts of the grammar alone.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(len(WORDS), width), nn.Embedding(len(PLACES), width)

    def encode(self, prompts: Sequence[str]) -> TextEmbeddings:
        """[B, 4, width] tokens; a single object's are said twice."""
        words, places = (torch.stack(rows) for rows in zip(*(spoken(parse(prompt), 4) for prompt in prompts)))
        tokens = self.words(words) + self.places(places)
        return TextEmbeddings(tokens, tokens.mean(dim=1))


def estimate(parts: GeneratorParts, prompts: Sequence[str], generator: torch.Generator) -> PreparedPlanes:
    """Planes after one step from pure noise: what ``TriplaneGenerator.sample`` gives, with its graph."""
    schedule, (t,) = parts.noise_schedule, unroll_timesteps(1)
    noisy = torch.randn(PLANES * len(prompts), *parts.generator.latent_shape, generator=generator)
    noise = schedule.to_noise(parts.generator.predict(noisy, t, parts.prompt_encoder.encode(list(prompts)).tokens), noisy, t)
    return parts.field.prepare(parts.generator.decode(schedule.predict_clean(noisy, noise, t)))


def error(parts: GeneratorParts, planes: PreparedPlanes, scenes: Sequence[Scene], generator: torch.Generator) -> Tensor:
    """Mean absolute error of distances and colours near the surfaces."""
    points = HALF_SIDE * (2 * torch.rand(len(scenes), POINTS, 3, generator=generator) - 1)
    true = torch.stack([scene_distance(scene, some) for scene, some in zip(scenes, points)])
    nearest = true.abs().argsort(dim=1)[:, :NEAR]
    points, true = points.gather(1, nearest[..., None].expand(-1, -1, 3)), true.gather(1, nearest)
    surface = points[:, :COLORED]
    colors = torch.stack([scene_color(scene, some, scene_normal(scene, some)) for scene, some in zip(scenes, surface)])
    of_distance = (parts.field.sdf(planes, points) - true).abs().mean()
    return DISTANCE_WEIGHT * of_distance + (parts.field.color(planes, surface) - colors).abs().mean()


def train(
    steps: int,
    batch_size: int = 16,
    compositions: float = 0.6,
    text: str = "encoder",
    settings: Sequence[str] = (),
    seed: int = 0,
) -> GeneratorParts:
    """A generator after ``steps``, its learning rate falling to a twentieth; ``settings`` change the configuration."""
    chosen = compose_config(["experiment=tiny", *settings])
    torch.manual_seed(seed)
    parts = Architecture.from_dict(plain(chosen.generator)).build()
    if text == "embeddings":
        parts = replace(parts, prompt_encoder=EmbeddedScenes(parts.generator.text_width))
    networks = (parts.generator, parts.field, parts.prompt_encoder)
    trained = [value for network in networks for value in network.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=chosen.world.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, LAST_SHARE, steps)
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        scenes = [random_training_scene(draw, compositions) for _ in range(batch_size)]
        planes = estimate(parts, [describe(scene, draw) for scene in scenes], generator)
        optimizer.zero_grad()
        error(parts, planes, scenes, generator).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        decay.step()
    return parts


def main() -> None:
    """Prints the scores on the held-out prompts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--compositions", type=float, default=0.6, help="share of two-part scenes (default 0.6)")
    parser.add_argument("--text", choices=("encoder", "embeddings"), default="encoder", help="what tells the prompt")
    parser.add_argument("settings", nargs="*", help="changes of experiment=tiny, such as generator.rank=64")
    given = parser.parse_args()
    begun = time.process_time()
    parts = train(**vars(given))
    seconds = time.process_time() - begun
    scores = evaluate_tiny_world(parts.field, lambda *asked: sample_planes(parts, *asked, steps=1), held_out_prompts())
    found = {name: round(value, 3) for name, value in scores.summary().items()}
    print(json.dumps({**vars(given), "cpu_seconds": round(seconds), **found}), flush=True)


if __name__ == "__main__":
    main()
