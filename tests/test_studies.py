"""The studies behind docs/tiny_world.md run with today's library, and what they fit moves towards the truth."""

import pytest

from benchmarks.studies.exact_teacher import FEW_SAMPLES, VARIANTS, fit


def test_true_distances_are_learned_within_a_few_steps():
    fitted = fit("a red cube", steps=40)
    assert fitted["iou"] > 0.8 and fitted["volume_ratio"] == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("exact", [True, False])
def test_normals_and_disparity_move_a_ball_towards_a_disk(exact: bool):
    """A sphere of radius 0.5, which the field begins as, has an IoU of 0.32 with the disk."""
    assert fit("a red disk", steps=12, volume=FEW_SAMPLES, exact=exact)["iou"] > 0.4


def test_every_variant_names_what_it_fits_to():
    assert "points" in VARIANTS and all("volume" in settings or "mesh" in settings for settings in list(VARIANTS.values())[1:])
