"""Cameras: conventions, rays against projections, random views, bad settings."""

import math

import pytest
import torch

from prd_lightning.cameras import (
    CameraSettings,
    horizontal_view_name,
    orbit_cameras,
    sample_training_cameras,
    turntable_cameras,
)
from prd_lightning.errors import ConfigurationError


def random_cameras(count=5, **settings):
    elevation = torch.rand(count, dtype=torch.float64) * 120 - 60
    azimuth = torch.rand(count, dtype=torch.float64) * 360
    distance = 2 + torch.rand(count, dtype=torch.float64)
    fovy = 30 + 40 * torch.rand(count, dtype=torch.float64)
    return orbit_cameras(elevation, azimuth, distance, fovy, **settings)


def test_front_camera_sees_y_to_the_right_and_z_up():
    camera = turntable_cameras(1, elevation=0.0)
    right, up, backward, position = camera.camera_to_world[0, :3].unbind(dim=1)
    torch.testing.assert_close(right, torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(up, torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(backward, torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(position, torch.tensor([3.0, 0.0, 0.0]))


def test_azimuth_grows_towards_y_and_elevation_towards_z():
    torch.testing.assert_close(turntable_cameras(4, elevation=0.0).position[1], torch.tensor([0.0, 3.0, 0.0]), atol=1e-6, rtol=0)
    assert turntable_cameras(1, elevation=30.0).position[0, 2] == pytest.approx(3.0 * math.sin(math.radians(30)))


def test_matrices_are_rigid_and_inverted_exactly():
    cameras = random_cameras()
    rotation = cameras.camera_to_world[:, :3, :3]
    identity = torch.eye(3, dtype=torch.float64).expand_as(rotation)
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), identity)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(len(cameras), dtype=torch.float64))
    torch.testing.assert_close(cameras.world_to_camera(), torch.linalg.inv(cameras.camera_to_world))


def test_relative_distance_is_the_half_height_at_the_origin():
    cameras = random_cameras(relative=True)
    torch.testing.assert_close(cameras.distance * (0.5 * cameras.fovy).tan(), cameras.relative_distance)
    torch.testing.assert_close(cameras.position.norm(dim=-1), cameras.distance)
    # A point that far above the origin (in the camera's axes) is projected to the picture's upper edge.
    up = cameras.camera_to_world[:, :3, 1] * cameras.relative_distance[:, None]
    clip = torch.einsum("vij,vj->vi", cameras.model_view_projection(), torch.nn.functional.pad(up, (0, 1), value=1.0))
    torch.testing.assert_close(clip[:, 1] / clip[:, 3], -torch.ones(len(cameras), dtype=torch.float64))


@pytest.mark.parametrize(("height", "width"), [(7, 7), (6, 10)])
def test_points_on_a_ray_are_projected_to_its_pixel(height, width):
    cameras = random_cameras()
    origins, directions = cameras.rays(height, width)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones_like(directions[..., 0]))
    points = origins + directions * (1 + torch.rand_like(origins[..., :1]))
    clip = torch.einsum(
        "vij,vhwj->vhwi",
        cameras.model_view_projection(aspect=width / height),
        torch.nn.functional.pad(points, (0, 1), value=1.0),
    )
    column = (clip[..., 0] / clip[..., 3] + 1) * width / 2 - 0.5
    row = (clip[..., 1] / clip[..., 3] + 1) * height / 2 - 0.5
    ranges = [torch.arange(count, dtype=torch.float64) for count in (height, width)]
    expected_row, expected_column = torch.meshgrid(*ranges, indexing="ij")
    torch.testing.assert_close(column, expected_column.expand_as(column))
    torch.testing.assert_close(row, expected_row.expand_as(row))


def test_near_and_far_planes_bound_the_clip_space():
    cameras = turntable_cameras(1, elevation=0.0)
    for distance, expected in ((0.5, -1.0), (20.0, 1.0)):
        point = torch.tensor([3.0 - distance, 0.0, 0.0, 1.0])
        clip = cameras.model_view_projection(near=0.5, far=20.0)[0] @ point
        assert float(clip[2] / clip[3]) == pytest.approx(expected, abs=1e-5)
        assert float(clip[3]) == pytest.approx(distance)


def test_selection_and_devices_keep_all_fields_together():
    cameras = random_cameras()
    chosen = cameras.select([3, 1]).to("cpu")
    assert len(chosen) == 2
    assert torch.equal(chosen.camera_to_world, cameras.camera_to_world[[3, 1]])
    assert torch.equal(chosen.azimuth, cameras.azimuth[[3, 1]])


def test_training_views():
    settings = CameraSettings(views_per_prompt=4, elevation_range=(5.0, 25.0), fovy_range=(50.0, 60.0))
    cameras = sample_training_cameras(64, settings, torch.Generator().manual_seed(1))
    again = sample_training_cameras(64, settings, torch.Generator().manual_seed(1))
    assert torch.equal(cameras.camera_to_world, again.camera_to_world)
    for name, low, high in (("elevation", 5.0, 25.0), ("relative_distance", 0.8, 1.0)):
        values = getattr(cameras, name)
        assert low <= values.min() and values.max() <= high
        assert values.max() - values.min() > 0.8 * (high - low), f"{name} must use its whole range"
        assert torch.equal(values[0::4], values[3::4]), f"{name} is shared by the views of a prompt"
    degrees = torch.rad2deg(cameras.fovy)
    assert 50 <= degrees.min() and degrees.max() <= 60.001
    azimuth = cameras.azimuth.view(-1, 4)
    steps = (azimuth - azimuth.roll(1, dims=1)) % 360
    torch.testing.assert_close(steps, torch.full_like(steps, 90.0), atol=1e-3, rtol=0)
    assert azimuth[:, 0].std() > 60, "the start is random"


@pytest.mark.parametrize(
    "settings",
    [
        {"views_per_prompt": 0},
        {"elevation_range": (30.0, 0.0)},
        {"fovy_range": (0.0, 60.0)},
        {"fovy_range": (60.0, 180.0)},
        {"relative_distance_range": (0.0, 1.0)},
    ],
)
def test_bad_settings_are_named(settings):
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        CameraSettings(**settings)


def test_turntable_needs_a_view():
    with pytest.raises(ConfigurationError, match="got 0"):
        turntable_cameras(0)


@pytest.mark.parametrize(
    ("azimuth", "name"),
    [(0, "front"), (44, "front"), (-44, "front"), (316, "front"), (90, "side"), (270, "side"), (136, "back"), (-170, "back")],
)
def test_names_of_views(azimuth, name):
    assert horizontal_view_name(azimuth) == name
