"""What both renderers share: disparity, normal maps, resizing."""

import math

import torch

from prd_lightning.cameras import orbit_cameras, turntable_cameras
from prd_lightning.rendering.maps import NORMAL_BACKGROUND, WHITE_BACKGROUND, disparity_from_depth, normal_to_camera, resize_map


def test_disparity_is_one_at_the_near_plane_and_zero_at_the_far_one():
    distance = torch.tensor([3.0])
    depth = torch.tensor([3 - math.sqrt(3), 3.0, 3 + math.sqrt(3), 9.0, 0.1]).view(1, 1, 5, 1)
    disparity = disparity_from_depth(depth, torch.ones_like(depth), distance).flatten()
    torch.testing.assert_close(disparity, torch.tensor([1.0, 0.5, 0.0, 0.0, 1.0]))


def test_disparity_of_nothing_is_zero_and_follows_each_camera():
    depth = torch.zeros(2, 1, 1, 1)
    assert disparity_from_depth(depth, depth, torch.tensor([3.0, 1.0])).abs().max() < 1e-6
    seen = disparity_from_depth(torch.full_like(depth, 3.0), torch.ones_like(depth), torch.tensor([3.0, 4.0])).flatten()
    torch.testing.assert_close(seen, torch.tensor([0.5, 0.5 + 1 / (2 * math.sqrt(3))]))


def test_opacity_enters_the_disparity_once_more():
    """Depth is weighted by opacity already; published weights were trained with the second factor."""
    far, opacity = 3 + math.sqrt(3), 0.6
    depth = torch.full((1, 1, 1, 1), 3.0 * opacity)
    expected = (far - (3.0 * opacity * opacity + (1 - opacity) * far)) / (2 * math.sqrt(3))
    actual = disparity_from_depth(depth, torch.full_like(depth, opacity), torch.tensor([3.0]))
    torch.testing.assert_close(actual.flatten(), torch.tensor([expected]))


def test_disparity_differentiates():
    depth = (2.5 + torch.rand(2, 3, 3, 1, dtype=torch.float64)).requires_grad_()
    opacity = (0.2 + 0.6 * torch.rand_like(depth)).detach().requires_grad_()
    distance = torch.tensor([3.0, 2.8], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda d, o: disparity_from_depth(d, o, distance), (depth, opacity))


def test_normals_in_the_camera():
    """A face towards the camera is blue; one to the right of the picture has little red, since x is flipped; up is green."""
    cameras = turntable_cameras(1, elevation=0.0)
    towards, right, up = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 0, 1])
    normals = torch.stack([towards, right, up]).view(1, 1, 3, 3)
    colors = normal_to_camera(normals, torch.ones(1, 1, 3, 1), cameras)[0, 0]
    torch.testing.assert_close(colors, torch.tensor([[0.5, 0.5, 1.0], [0.0, 0.5, 0.5], [0.5, 1.0, 0.5]]))


def test_normals_fade_into_the_background():
    cameras = orbit_cameras(*(torch.tensor([value]) for value in (20.0, 70.0, 3.0, 40.0)))
    normal = torch.nn.functional.normalize(torch.randn(1, 2, 2, 3), dim=-1)
    nothing, half, full = (normal_to_camera(normal, torch.full((1, 2, 2, 1), o), cameras) for o in (0.0, 0.5, 1.0))
    background = torch.tensor(NORMAL_BACKGROUND).expand_as(nothing)
    torch.testing.assert_close(nothing, background)
    torch.testing.assert_close(half, 0.5 * (full + background))
    on_white = normal_to_camera(normal, torch.full((1, 2, 2, 1), 0.5), cameras, WHITE_BACKGROUND)
    torch.testing.assert_close(on_white, 0.5 * (full + 1))
    torch.testing.assert_close((2 * full - 1).norm(dim=-1), torch.ones(1, 2, 2))


def test_normal_maps_differentiate():
    cameras = orbit_cameras(*(torch.tensor([value], dtype=torch.float64) for value in (20.0, 70.0, 3.0, 40.0)))
    leaves = [torch.randn(1, 2, 2, size, dtype=torch.float64, requires_grad=True) for size in (3, 1)]
    assert torch.autograd.gradcheck(lambda n, o: normal_to_camera(n, o, cameras), leaves)


def test_resizing():
    picture = torch.rand(2, 8, 8, 3)
    assert resize_map(picture, 8) is picture
    torch.testing.assert_close(resize_map(picture, 4), picture.unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean(dim=(2, 4)))
    large = resize_map(picture, 16)
    assert large.shape == (2, 16, 16, 3) and large.max() <= picture.max()
    ramp = torch.arange(8.0).view(1, 1, 8, 1).expand(1, 8, 8, 1)
    torch.testing.assert_close(resize_map(ramp, 16)[0, 0, 1:-1, 0], torch.arange(14) * 0.5 + 0.25)
    leaf = torch.rand(1, 4, 4, 2, dtype=torch.float64, requires_grad=True)
    for size in (2, 3, 6):
        assert torch.autograd.gradcheck(lambda value, size=size: resize_map(value, size), leaf)
