"""What is Stable Diffusion's own: which views it looks at, and what it is told about them."""

import pytest
import torch

from prd_lightning.cameras import orbit_cameras
from prd_lightning.errors import ConfigurationError
from prd_lightning.teachers.latents import encode_rgb


def prepared(teacher, make_maps, prompts, cameras, seed: int, renderers: int = 2):
    """The teacher's input, and for each of its samples the number of the view it was made of."""
    rgb = [make_maps(renderer).rgb.detach() for renderer in range(renderers)]
    given = teacher.prepare([{"rgb": picture} for picture in rgb], prompts, cameras, torch.Generator().manual_seed(seed))
    latents = [encode_rgb(teacher.vae, picture, teacher.image_size) for picture in rgb]
    samples = given.clean.chunk(renderers)
    views = [
        [int((every - one).abs().flatten(1).amax(dim=1).argmin()) for one in chunk] for every, chunk in zip(latents, samples)
    ]
    for every, chunk, numbers in zip(latents, samples, views):
        torch.testing.assert_close(every[numbers], chunk, rtol=1e-4, atol=1e-4)
    return given, views


def test_one_random_view_of_each_prompt_and_the_opposite_one_for_the_second_renderer(
    stable_diffusion, make_maps, prompts, cameras
):
    seen = set()
    for seed in range(25):
        _, (first, second) = prepared(stable_diffusion(), make_maps, prompts, cameras, seed)
        assert [view // 4 for view in first] == [view // 4 for view in second] == [0, 1]
        assert [(view + 2) % 4 for view in first] == [view % 4 for view in second]
        seen.add(tuple(view % 4 for view in first))
    assert {view for view, _ in seen} == {view for _, view in seen} == {0, 1, 2, 3}
    assert len(seen) > 6, "prompts draw their views independently"


def test_several_views_are_evenly_spaced(stable_diffusion, make_maps, prompts, cameras):
    _, (first,) = prepared(stable_diffusion(views_scored=2), make_maps, prompts, cameras, 0, renderers=1)
    assert (first[1] - first[0]) % 4 == (first[3] - first[2]) % 4 == 2
    _, (every,) = prepared(stable_diffusion(views_scored=4), make_maps, prompts, cameras, 0, renderers=1)
    assert sorted(every) == list(range(8))


def test_views_are_named_in_the_prompt(stable_diffusion, make_maps, prompts):
    cameras = orbit_cameras(torch.zeros(8), torch.tensor([0.0, 90.0, 180.0, 270.0] * 2), torch.ones(8), torch.full((8,), 60.0))
    names = ["front", "side", "back", "side"]
    given, (first, second) = prepared(stable_diffusion(first_view_text=False), make_maps, prompts, cameras, 1)
    assert given.prompts == [f"{prompts[view // 4]}, {names[view % 4]} view" for view in first + second]
    given, (first, _) = prepared(stable_diffusion(), make_maps, prompts, cameras, 1)
    assert given.prompts == [f"{prompts[view // 4]}, {names[view % 4]} view" for view in first] * 2
    given, _ = prepared(stable_diffusion(view_template=None), make_maps, prompts, cameras, 1)
    assert given.prompts == prompts * 2


def test_a_high_camera_is_overhead(stable_diffusion):
    cameras = orbit_cameras(torch.tensor([75.0]), torch.zeros(1), torch.ones(1), torch.full((1,), 60.0))
    assert stable_diffusion().view_prompt("a cube", cameras, 0) == "a cube, overhead view"


def test_unseen_views_get_no_gradient(stable_diffusion, make_maps, prompts, cameras):
    maps = {"volume": make_maps()}
    result = stable_diffusion().map_gradients(maps, prompts, cameras, 0, torch.Generator().manual_seed(2))
    touched = result.gradients["volume"]["rgb"].flatten(1).any(dim=1)
    assert touched.view(2, 4).sum(dim=1).tolist() == [1, 1]


def test_every_picture_draws_its_own_time_and_the_loss_is_not_divided(stable_diffusion, make_maps, prompts, cameras):
    teacher = stable_diffusion(views_scored=4)
    assert teacher.loss_share == 1.0
    times = []
    predict = teacher.predict_noise
    teacher.predict_noise = lambda noisy, t, tokens, labels: times.append(t) or predict(noisy, t, tokens, labels)
    teacher.map_gradients({"volume": make_maps()}, prompts, cameras, 0, torch.Generator().manual_seed(0))
    assert len(set(times[0][:8].tolist())) > 4
    assert torch.equal(times[0][:8], times[0][8:])


def test_samples_are_pictures(stable_diffusion, cameras):
    pictures = stable_diffusion().sample(["a red cube", "a blue cone"], cameras, steps=2)
    assert pictures.shape == (8, 16, 16, 3) and torch.isfinite(pictures).all()


def test_mistakes_are_named(stable_diffusion, make_maps, prompts, cameras):
    with pytest.raises(ConfigurationError, match="at least 1, got 0"):
        stable_diffusion(views_scored=0)
    with pytest.raises(ConfigurationError, match="views_scored is 5 but only 4 views"):
        prepared(stable_diffusion(views_scored=5), make_maps, prompts, cameras, 0)
