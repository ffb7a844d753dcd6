"""Noise schedules: arithmetic against diffusers, timesteps, bad files."""

import json

import pytest
import torch
from diffusers import DDIMScheduler

from prd_lightning.diffusion import NoiseSchedule, sample_unroll_timesteps, unroll_timesteps
from prd_lightning.errors import CheckpointFormatError, ConfigurationError, MissingWeightsError

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture
def schedule():
    return NoiseSchedule(DDIMScheduler(**STABLE_DIFFUSION).alphas_cumprod)


def test_noise_and_clean_estimate_are_inverse(schedule):
    clean, noise = torch.randn(3, 4, 5, 5), torch.randn(3, 4, 5, 5)
    t = torch.tensor([3, 500, 900])
    noisy = schedule.add_noise(clean, noise, t)
    torch.testing.assert_close(noisy, DDIMScheduler(**STABLE_DIFFUSION).add_noise(clean, noise, t))
    torch.testing.assert_close(schedule.predict_clean(noisy, noise, t), clean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(schedule.predict_clean(noisy[1:2], noise[1:2], 500), clean[1:2], atol=1e-5, rtol=1e-5)


def test_the_velocity_of_noisy_samples_tells_their_noise(schedule):
    schedule.prediction_type = "v_prediction"
    clean, noise, t = torch.randn(3, 4, 5, 5), torch.randn(3, 4, 5, 5), torch.tensor([3, 500, 900])
    velocity = DDIMScheduler(**STABLE_DIFFUSION).get_velocity(clean, noise, t)
    torch.testing.assert_close(schedule.velocity(clean, noise, t), velocity)
    torch.testing.assert_close(schedule.to_noise(velocity, schedule.add_noise(clean, noise, t), t), noise, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_ddim_agrees_with_diffusers(tmp_path, set_alpha_to_one, prediction_type):
    config = STABLE_DIFFUSION | {"set_alpha_to_one": set_alpha_to_one, "clip_sample": False, "prediction_type": prediction_type}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    schedule, theirs = NoiseSchedule.from_folder(tmp_path), DDIMScheduler(**config, timestep_spacing="trailing")
    theirs.set_timesteps(5)
    latents = expected = torch.randn(2, 4, 8, 8)
    for t in unroll_timesteps(5):
        noise = schedule.to_noise(torch.sin(latents) * 0.5, latents, t)
        latents, clean = schedule.ddim_step(latents, noise, t, t - 200)
        step = theirs.step(torch.sin(expected) * 0.5, t, expected)
        expected = step.prev_sample
        torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(clean, step.pred_original_sample, atol=1e-4, rtol=1e-5)
    if set_alpha_to_one:
        torch.testing.assert_close(latents, clean)


def test_unroll_timesteps():
    assert unroll_timesteps(4) == [999, 749, 499, 249]
    assert unroll_timesteps(1) == [999]
    assert unroll_timesteps(4, 8) == [7, 5, 3, 1]


@pytest.mark.parametrize("steps", [0, 1001])
def test_number_of_steps_out_of_range(steps):
    with pytest.raises(ConfigurationError, match=str(steps)):
        unroll_timesteps(steps)


def test_one_timestep_of_each_stratum():
    draws = torch.tensor([sample_unroll_timesteps(3, 10) for _ in range(300)])
    every = unroll_timesteps(10)
    for stratum in range(3):
        assert set(draws[:, stratum].tolist()) == set(every[3 * stratum : 3 * stratum + 3])
    assert (draws.diff(dim=1) < 0).all(), "timesteps decrease"
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    first, second = (sample_unroll_timesteps(4, 40, generator=generator) for generator in generators)
    assert first == second


def test_one_substep_for_each_step_leaves_nothing_to_chance():
    state = torch.get_rng_state()
    assert sample_unroll_timesteps(4, 4) == unroll_timesteps(4)
    assert torch.equal(torch.get_rng_state(), state)


def test_fewer_substeps_than_steps():
    with pytest.raises(ConfigurationError, match="num_train_substeps"):
        sample_unroll_timesteps(4, 3)


def test_schedule_folders(tmp_path):
    with pytest.raises(MissingWeightsError, match="scheduler_config.json"):
        NoiseSchedule.from_folder(tmp_path)
    path = tmp_path / "scheduler_config.json"
    path.write_text("{")
    with pytest.raises(CheckpointFormatError, match="JSON"):
        NoiseSchedule.from_folder(tmp_path)
    path.write_text(json.dumps({"prediction_type": "sample"}))
    with pytest.raises(CheckpointFormatError, match="'sample'"):
        NoiseSchedule.from_folder(tmp_path)


def test_levels_broadcast_and_follow_the_sample(schedule):
    signal, sigma = schedule.levels(torch.tensor([0, 999]), torch.zeros(2, 3, 4, dtype=torch.float64))
    assert signal.shape == (2, 1, 1) and signal.dtype == torch.float64
    torch.testing.assert_close(signal.square() + sigma.square(), torch.ones_like(signal))
    assert signal[0] > 0.99 and signal[1] < 0.1
