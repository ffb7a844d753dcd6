"""What is the normal-depth teacher's own: averaged maps as they are, without an autoencoder."""

import torch
import torch.nn.functional as functional

from prd_lightning.cameras import turntable_cameras
from prd_lightning.teachers.multiview import richdreamer_camera_condition


def test_the_input_is_normals_and_disparity_averaged(normal_depth, make_maps, prompts, cameras):
    maps = make_maps(size=16)
    given = normal_depth().prepare([{"normal_camera": maps.normal_camera, "disparity": maps.disparity}], prompts, cameras, None)
    expected = functional.avg_pool2d(torch.cat([maps.normal_camera, maps.disparity], dim=-1).permute(0, 3, 1, 2), 2)
    torch.testing.assert_close(given.clean, expected)
    assert torch.equal(given.labels, richdreamer_camera_condition(cameras))


def test_maps_of_the_right_size_are_taken_as_they_are(normal_depth, make_maps, prompts, cameras):
    maps = make_maps(size=8)
    given = normal_depth().prepare([{"normal_camera": maps.normal_camera, "disparity": maps.disparity}], prompts, cameras, None)
    assert torch.equal(given.clean[:, 3:].permute(0, 2, 3, 1), maps.disparity)


def test_published_defaults(normal_depth):
    teacher = normal_depth()
    assert (teacher.loss_share, teacher.guidance_scale, teacher.time_shift.ratio, teacher.weighting) == (0.25, 20.0, 0.1, "dmd")


def test_samples_are_maps(normal_depth):
    maps = normal_depth(map_size=16).sample(["a red cube"], turntable_cameras(4), steps=12, guidance_scale=4.0)
    assert maps.shape == (4, 16, 16, 4)
    border = torch.cat([maps[:, 0], maps[:, -1], maps[:, :, 0], maps[:, :, -1]], dim=1)
    assert (border - torch.tensor([0.5, 0.5, 1.0, 0.0])).abs().mean() < 0.08, "nothing stands at the border"
    assert (maps[:, 8, 8, 3] > 0.3).all(), "something near stands in the middle of each picture"
