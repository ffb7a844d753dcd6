"""True pictures: what is hit, where, and in the conventions of the renderers."""

import math

import pytest
import torch

from prd_lightning.cameras import orbit_cameras
from prd_lightning.tinyworld.renders import render_scene, trace
from prd_lightning.tinyworld.shapes import PRIMITIVES, Scene, scene_distance


def front(views: int = 1):
    return orbit_cameras(torch.zeros(views), torch.arange(views) * 90.0, torch.full((views,), 2.0), torch.full((views,), 60.0))


def test_a_sphere_in_closed_form():
    maps, cameras = render_scene(Scene.single("sphere", "red"), front(), 33, supersampling=1), front()
    origins, directions = cameras.rays(33, 33)
    closest = -(origins * directions).sum(-1)
    gap = 0.55**2 - ((origins + closest[..., None] * directions) ** 2).sum(-1)
    clear = gap.abs() > 1e-3
    assert torch.equal((maps.opacity[..., 0] > 0.5)[clear], (gap > 0)[clear])
    depth = closest - gap.clamp_min(0).sqrt()
    hit = gap > 1e-3
    expected = (2.0 + math.sqrt(3) - depth) / (2 * math.sqrt(3))
    torch.testing.assert_close(maps.disparity[..., 0][hit], expected[hit], rtol=0, atol=1e-3)
    middle = maps.normal_camera[0, 16, 16]
    torch.testing.assert_close(middle, torch.tensor([0.5, 0.5, 1.0]), rtol=0, atol=0.02)
    assert (maps.rgb[0, 0, 0] == 1).all() and maps.opacity[0, 0, 0] == 0 and maps.disparity[0, 0, 0] == 0


def test_outlines_are_neither_too_wide_nor_too_narrow():
    """The disk that a ball of radius 0.55 covers from distance 2, as a share of the picture; teachers learn sizes from this."""
    tangent = 0.55 / math.sqrt(4 - 0.55**2)
    share = math.pi * (tangent / (2 * math.tan(math.radians(30)))) ** 2
    measured = render_scene(Scene.single("sphere", "red"), front(), 64, supersampling=4).opacity.mean().item()
    assert measured == pytest.approx(share, rel=2e-3)


def test_camera_normals_have_their_x_flipped():
    """On the right half of a sphere the normal points right; the map shows that as less than one half."""
    maps = render_scene(Scene.single("sphere", "red"), front(), 32)
    assert maps.normal_camera[0, 16, 20, 0] < 0.45 and maps.normal_camera[0, 16, 11, 0] > 0.55
    assert maps.normal_camera[0, 12, 16, 1] > 0.55, "up is up"


@pytest.mark.parametrize("shape", PRIMITIVES)
def test_hits_lie_on_the_surface_and_misses_never_cross_it(shape: str):
    scene = Scene.single(shape, "red")
    origins, directions = (rays.reshape(-1, 3) for rays in front(4).rays(24, 24))
    distance, hit = trace(scene, origins, directions)
    assert 20 < int(hit.sum()) < len(hit)
    assert scene_distance(scene, origins[hit] + distance[hit, None] * directions[hit]).abs().max() < 2e-4
    along = torch.linspace(1.0, 3.0, 300)
    path = origins[~hit][:, None] + along[:, None] * directions[~hit][:, None]
    assert scene_distance(scene, path).amin() > -5e-4
