"""Cameras against the recorded matrices, rays and projections."""

import re

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


def test_pictures_of_other_sizes(golden, close):
    """Groups ``raysSIZE_rasterSIZE``: rays of the small picture, and those of the rasterized one.

    The original gives the latter the focal length of the small picture, an option here.
    """
    cameras, groups = recorded_cameras(golden("cameras"), True), {}
    for key, value in golden("cameras").outputs.items():
        group, _, name = key.partition("/")
        if re.fullmatch(r"rays\w+_raster\w+", group):
            groups.setdefault(group, {})[name] = value
    assert groups
    for group, recorded in groups.items():
        height, width = recorded["rays_d"].shape[1:3]
        close(cameras.rays(height, width)[1], recorded["rays_d"], 1e-5, group)
        if "mvp_mtx" in recorded:
            close(cameras.model_view_projection(aspect=width / height), recorded["mvp_mtx"], 1e-5, group)
        if "rays_d_rasterize" in recorded:
            size = recorded["rays_d_rasterize"].shape[1:3]
            close(cameras.rays(*size, focal_height=height)[1], recorded["rays_d_rasterize"], 1e-5, group)
            true_directions = cameras.rays(*size)[1]
            assert (true_directions - recorded["rays_d_rasterize"]).abs().max() > 0.05, "the option must differ from the truth"


def test_projection_and_pixel_offsets(golden, close):
    recorded = golden("cameras")
    count = len(recorded.inputs["fovy_deg"])
    at_origin = recorded_cameras(recorded, True)
    at_origin = Cameras(
        torch.eye(4).expand(count, 4, 4), at_origin.fovy, at_origin.distance, at_origin.relative_distance,
        at_origin.elevation, at_origin.azimuth,
    )  # fmt: skip
    close(at_origin.model_view_projection(), recorded.outputs["projection_matrix"], 1e-5)
    (offsets,) = (value for key, value in recorded.outputs.items() if key.startswith("unit_directions_"))
    unit_focal = at_origin.select(slice(0, 1))
    height, width = offsets.shape[:2]
    unit_focal = Cameras(
        unit_focal.camera_to_world, 2 * torch.atan(torch.tensor([0.5 * height])), *[torch.ones(1)] * 4
    )
    close(unit_focal.rays(height, width)[1][0], torch.nn.functional.normalize(offsets, dim=-1), 1e-5)
