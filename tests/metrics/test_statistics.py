"""Retrieval ranks and bootstrap intervals in closed form; the summary of geometry."""

import numpy
import pytest
import torch

from prd_lightning.errors import ConfigurationError
from prd_lightning.mesh.health import triangle_health
from prd_lightning.metrics import bootstrap_interval, geometry_summary, ranks


def test_ranks():
    similarity = torch.tensor([[0.1, 0.3, 0.2], [0.5, 0.5, 0.5], [0.9, 0.0, 0.95]])
    assert ranks(similarity, torch.tensor([1, 0, 0])).tolist() == [1, 3, 2]


def test_an_interval_of_many_values_is_that_of_the_normal_distribution():
    values = numpy.random.default_rng(1).normal(5.0, 2.0, 400)
    found = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean()) and found.high - found.low == pytest.approx(2 * half, rel=0.04)
    assert bootstrap_interval(values) == found and bootstrap_interval([3.0]).low == bootstrap_interval([3.0]).high == 3.0


def test_the_bounds_of_two_values_are_exact():
    """Of four equally likely samples of two values one has the mean 0 and one the mean 1."""
    found = bootstrap_interval([0.0, 1.0], level=0.9)
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize("arguments", [{"values": []}, {"values": [1.0], "level": 1.0}, {"values": [1.0], "resamples": 0}])
def test_what_has_no_interval_is_refused(arguments):
    with pytest.raises(ConfigurationError, match="interval needs"):
        bootstrap_interval(**arguments)


def test_shares_and_medians_of_geometry():
    corners = numpy.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], numpy.float32)
    closed = triangle_health(corners, numpy.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))
    opened = triangle_health(corners, numpy.array([[0, 2, 1], [0, 1, 3], [0, 3, 2]]))
    summary = geometry_summary([closed, opened])
    assert summary["watertight_share"] == 0.5 and summary["single_component_share"] == 1.0
    assert summary["median_faces"] == 3.5 and summary["median_open_edges"] == 1.5
    assert geometry_summary([]) == {}
