"""Joint attention over views, and the camera numbers."""

import math
from copy import deepcopy

import pytest
import torch
from diffusers.models.attention_processor import Attention

from prd_lightning.cameras import orbit_cameras
from prd_lightning.errors import ConfigurationError
from prd_lightning.teachers.multiview import (
    JointViewAttention,
    install_joint_view_attention,
    mvdream_camera_condition,
    richdreamer_camera_condition,
)
from prd_lightning.tinyworld import models

VIEWS = 4


def test_self_attention_over_joined_views_is_attention_over_one_long_sequence():
    attention = Attention(6, heads=2, dim_head=3).double()
    joint = deepcopy(attention)
    joint.set_processor(JointViewAttention(VIEWS))
    hidden = torch.randn(2 * VIEWS, 5, 6, dtype=torch.float64)
    expected = attention(hidden.reshape(2, VIEWS * 5, 6)).reshape(2 * VIEWS, 5, 6)
    torch.testing.assert_close(joint(hidden), expected, rtol=1e-10, atol=1e-12)


def test_cross_attention_stays_per_view():
    attention = Attention(6, 4, heads=2, dim_head=3).double()
    joint = deepcopy(attention)
    joint.set_processor(JointViewAttention(VIEWS))
    hidden, text = torch.randn(VIEWS, 5, 6, dtype=torch.float64), torch.randn(VIEWS, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(joint(hidden, text), attention(hidden, text), rtol=1e-10, atol=1e-12)


def test_the_network_mixes_the_views_of_a_prompt_and_no_others():
    unet = models.build_unet(8, camera=True).eval()
    install_joint_view_attention(unet, VIEWS)
    noisy, text, cameras = torch.randn(2 * VIEWS, 4, 8, 8), torch.randn(2 * VIEWS, 3, 64), torch.randn(2 * VIEWS, 16)
    with torch.no_grad():
        before = unet(noisy, 100, text, class_labels=cameras).sample
        noisy[0] += 1
        after = unet(noisy, 100, text, class_labels=cameras).sample
    change = (after - before).abs().flatten(1).amax(dim=1)
    assert (change[:VIEWS] > 1e-6).all()
    assert (change[VIEWS:] < 1e-6).all()


def test_a_batch_that_is_no_multiple_of_the_views_is_refused():
    attention = Attention(6, heads=2, dim_head=3, processor=JointViewAttention(VIEWS))
    with pytest.raises(ConfigurationError, match="6 pictures is not a multiple of 4 views"):
        attention(torch.randn(6, 5, 6))
    with pytest.raises(ConfigurationError, match="at least one view, got 0"):
        install_joint_view_attention(models.build_unet(8, camera=True), 0)


def test_mvdream_s_numbers_are_the_matrix_on_the_unit_sphere():
    cameras = orbit_cameras(
        torch.tensor([10.0, 25.0]), torch.tensor([0.0, 130.0]), torch.tensor([2.0, 3.0]), torch.tensor([40.0, 60.0])
    )
    before = cameras.camera_to_world.clone()
    numbers = mvdream_camera_condition(cameras).unflatten(-1, (4, 4))
    assert torch.equal(cameras.camera_to_world, before), "the cameras are left alone"
    torch.testing.assert_close(numbers[:, :3, :3], before[:, :3, :3])
    torch.testing.assert_close(numbers[:, :3, 3], before[:, :3, 2])
    assert numbers[:, 3].tolist() == [[0, 0, 0, 1]] * 2


def test_richdreamer_s_numbers_are_turned_and_scaled():
    """The front camera (on +x) comes to stand on -y, at twice its relative distance."""
    relative = torch.tensor([0.9])
    cameras = orbit_cameras(torch.tensor([0.0]), torch.tensor([0.0]), relative, torch.tensor([60.0]), relative=True)
    numbers = richdreamer_camera_condition(cameras).view(4, 4)
    torch.testing.assert_close(numbers[:3, 3], torch.tensor([0.0, -1.8, 0.0]), rtol=0, atol=1e-6)
    turn = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    torch.testing.assert_close(numbers[:3, :3], turn @ cameras.camera_to_world[0, :3, :3], rtol=0, atol=1e-6)


def test_numbers_do_not_depend_on_the_world_distance():
    near, far = (orbit_cameras(*[torch.tensor([value]) for value in (15.0, 70.0, distance, 50.0)]) for distance in (1.5, 4.0))
    torch.testing.assert_close(mvdream_camera_condition(near), mvdream_camera_condition(far), rtol=0, atol=1e-6)
    ratio = richdreamer_camera_condition(far)[0, 11] / richdreamer_camera_condition(near)[0, 11]
    assert float(ratio) == pytest.approx(4.0 / 1.5, rel=1e-5)
    assert float(richdreamer_camera_condition(near)[0, 11]) == pytest.approx(
        2 * 1.5 * math.tan(math.radians(25)) * math.sin(math.radians(15)), rel=1e-5
    )
