"""F(m, 3) in integers modulo a power of two, for m = 2 and 4 outputs a dimension: matrices, and what they cost.

Evaluate at ``m + 2`` points of the projective line, multiply, interpolate (Toom and Cook; Winograd 1980; Lavin and
Gray, CVPR 2016). Interpolation divides by the differences of the points. Of sums that are wanted modulo ``2**16`` odd
divisors are no loss, since they have an inverse there; so points are chosen that differ by as few factors of two as can
be: two in each class of the projective line over two elements, ``0, 2`` and ``infinity, 1/2`` and ``1, -1``. Each
differs by a single 2 from the other of its class, and the result is twice the exact sum, 4 times in two dimensions, for
m = 4 just as for m = 2. (The usual points 0, 1, -1, 2, -2, infinity would lose 6 bits instead of 2.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.intrinsics import const, splat

TAPS = 3
# The result is so much the exact sum, in two dimensions.
SCALE = 4
# The inverse of 9 modulo 2**16.
NINTH = pow(9, -1, 1 << 16)

Matrix = npt.NDArray[np.int64]
Vector = Any
# Keeps a value for more than one use.
Hold = Callable[[Any], Any]


@dataclass(frozen=True)
class Points:
    """``2 y = A' F [(G g) * (B d)]`` modulo ``2**16``: ``n = m + 2`` products for m outputs of 3 taps.

    Attributes
    ----------
    side : int
        m.
    a : array ``(n, m)``
    b : array ``(n, n)``
    g : array ``(n, 3)``
        The matrices.
    ninths : tuple of int
        The points whose element of the diagonal F is the inverse of 9; the others' is 1.
    """

    side: int
    a: Matrix
    b: Matrix
    g: Matrix
    ninths: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many, and products: n."""
        return self.side + 2

    def input_bound(self, low: int, high: int) -> int:
        """The largest magnitude of ``B d`` for values in the range."""
        return _bound(self.b, low, high)

    def tap_bound(self, low: int, high: int) -> int:
        """The largest magnitude of ``G g``."""
        return _bound(self.g, low, high)


def _bound(matrix: Matrix, low: int, high: int) -> int:
    up, down = np.maximum(matrix, 0).sum(axis=1), np.maximum(-matrix, 0).sum(axis=1)
    return int(np.maximum(up * high - down * low, down * high - up * low).max())


TWO = Points(
    2,
    np.array([[1, 0], [1, 1], [1, -1], [0, 1]]),
    np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]]),
    np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]),
    (),
)
# At 0, 1, -1, 2, 1/2 and infinity.
FOUR = Points(
    4,
    np.array([[1, 0, 0, 0], [1, 1, 1, 1], [1, -1, 1, -1], [1, 2, 4, 8], [8, 4, 2, 1], [0, 0, 0, 1]]),
    np.array(
        [
            [2, -5, 0, 5, -2, 0],
            [0, -2, 3, 3, -2, 0],
            [0, -2, 7, -7, 2, 0],
            [0, 1, -2, -1, 2, 0],
            [0, 2, -1, -2, 1, 0],
            [0, -2, 5, 0, -5, 2],
        ]
    ),
    np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [4, 2, 1], [0, 0, 1]]),
    (2, 3, 4),
)
POINTS = {2: TWO, 4: FOUR}


def times(value: Vector, factor: int, dtype: str, lanes: int) -> Vector:
    """A vector times a constant."""
    if factor == 1:
        return value
    bits = int(dtype.lstrip("uint"))
    wrapped = (factor + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1) if dtype[0] == "i" else factor % (1 << bits)
    return value * splat(const(wrapped, dtype), lanes)


def input_along(side: int, d: Sequence[Vector], hold: Hold, twice: Callable[[Vector, int], Vector]) -> list[Vector]:
    """``B d``; ``twice(value, n)`` multiplies with a small n."""
    if side == 2:
        return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[3] - d[1]]
    u, v = hold(d[3] - d[1]), hold(d[4] - d[2])
    return [
        twice(d[0] - d[4], 2) + twice(u, 5),
        twice(d[3] + d[2], 3) - twice(d[4] + d[1], 2),
        twice(d[4] - d[1], 2) - twice(d[3] - d[2], 7),
        twice(v, 2) - u,
        v - twice(u, 2),
        twice(d[5] - d[1], 2) - twice(v, 5),
    ]


def taps_along(side: int, g: Sequence[Vector], hold: Hold, twice: Callable[[Vector, int], Vector]) -> list[Vector]:
    """``G g``."""
    ends = hold(g[0] + g[2])
    if side == 2:
        return [twice(g[0], 2), ends + g[1], ends - g[1], twice(g[2], 2)]
    double = hold(twice(g[1], 2))
    return [
        g[0],
        ends + g[1],
        ends - g[1],
        g[0] + double + twice(g[2], 4),
        g[2] + double + twice(g[0], 4),
        g[2],
    ]


def output_along(side: int, m: Sequence[Vector], hold: Hold, twice: Callable[[Vector, int], Vector]) -> list[Vector]:
    """``A' F m``."""
    if side == 2:
        return [m[0] + m[1] + m[2], m[1] - m[2] + m[3]]
    # The inverse of 9 goes into multiplications that take the place of additions.
    s, t = hold(m[1] + twice(m[2], NINTH)), hold(m[1] - twice(m[2], NINTH))
    return [
        m[0] + s + twice(m[3], NINTH) + twice(m[4], 8 * NINTH),
        t + twice(m[3], 2 * NINTH) + twice(m[4], 4 * NINTH),
        s + twice(m[3], 4 * NINTH) + twice(m[4], 2 * NINTH),
        t + twice(m[3], 8 * NINTH) + twice(m[4], NINTH) + m[5],
    ]
