"""Cameras against the recorded matrices, rays and projections."""

import pytest
import torch

from prd_lightning.cameras import Cameras, orbit_cameras


def recorded_cameras(recorded, relative: bool) -> Cameras:
    given = recorded.inputs
    return orbit_cameras(
        given["elevation_deg"], given["azimuth_deg"], given["camera_distances"], given["fovy_deg"], relative=relative
    )


@pytest.mark.parametrize("relative", [True, False])
def test_matrices_and_rays(golden, close, relative):
    recorded = golden("cameras")
    cameras, prefix = recorded_cameras(recorded, relative), f"relative_{relative}/"
    expected = {key.removeprefix(prefix): value for key, value in recorded.outputs.items() if key.startswith(prefix)}
    height, width = expected["rays_d"].shape[1:3]
    origins, directions = cameras.rays(height, width)
    actual = {
        "rays_o": origins,
        "rays_d": directions,
        "rays_d_rasterize": cameras.rays(height, width)[1],
        "mvp_mtx": cameras.model_view_projection(),
        "camera_positions": cameras.position,
        "c2w": cameras.camera_to_world,
        "camera_distances": cameras.distance,
        "camera_distances_relative": cameras.relative_distance,
        "fovy": cameras.fovy,
    }
    if not relative:  # the original returns the distance itself here, which nothing reads
        actual["camera_distances_relative"] = cameras.distance
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        close(value, expected[name], 1e-5, name)


def test_rays_of_a_rasterized_picture_with_the_focal_length_of_the_small_one(golden, close):
    outputs = golden("cameras").outputs
    cameras = recorded_cameras(golden("cameras"), True)
    small, large = outputs["rays8_raster16/rays_d"], outputs["rays8_raster16/rays_d_rasterize"]
    close(cameras.rays(*small.shape[1:3])[1], small, 1e-5)
    close(cameras.rays(*large.shape[1:3], focal_height=small.shape[1])[1], large, 1e-5)
    true_directions = cameras.rays(*large.shape[1:3])[1]
    assert (true_directions - large).abs().max() > 0.05, "the option must differ from the true directions"


def test_pictures_that_are_not_square(golden, close):
    outputs = golden("cameras").outputs
    cameras, directions = recorded_cameras(golden("cameras"), True), outputs["rays6x8_raster12x16/rays_d"]
    height, width = directions.shape[1:3]
    close(cameras.rays(height, width)[1], directions, 1e-5)
    close(cameras.model_view_projection(aspect=width / height), outputs["rays6x8_raster12x16/mvp_mtx"], 1e-5)


def test_projection_and_pixel_offsets(golden, close):
    recorded = golden("cameras")
    count = len(recorded.inputs["fovy_deg"])
    at_origin = recorded_cameras(recorded, True)
    at_origin = Cameras(
        torch.eye(4).expand(count, 4, 4), at_origin.fovy, at_origin.distance, at_origin.relative_distance,
        at_origin.elevation, at_origin.azimuth,
    )  # fmt: skip
    close(at_origin.model_view_projection(), recorded.outputs["projection_matrix"], 1e-5)
    offsets = recorded.outputs["unit_directions_4x6"]
    unit_focal = at_origin.select(slice(0, 1))
    height, width = offsets.shape[:2]
    unit_focal = Cameras(
        unit_focal.camera_to_world, 2 * torch.atan(torch.tensor([0.5 * height])), *[torch.ones(1)] * 4
    )
    close(unit_focal.rays(height, width)[1][0], torch.nn.functional.normalize(offsets, dim=-1), 1e-5)
