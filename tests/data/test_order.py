"""The memoryless random order: a permutation for every size, another one for every key, and not visibly regular."""

import numpy
import pytest
from scipy import stats

from prd_lightning.data.order import ordered, permuted


def order(size: int, key: str = "a") -> numpy.ndarray:
    return permuted(numpy.arange(size), size, key)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 100, 1023, 1024, 1025, 20_011])
def test_every_thing_comes_once(size: int):
    assert numpy.array_equal(numpy.sort(order(size)), numpy.arange(size))


def test_a_part_of_the_order_is_known_without_the_rest():
    whole = order(5000)
    assert numpy.array_equal(permuted(numpy.array([4999, 7, 7]), 5000, "a"), whole[[4999, 7, 7]])


def test_another_key_or_size_gives_an_unrelated_order():
    for other in (order(5000, "b"), order(5001)[:5000]):
        assert (order(5000) == other).sum() < 20
        assert abs(stats.spearmanr(order(5000), other).statistic) < 0.06


def test_places_are_uniform_over_keys_and_neighbours_are_unrelated():
    """Chi-square over 600 keys of where the first thing goes; rank correlation with the position and with the next place."""
    counts = numpy.bincount([int(permuted(numpy.array([0]), 20, str(key))[0]) for key in range(600)], minlength=20)
    assert stats.chisquare(counts).pvalue > 1e-4
    places = order(20_000)
    assert abs(stats.spearmanr(numpy.arange(20_000), places).statistic) < 0.03
    assert abs(stats.spearmanr(places[:-1], places[1:]).statistic) < 0.03


def test_a_stream_goes_through_everything_in_each_epoch_in_another_order():
    numbers = ordered(numpy.arange(35), 10, seed=3)
    epochs = [numbers[start : start + 10].tolist() for start in range(0, 30, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 3
    assert numpy.array_equal(ordered(numpy.arange(27, 35), 10, seed=3), numbers[27:])
    assert ordered(numpy.arange(8, 12), 10, seed=None).tolist() == [8, 9, 0, 1]
