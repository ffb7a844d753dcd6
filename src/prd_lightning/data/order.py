"""A random order of a million things that needs no memory: a keyed permutation of 0 ... n - 1, evaluated where it is needed.

A Feistel network permutes the smallest even number of bits that can count to n; a value that lands outside goes through it
again until it is inside, which keeps the map one-to-one (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
Rounds are keyed by SHA-256 and mixed as in SplitMix64. The place of any position is known at once, so a stream can begin
anywhere.
"""

import hashlib

import numpy
from jaxtyping import Int64, UInt64

ROUNDS = 6
_MULTIPLIERS = (numpy.uint64(0xBF58476D1CE4E5B9), numpy.uint64(0x94D049BB133111EB))


def permuted(positions: Int64[numpy.ndarray, " positions"], size: int, key: str) -> Int64[numpy.ndarray, " positions"]:
    """Where each position of a random order of ``size`` things points.

    Args:
        positions: 0 ... size - 1.
        size: n.
        key: names the order; another key gives an unrelated one.
    """
    half = numpy.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    keys = [
        numpy.uint64(int.from_bytes(hashlib.sha256(f"{key}/{size}/{number}".encode()).digest()[:8], "little"))
        for number in range(ROUNDS)
    ]
    result = _encrypted(positions.astype(numpy.uint64), half, keys)
    while (outside := result >= size).any():
        result[outside] = _encrypted(result[outside], half, keys)
    return result.astype(numpy.int64)


def _encrypted(
    values: UInt64[numpy.ndarray, " values"], half: numpy.uint64, keys: list[numpy.uint64]
) -> UInt64[numpy.ndarray, " values"]:
    mask = (numpy.uint64(1) << half) - numpy.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


def _mixed(values: UInt64[numpy.ndarray, " values"]) -> UInt64[numpy.ndarray, " values"]:
    values = (values ^ (values >> numpy.uint64(30))) * _MULTIPLIERS[0]
    values = (values ^ (values >> numpy.uint64(27))) * _MULTIPLIERS[1]
    return values ^ (values >> numpy.uint64(31))


def ordered(positions: Int64[numpy.ndarray, " positions"], size: int, seed: int | None) -> Int64[numpy.ndarray, " positions"]:
    """Numbers of the things at positions of an endless stream that goes through all ``size`` things in each of its epochs.

    Args:
        positions: 0, 1, 2, ... without bound.
        size: things.
        seed: of the orders, another in each epoch; None keeps the things' own order.
    """
    epochs, within = numpy.divmod(positions, size)
    if seed is None:
        return within
    result = numpy.empty_like(within)
    for epoch in numpy.unique(epochs):
        chosen = epochs == epoch
        result[chosen] = permuted(within[chosen], size, f"{seed}/{epoch}")
    return result
