"""How does a small teacher learn fastest? The tiny normal-depth teacher is trained from nothing in several ways.

    python -m benchmarks.studies.denoiser --steps 200

It predicts the noise or the velocity, minimises the error of that or (weighed by sigma^2) of the clean maps, with AdamW or Muon.
All see the same renders, noise and timesteps. Printed is the mean squared error of the *clean* maps of held-out scenes by
timestep, which is what a generator learns from: what a predictor of the noise misses by is multiplied there by
sqrt((1 - abar) / abar), 14 at the last timestep.
"""

import argparse
import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from prd_lightning.diffusion import NoiseSchedule, PredictionType
from prd_lightning.teachers.multiview import install_joint_view_attention, richdreamer_camera_condition
from prd_lightning.text import PromptEncoder
from prd_lightning.tinyworld import models, weights_folder
from prd_lightning.tinyworld.card import TIMESTEPS
from prd_lightning.tinyworld.dataset import RenderedGroups, held_out_scenes, render_groups, training_scenes
from prd_lightning.tinyworld.grammar import describe
from prd_lightning.tinyworld.loops import Stage, train
from prd_lightning.tinyworld.training import VIEWS

BATCH_SIZE, LEARNING_RATE, MATRIX_LEARNING_RATE = 14, 1.2e-3, 0.02
AVERAGE_DECAY = 0.95
"""Short, since a trial is: the plan's 0.995 would remember the beginning of 200 steps."""
VARIANTS = {
    "noise": {"predicts": "epsilon"},
    "velocity": {"predicts": "v_prediction"},
    "velocity, error of clean maps": {"predicts": "v_prediction", "of_clean": True},
    "velocity, error of clean maps, Muon": {"predicts": "v_prediction", "of_clean": True, "muon": True},
}


def batch_of(groups: RenderedGroups, index: Tensor, text: PromptEncoder, draw: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """Maps [B * V, 4, 16, 16], tokens and camera numbers of the groups ``index``."""
    maps = groups.normal_disparity[index].float().permute(0, 1, 4, 2, 3).flatten(0, 1)
    tokens = text.encode([describe(groups.scenes[i], draw) for i in index.tolist()]).tokens
    return maps, tokens.repeat_interleave(VIEWS, dim=0), richdreamer_camera_condition(groups.cameras(index))


def train_variant(
    groups: RenderedGroups, steps: int, text: PromptEncoder, predicts: PredictionType, of_clean: bool = False, muon: bool = False
) -> tuple[nn.Module, NoiseSchedule]:
    """A network and its schedule after ``steps``; ``of_clean`` weighs the velocity's error by sigma^2."""
    torch.manual_seed(0)
    schedule = NoiseSchedule(models.build_scheduler().alphas_cumprod, prediction_type=predicts)
    unet = models.build_normal_depth_unet()
    install_joint_view_attention(unet, VIEWS)

    def loss_of_batch(generator: torch.Generator) -> Tensor:
        """Squared error at uniform timesteps."""
        index = torch.randint(len(groups.scenes), (BATCH_SIZE,), generator=generator)
        clean, tokens, cameras = batch_of(groups, index, text, random.Random(int(index.sum())))
        t = torch.randint(schedule.num_timesteps, (BATCH_SIZE,), generator=generator).repeat_interleave(VIEWS)
        noise = torch.randn(clean.shape, generator=generator)
        target = noise if predicts == "epsilon" else schedule.velocity(clean, noise, t)
        error = unet(schedule.add_noise(clean, noise, t), t, tokens, class_labels=cameras).sample - target
        return (schedule.levels(t, clean)[1] * error if of_clean else error).square().mean()

    stage = Stage(
        steps, BATCH_SIZE, LEARNING_RATE, AVERAGE_DECAY, matrix_learning_rate=MATRIX_LEARNING_RATE if muon else None
    )
    with TemporaryDirectory() as states:
        return train("variant", unet, loss_of_batch, stage, Path(states)), schedule


@torch.no_grad()
def errors(groups: RenderedGroups, unet: nn.Module, schedule: NoiseSchedule, text: PromptEncoder) -> dict[int, float]:
    """Mean squared error of the clean maps of ``groups`` by timestep."""
    clean, tokens, cameras = batch_of(groups, torch.arange(len(groups.scenes)), text, random.Random(0))
    generator, found = torch.Generator().manual_seed(0), {}
    for t in TIMESTEPS:
        noisy = schedule.add_noise(clean, torch.randn(clean.shape, generator=generator), t)
        noise = schedule.to_noise(unet(noisy, t, tokens, class_labels=cameras).sample, noisy, t)
        found[t] = round(functional.mse_loss(schedule.predict_clean(noisy, noise, t), clean).item(), 4)
    return found


def main() -> None:
    """Prints one line of JSON for each variant."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rings", type=int, default=8, help="of cameras for each pair of shape and colour (default 8)")
    parser.add_argument("--compositions", type=int, default=800, help="in the training data (default 800)")
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, metavar="NAME", help=f"of: {'; '.join(VARIANTS)} (default all)"
    )
    given = parser.parse_args()
    text = PromptEncoder.from_folder(weights_folder("richdreamer_nd"))
    with TemporaryDirectory() as folder:
        groups = render_groups(training_scenes(given.rings, given.compositions), Path(folder) / "training.safetensors")
        held_out = render_groups(held_out_scenes(), Path(folder) / "held_out.safetensors", seed=1)
    for name in given.variants or VARIANTS:
        found = errors(held_out, *train_variant(groups, given.steps, text, **VARIANTS[name]), text)
        print(json.dumps({"variant": name, "steps": given.steps, "clean_error": found}), flush=True)


if __name__ == "__main__":
    main()
