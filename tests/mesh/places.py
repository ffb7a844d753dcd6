"""Colours that depend on the place linearly: red grows with x, green with y, blue with z, from 0 to 1 over [-1, 1]."""

import numpy


def place_colors(vertices: numpy.ndarray) -> numpy.ndarray:
    """[N, 3] positions in [-1, 1]^3 to colours."""
    return (numpy.asarray(vertices) + 1) / 2
