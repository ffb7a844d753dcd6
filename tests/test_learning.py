"""The whole learning thread with a teacher whose score is exact: the object takes the shape that the prompt names."""

from functools import partial

import lightning
import pytest
import torch

from prd_lightning.architecture import Architecture
from prd_lightning.data import ListPrompts, PromptDataModule
from prd_lightning.module import PRDModule
from prd_lightning.rendering import VolumeRenderer
from prd_lightning.tinyworld.evaluation import grid_points, intersection_over_union
from prd_lightning.tinyworld.grammar import parse
from prd_lightning.tinyworld.oracle import OracleTeacher
from prd_lightning.tinyworld.shapes import scene_distance

PROMPT = "a blue capsule"
STEPS, UNROLL_STEPS = 70, 2
START_AT_MOST, END_AT_LEAST = 0.5, 0.65
"""Measured: 0.43 before training (a sphere), 0.84 and 0.85 after it with seeds 0 and 1."""


def mean_iou(module: PRDModule) -> float:
    """IoU with the true capsule, over four noises that were not trained on."""
    points = grid_points(32)
    truth = scene_distance(parse(PROMPT), points) < 0
    with torch.no_grad():
        planes = [module.generate([PROMPT], [seed]) for seed in (100, 101, 102, 103)]
        scores = [intersection_over_union(module.field.sdf(each, points[None])[0] < 0, truth) for each in planes]
    return sum(scores) / len(scores)


@pytest.mark.slow
def test_the_shape_is_learned_from_an_exact_teacher():
    lightning.seed_everything(1, verbose=False)
    module = PRDModule(
        Architecture("tinyworld:stable_diffusion", plane_channels=16, rank=8, latent_size=8, hidden=32, compute="merged"),
        {
            "volume": VolumeRenderer(
                14,
                None,
                proposal_samples=16,
                fine_samples=16,
                bounding_radius=1.0,
                color_samples=3,
                inverse_standard_deviation=40.0,
            )
        },
        {"oracle": OracleTeacher(renderers=("volume",))},
        partial(torch.optim.AdamW, lr=3e-3, betas=(0.9, 0.98)),
        unroll_steps=UNROLL_STEPS,
        eikonal_weight=0.05,
        sparsity_weight=0.0,
    )
    start = mean_iou(module.eval())
    assert start < START_AT_MOST
    trainer = lightning.Trainer(
        max_steps=STEPS,
        accumulate_grad_batches=UNROLL_STEPS,
        gradient_clip_val=1.0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module.train(), PromptDataModule(ListPrompts([PROMPT]), batch_size=1, unroll_steps=UNROLL_STEPS, seed=1))
    assert mean_iou(module.eval()) > END_AT_LEAST
    assert module.skipped_steps == 0
