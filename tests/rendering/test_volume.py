"""The volume renderer: a sphere in closed form, the whole renderer's gradient, pasting, the bounding ball."""

import math

import pytest
import torch

from prd_lightning.cameras import Cameras, orbit_cameras, turntable_cameras
from prd_lightning.draws import PromptDraws
from prd_lightning.errors import ConfigurationError
from prd_lightning.field import TriplaneField
from prd_lightning.losses import eikonal
from prd_lightning.rendering import VolumeRenderer, WhiteBackground

WHITE = WhiteBackground()


def sphere_scene(scenes=1, dtype=torch.float32):
    """A field without planes: the sphere of radius 0.5, grey."""
    field = TriplaneField(channels=2, hidden=4).to(dtype)
    return field, TriplaneField.prepare(torch.zeros(scenes, 6, 2, 4, 4, dtype=dtype))


def random_scene(scenes=1, dtype=torch.float64, scale=0.3):
    field = TriplaneField(channels=2, hidden=6).to(dtype)
    return field, (scale * torch.randn(scenes, 6, 2, 4, 4, dtype=dtype)).requires_grad_()


def double_cameras(views=2):
    ones = torch.ones(views, dtype=torch.float64)
    return orbit_cameras(15 * ones, torch.arange(views, dtype=torch.float64) * 77, 2.0 * ones, 50 * ones)


def test_sphere_in_closed_form():
    cameras, size = turntable_cameras(2), 32
    renderer = VolumeRenderer(size, None, proposal_samples=64, fine_samples=64).eval()
    with torch.no_grad():
        maps = renderer(*sphere_scene(), cameras, WHITE)
    origins, directions = cameras.rays(size, size)
    closest = -(origins * directions).sum(-1)
    miss = (origins + closest[..., None] * directions).norm(dim=-1)
    hit = closest - (0.25 - miss.square()).clamp_min(0).sqrt()
    inside, outside = miss < 0.45, miss > 0.55
    opacity = maps.opacity[..., 0]
    assert opacity[inside].min() > 0.98 and opacity[outside].max() < 0.02
    torch.testing.assert_close(maps.depth[..., 0][inside], hit[inside], atol=0.02, rtol=0)
    normal = torch.nn.functional.normalize(origins + hit[..., None] * directions, dim=-1)
    assert ((maps.normal_world * normal).sum(-1)[inside] > 0.995).all()
    # Networks of zeros: sigmoid(0) = 1/2 everywhere on the surface, white beside it.
    torch.testing.assert_close(maps.rgb[inside], torch.full_like(maps.rgb[inside], 0.5), atol=0.02, rtol=0)
    assert maps.rgb[outside].min() > 0.98
    assert maps.normal_camera[:, size // 2, size // 2, 2].min() > 0.99, "the middle faces the camera"
    torch.testing.assert_close(maps.sdf_gradient.norm(dim=-1), torch.ones(maps.sdf_gradient.shape[:2]))


class FixedSections(VolumeRenderer):
    """Sections do not follow the field, as the gradient assumes: finite differences then measure the same thing."""

    def _proposal(self, field, prepared, rays):
        share = torch.linspace(0, 1, self.fine_samples + 1, dtype=rays.near.dtype)
        return rays.near[..., None] + (rays.far - rays.near)[..., None] * share, torch.zeros_like(rays.near)


@pytest.mark.parametrize("color_samples", [None, 4])
def test_gradient_of_the_whole_renderer(color_samples):
    """Planes to every map, by gradcheck in float64; the sharpness is lowered so that the differences are smooth."""
    field, planes = random_scene()
    renderer = FixedSections(
        4, None, fine_samples=12, near=0.8, far=3.2, inverse_standard_deviation=8.0, color_samples=color_samples
    )
    cameras = double_cameras()

    def maps(planes):
        maps = renderer(field, field.prepare(planes), cameras, WHITE)
        return maps.rgb, maps.opacity, maps.depth, maps.disparity, maps.normal_world, maps.normal_camera, maps.sdf_gradient

    assert maps(planes)[1].std() > 0.01
    assert torch.autograd.gradcheck(maps, planes, fast_mode=True, atol=1e-6)


def test_gradient_reaches_every_network_and_plane():
    field, planes = random_scene(dtype=torch.float32)
    renderer = VolumeRenderer(16, None, proposal_samples=24, fine_samples=24).train()
    maps = renderer(field, field.prepare(planes), turntable_cameras(3), WHITE)
    (maps.rgb.square().mean() + maps.normal_camera.mean() + (maps.sdf_gradient.norm(dim=-1) - 1).square().mean()).backward()
    assert (planes.grad.abs().sum(dim=(2, 3, 4)) > 0).all()
    for name in ("sdf_network", "texture_network"):
        assert all(parameter.grad.abs().sum() > 0 for parameter in getattr(field, name).parameters()), name
    assert all(torch.isfinite(parameter.grad).all() for parameter in field.sdf_network.parameters())


def test_colour_gradient_follows_its_schedule():
    """Texture planes get the scheduled factor; what a picture looks like, and the geometry's gradient, stay."""
    gradients, pictures = [], []
    field, planes = random_scene()
    for scale, step in ((1.0, 0), ([0, 1.0, 0.2, 100], 50)):
        renderer = VolumeRenderer(4, None, proposal_samples=8, fine_samples=8, stratified=False, color_gradient_scale=scale)
        maps = renderer.double().train()(field, field.prepare(planes), double_cameras(1), WHITE, step)
        gradients.append(torch.autograd.grad(maps.rgb.square().sum(), planes)[0])
        pictures.append(maps.rgb.detach())
    torch.testing.assert_close(pictures[0], pictures[1])
    torch.testing.assert_close(gradients[1][:, 3:], 0.6 * gradients[0][:, 3:])
    torch.testing.assert_close(gradients[1][:, :3], gradients[0][:, :3])
    assert gradients[0][:, 3:].abs().max() > 1e-6


def test_volsdf_shows_the_sphere():
    """The surface is softer (k = 80): opaque in the middle, where NeuS sees it to a few hundredths."""
    depths = {}
    for model in ("neus", "volsdf"):
        renderer = VolumeRenderer(9, None, proposal_samples=64, fine_samples=64, surface_model=model).eval()
        with torch.no_grad():
            maps = renderer(*sphere_scene(), turntable_cameras(1), WHITE)
        assert float(maps.opacity[0, 4, 4]) > 0.98 and float(maps.opacity[0, 0, 0]) < 0.05
        assert 0 <= float(maps.depth_variance[0, 4, 4]) < 0.2
        depths[model] = float(maps.depth[0, 4, 4])
    assert depths["volsdf"] == pytest.approx(depths["neus"], abs=0.06)


def test_cosines_are_annealed_in_training_only():
    pictures = {}
    for training in (True, False):
        for share in (1.0, [0, 0.0, 1.0, 10]):
            renderer = VolumeRenderer(6, None, proposal_samples=16, fine_samples=16, stratified=False, cosine_annealing=share)
            with torch.no_grad():
                maps = renderer.train(training)(*sphere_scene(), turntable_cameras(1), WHITE)
            pictures[training, share == 1.0] = maps.opacity
    assert torch.equal(pictures[False, True], pictures[False, False])
    assert not torch.allclose(pictures[True, True], pictures[True, False])


def test_patch_is_pasted_at_full_resolution():
    """In training a picture is the up-sampled coarse pass with one window that equals the full rendering."""
    field, planes = random_scene(dtype=torch.float32)
    prepared, cameras = field.prepare(planes.detach()), turntable_cameras(2)
    settings = {"proposal_samples": 32, "fine_samples": 32, "stratified": False}
    full = VolumeRenderer(32, None, **settings)(field, prepared, cameras, WHITE)
    coarse = VolumeRenderer(12, None, **settings)(field, prepared, cameras, WHITE)
    renderer = VolumeRenderer(32, 12, patch_size=10, **settings).train()
    places = set()
    for seed in range(6):
        torch.manual_seed(seed)
        top, left = (int(torch.randint(23, ())) for _ in range(2))
        torch.manual_seed(seed)
        maps = renderer(field, prepared, cameras, WHITE)
        places.add((top, left))
        window = (slice(None), slice(top, top + 10), slice(left, left + 10))
        outside = torch.ones(32, 32, dtype=torch.bool)
        outside[window[1:]] = False
        for name in ("rgb", "opacity", "depth", "disparity", "normal_world", "normal_camera"):
            value = getattr(maps, name)
            assert value.shape[:3] == (2, 32, 32)
            torch.testing.assert_close(value[window], getattr(full, name)[window], atol=1e-5, rtol=1e-4)
            small = getattr(coarse, name).movedim(-1, 1)
            enlarged = torch.nn.functional.interpolate(small, 32, mode="bilinear").movedim(1, -1)
            torch.testing.assert_close(value[:, outside], enlarged[:, outside], atol=1e-5, rtol=1e-4)
        assert maps.sdf_gradient.shape == (1, 2 * (12 * 12 + 10 * 10) * 32, 3) and maps.sdf_counted.all()
    assert len(places) > 3


def test_evaluation_renders_every_pixel():
    field, prepared = sphere_scene()
    settings = {"proposal_samples": 16, "fine_samples": 16}
    with torch.no_grad():
        plain = VolumeRenderer(24, None, **settings).eval()(field, prepared, turntable_cameras(1), WHITE)
        patched = VolumeRenderer(24, 8, patch_size=8, **settings).eval()(field, prepared, turntable_cameras(1), WHITE)
    assert torch.equal(plain.rgb, patched.rgb)


def test_chunks_change_nothing(monkeypatch):
    field, planes = random_scene(2, torch.float32)
    prepared = field.prepare(planes.detach())
    renderer, cameras = VolumeRenderer(10, None, proposal_samples=8, fine_samples=8).eval(), turntable_cameras(4)
    with torch.no_grad():
        whole = renderer(field, prepared, cameras, WHITE)
        monkeypatch.setattr("prd_lightning.rendering.volume.EVALUATION_SAMPLES", 300)
        chunked = renderer(field, prepared, cameras, WHITE)
    torch.testing.assert_close(chunked.rgb, whole.rgb)
    torch.testing.assert_close(chunked.normal_camera, whole.normal_camera)


def test_bounding_ball_sees_the_same_object():
    field, prepared = sphere_scene()
    settings = {"proposal_samples": 48, "fine_samples": 48}
    with torch.no_grad():
        free = VolumeRenderer(24, None, **settings).eval()(field, prepared, turntable_cameras(2), WHITE)
        bounded = VolumeRenderer(24, None, bounding_radius=0.9, **settings).eval()(field, prepared, turntable_cameras(2), WHITE)
    assert (free.opacity - bounded.opacity).abs().mean() < 0.01
    solid = free.opacity > 0.95
    assert (free.depth - bounded.depth)[solid].abs().max() < 0.05


def test_rays_that_miss_the_ball_are_background_and_cost_nothing():
    field, prepared = sphere_scene()
    cameras, size, radius = turntable_cameras(1), 24, 0.7
    renderer = VolumeRenderer(size, None, bounding_radius=radius, proposal_samples=8, fine_samples=8)
    maps = renderer(field, prepared, cameras, WHITE)
    origins, directions = cameras.rays(size, size)
    missed = torch.linalg.cross(origins, directions).norm(dim=-1) > radius
    assert 0 < missed.sum() < missed.numel()
    assert (maps.rgb[missed] == 1).all() and (maps.opacity[missed] == 0).all() and (maps.depth[missed] == 0).all()
    torch.testing.assert_close(maps.normal_camera[missed], torch.tensor([0.5, 0.5, 1.0]).expand(int(missed.sum()), 3))
    assert maps.sdf_gradient.shape == (1, int((~missed).sum()) * 8, 3)


def test_rays_through_empty_space_are_not_followed():
    """A margin of ten widths of the surface changes neither pictures nor gradients, and spares most of the fine samples."""
    field, planes = random_scene(2, torch.float32, scale=0.1)
    results = {}
    for margin in (None, 0.1):
        settings = {"bounding_radius": 0.9, "proposal_samples": 32, "fine_samples": 16, "stratified": False}
        renderer = VolumeRenderer(16, None, empty_margin=margin, inverse_standard_deviation=100.0, **settings)
        maps = renderer(field, field.prepare(planes), turntable_cameras(4), WHITE)
        loss = maps.rgb.square().sum() + maps.normal_camera.square().sum() + maps.depth.sum()
        results[margin] = maps, torch.autograd.grad(loss, planes)[0]
    (full, gradient), (spared, spared_gradient) = results[None], results[0.1]
    for name in ("rgb", "opacity", "depth", "normal_camera"):
        torch.testing.assert_close(getattr(spared, name), getattr(full, name), atol=1e-3, rtol=0)
    assert (spared_gradient - gradient).norm() < 1e-3 * gradient.norm()
    assert spared.sdf_gradient.shape[1] < 0.7 * full.sdf_gradient.shape[1]


def test_a_scene_far_from_its_surface_stays_empty_and_finite():
    """A field that is positive everywhere leaves no ray to follow, beside one that has a surface."""
    field = TriplaneField(channels=2, hidden=4)
    prepared = field.prepare(torch.zeros(1, 6, 2, 4, 4))
    field.sphere_radius = -1.0
    maps = VolumeRenderer(8, None, bounding_radius=0.9, empty_margin=0.1)(field, prepared, turntable_cameras(1), WHITE)
    assert (maps.opacity == 0).all() and (maps.rgb == 1).all() and not maps.sdf_counted.any()
    assert torch.isfinite(eikonal(maps.sdf_gradient, maps.sdf_counted))


@pytest.mark.parametrize("margin", [None, 0.1])
@pytest.mark.parametrize("patch", [False, True])
def test_a_scene_in_training_does_not_depend_on_its_batch(patch: bool, margin: float | None, close):
    """Random shifts, patch and eikonal samples belong to the scene, though one scene has more rays to follow."""
    field, planes = random_scene(2, torch.float32)
    near_and_far = orbit_cameras(torch.zeros(2), torch.tensor([0.0, 90.0]), torch.tensor([2.0, 6.0]), torch.full((2,), 40.0))
    settings = {"far": 8.0, "bounding_radius": 1.0, "empty_margin": margin, "proposal_samples": 16, "fine_samples": 16}
    renderer = VolumeRenderer(12, 8 if patch else None, patch_size=6, **settings).train()
    prepared, seeds = field.prepare(planes.detach()), [5, 6]
    together = renderer(field, prepared, near_and_far, WHITE, 0, PromptDraws(1, seeds))
    assert not together.sdf_counted.all()
    means = []
    for index in range(2):
        camera, draws = near_and_far.select([index]), PromptDraws(1, seeds[index : index + 1])
        alone = renderer(field, prepared.item(index), camera, WHITE, 0, draws)
        close(together.rgb[index], alone.rgb[0], 1e-5)
        close(together.depth[index], alone.depth[0], 1e-5)
        means.append(eikonal(alone.sdf_gradient, alone.sdf_counted))
    close(eikonal(together.sdf_gradient, together.sdf_counted), torch.stack(means).mean(), 1e-5)
    other = renderer(field, prepared.item(0), near_and_far.select([0]), WHITE, 0, PromptDraws(1, [7]))
    assert not torch.equal(other.depth[0], together.depth[0])


def test_scenes_with_different_numbers_of_hits():
    """Each scene of a batch renders as it does alone, though rays are left out for all scenes together."""
    field, planes = random_scene(2, torch.float32)
    near_and_far = orbit_cameras(torch.zeros(2), torch.tensor([0.0, 90.0]), torch.tensor([2.0, 6.0]), torch.full((2,), 40.0))
    renderer = VolumeRenderer(12, None, far=8.0, bounding_radius=1.0, proposal_samples=16, fine_samples=16).eval()
    prepared = field.prepare(planes.detach())
    with torch.no_grad():
        together = renderer(field, prepared, near_and_far, WHITE)
        for index in range(2):
            alone = renderer(field, prepared.item(index), near_and_far.select([index]), WHITE)
            torch.testing.assert_close(together.rgb[index], alone.rgb[0], atol=1e-5, rtol=1e-4)


def test_a_ball_behind_the_camera_is_not_seen():
    field, prepared = sphere_scene()
    turned = turntable_cameras(1).camera_to_world.clone()
    turned[:, :3, [0, 2]] *= -1
    front = turntable_cameras(1)
    away = Cameras(turned, front.fovy, front.distance, front.relative_distance, front.elevation, front.azimuth)
    maps = VolumeRenderer(8, None, bounding_radius=1.0, proposal_samples=8, fine_samples=8)(field, prepared, away, WHITE)
    assert (maps.opacity == 0).all() and (maps.rgb == 1).all()
    assert all(torch.isfinite(value).all() for value in (maps.depth, maps.normal_world, maps.sdf_gradient))


def test_heaviest_samples_stand_for_the_rest():
    field, planes = random_scene(dtype=torch.float32)
    prepared, cameras = field.prepare(planes.detach()), turntable_cameras(1)
    settings = {"proposal_samples": 32, "fine_samples": 32}
    every = VolumeRenderer(16, None, **settings).eval()(field, prepared, cameras, WHITE)
    heavy = VolumeRenderer(16, None, color_samples=6, **settings).eval()(field, prepared, cameras, WHITE)
    assert torch.equal(every.opacity, heavy.opacity)
    assert (every.rgb - heavy.rgb).abs().max() < 0.02
    more = VolumeRenderer(16, None, color_samples=99, **settings).eval()(field, prepared, cameras, WHITE)
    assert torch.equal(every.rgb, more.rgb)


def test_jitter_in_training_only():
    field, planes = random_scene(dtype=torch.float32)
    prepared, cameras = field.prepare(planes.detach()), turntable_cameras(1)
    renderer = VolumeRenderer(8, None, proposal_samples=8, fine_samples=8)
    draws = [renderer.train()(field, prepared, cameras, WHITE).rgb for _ in range(2)]
    assert not torch.equal(*draws)
    fixed = [renderer.eval()(field, prepared, cameras, WHITE).rgb for _ in range(2)]
    assert torch.equal(*fixed)


def test_background_shows_where_nothing_is():
    field, prepared = sphere_scene()
    colors = torch.rand(1, 16, 16, 3)
    renderer = VolumeRenderer(16, None, proposal_samples=32, fine_samples=32).eval()
    maps = renderer(field, prepared, turntable_cameras(1), lambda directions: colors)
    outside = maps.opacity[..., 0] < 1e-3
    assert outside.any()
    torch.testing.assert_close(maps.rgb[outside], colors[outside], atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"near": 2.0, "far": 1.0}, "near"),
        ({"patch_size": 200}, "patch_size"),
        ({"proposal_samples": 1}, "samples"),
        ({"fine_samples": 0}, "samples"),
        ({"empty_margin": -0.1}, "empty_margin"),
        ({"surface_model": "nerf"}, "surface_model"),
        ({"color_gradient_scale": [0, 1.0]}, "schedule"),
        ({"cosine_annealing": "slow"}, "schedule"),
    ],
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises(ConfigurationError, match=named):
        VolumeRenderer(**settings)


def test_default_sharpness():
    assert VolumeRenderer().inverse_standard_deviation == pytest.approx(math.exp(4.605))
