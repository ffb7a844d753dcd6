"""What is MVDream's own: pictures of all views with their cameras, an equal share for each view."""

import torch

from prd_lightning.cameras import turntable_cameras
from prd_lightning.teachers.latents import encode_rgb
from prd_lightning.teachers.multiview import mvdream_camera_condition


def test_the_input_is_the_latents_of_all_views_with_their_cameras(mvdream, make_maps, prompts, cameras):
    teacher, rgb = mvdream(), make_maps().rgb
    given = teacher.prepare([{"rgb": rgb}], prompts, cameras, None)
    torch.testing.assert_close(given.clean, encode_rgb(teacher.vae, rgb, 16))
    assert torch.equal(given.labels, mvdream_camera_condition(cameras))


def test_share_and_default_guidance(mvdream):
    assert mvdream().loss_share == 0.25
    assert tuple(mvdream().guidance_scale) == (0, 20.0, 10.0, 20_000)
    assert mvdream().time_shift.ratio == 0.0


def test_the_prediction_depends_on_the_cameras(mvdream, cameras):
    teacher = mvdream()
    noisy, t = torch.randn(8, 4, 8, 8), torch.full((8,), 600)
    tokens = teacher.prompt_encoder.encode(["a red cube", "a blue cone"]).tokens.repeat_interleave(4, dim=0)
    labels = mvdream_camera_condition(cameras)
    first = teacher.predict_noise(noisy, t, tokens, labels)
    assert not torch.allclose(first, teacher.predict_noise(noisy, t, tokens, labels.flip(0)), atol=1e-4)


def test_samples_are_pictures_and_depend_on_the_seed(mvdream):
    pictures = [mvdream().sample(["a red cube"], turntable_cameras(4), steps=2, seed=seed) for seed in (0, 0, 1)]
    assert pictures[0].shape == (4, 16, 16, 3)
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])
    assert pictures[0].min() >= 0 and pictures[0].max() <= 1
