"""F(2x2, 3x3) in integers (Lavin and Gray, CVPR 2016): its matrices, and the ranges they give.

Output of a 2x2 tile: ``A' [(G w G') * (B' d B)] A``. G has halves; with 2 G instead everything is an integer and the
result is 4 times the exact sum, so nothing is rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

TILE, TAPS = 4, 3
POSITIONS = TILE * TILE
G2 = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])
B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])


def weight_range(values: tuple[int, int]) -> list[tuple[int, int]]:
    """Least and largest transformed weight at each of the 16 positions, of values in the given range."""
    return _ranges(G2, values)


def input_range(values: tuple[int, int]) -> list[tuple[int, int]]:
    """The same of the input."""
    return _ranges(B, values)


def _ranges(matrix: npt.NDArray[np.int64], values: tuple[int, int]) -> list[tuple[int, int]]:
    low, high = values
    found = []
    for row in matrix:
        for column in matrix:
            weights = np.outer(row, column)
            up, down = int(weights[weights > 0].sum()), int(-weights[weights < 0].sum())
            found.append((up * low - down * high, up * high - down * low))
    return found


def transform_input(d: list[list[Any]]) -> list[list[Any]]:
    """``B' d B`` of 4 x 4 vectors."""
    return _both_ways(d, lambda a: [a[0] - a[2], a[1] + a[2], a[2] - a[1], a[1] - a[3]])


def transform_taps(w: list[list[Any]]) -> list[list[Any]]:
    """``2 G w (2 G)'`` of 3 x 3 vectors."""

    def along(a: list[Any]) -> list[Any]:
        ends = a[0] + a[2]
        return [a[0] + a[0], ends + a[1], ends - a[1], a[2] + a[2]]

    return _both_ways(w, along)


def transform_output(m: list[list[Any]]) -> list[list[Any]]:
    """``A' m A``: 4 x 4 vectors to 2 x 2."""
    return _both_ways(m, lambda a: [a[0] + a[1] + a[2], a[1] - a[2] - a[3]])


def _both_ways(square: list[list[Any]], along: Any) -> list[list[Any]]:
    columns = [along(list(column)) for column in zip(*square, strict=True)]
    return [along(list(row)) for row in zip(*columns, strict=True)]
