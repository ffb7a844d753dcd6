"""Timesteps, DDIM steps and the unroll against the recorded sampler."""

import json
import re

import pytest
import torch

from prd_lightning.diffusion import NoiseSchedule, sample_unroll_timesteps, unroll_timesteps


@pytest.fixture
def recorded(golden):
    return golden("sampler_tiny")


@pytest.fixture
def schedule(recorded, tmp_path):
    (tmp_path / "scheduler_config.json").write_text(json.dumps(recorded.settings["scheduler_config"]))
    return NoiseSchedule.from_folder(tmp_path)


def predicted_noise(recorded, latents, t):
    """The stand-in network of the recording."""
    return torch.einsum("ij,bjhw->bihw", recorded.inputs["mix"], torch.tanh(latents)) * (0.5 + t / 1000)


def test_cumulative_alphas(recorded, schedule, close):
    close(schedule.alphas_cumprod, recorded.inputs["alphas_cumprod"], 1e-6)


def test_timesteps_of_every_recorded_number_of_steps(recorded):
    total = recorded.settings["scheduler_config"]["num_train_timesteps"]
    named = {key: value for key, value in recorded.settings["sampler"].items() if not key.endswith("_before_shift")}
    assert named
    for key, expected in named.items():
        assert unroll_timesteps(int(key.partition("_")[2]), total) == expected, key


def test_ddim_steps(recorded, schedule, close):
    steps = sum(key.startswith("ddim_step") and key.endswith("_x0") for key in recorded.outputs)
    latents, stride = recorded.inputs["x_T"], schedule.num_timesteps // steps
    for index, t in enumerate(unroll_timesteps(steps, schedule.num_timesteps)):
        noise = predicted_noise(recorded, latents, t)
        close(noise, recorded.outputs[f"ddim_step{index}_eps"], 1e-5)
        latents, clean = schedule.ddim_step(latents, noise, t, t - stride)
        close(latents, recorded.outputs[f"ddim_step{index}_prev"], 1e-5, f"sample after step {index}")
        close(clean, recorded.outputs[f"ddim_step{index}_x0"], 1e-5, f"estimate of step {index}")
    close(clean, recorded.outputs["ddim_final"], 1e-5)


def test_training_unroll_noises_the_last_estimate(recorded, schedule, close):
    noises, clean = recorded.inputs["train_noises"], recorded.inputs["x_T"]
    for index, t in enumerate(unroll_timesteps(len(noises), schedule.num_timesteps)):
        noisy = schedule.add_noise(clean, noises[index], t)
        close(noisy, recorded.outputs[f"train_step{index}_noisy"], 1e-5)
        clean = schedule.predict_clean(noisy, predicted_noise(recorded, noisy, t), t)
        close(clean, recorded.outputs[f"train_step{index}_x0"], 1e-5)


def entry_of(settings, pattern):
    """Name and value of the one setting whose name has that pattern."""
    (entry,) = ((key, value) for key, value in settings.items() if re.fullmatch(pattern, key))
    return entry


def test_strata_of_training_timesteps(recorded):
    settings, total = recorded.settings, recorded.settings["scheduler_config"]["num_train_timesteps"]
    whole = entry_of(settings, r"train_\d+steps_all")[1]
    assert unroll_timesteps(len(whole), total) == whole
    parts = entry_of(settings, r"train_\d+parts_\d+steps")[1]
    assert [[t] for t in sample_unroll_timesteps(len(parts), len(parts), total)] == parts
    ranges = entry_of(settings, r"train_\d+steps_\d+parts_ranges")[1]
    draws = [sample_unroll_timesteps(len(ranges), len(whole), total) for _ in range(400)]
    for stratum, (highest, lowest, count) in zip(zip(*draws), ranges):
        assert (max(stratum), min(stratum), len(set(stratum))) == (highest, lowest, count)


def test_one_seeded_draw(recorded):
    settings = recorded.settings
    name, expected = entry_of(settings, r"train_\d+steps_sample_seed\d+")
    substeps, seed = (int(number) for number in re.findall(r"\d+", name))
    drawn = sample_unroll_timesteps(len(expected), substeps, generator=torch.Generator().manual_seed(seed))
    assert [[t] for t in drawn] == expected
