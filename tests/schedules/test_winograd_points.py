"""F(m, 3) modulo 2**16: the matrices give convolutions, and the written-out transforms are the matrices."""

from __future__ import annotations

import numpy as np
import pytest

from schedules import winograd_points as points
from schedules.winograd_points import FOUR, NINTH, POINTS, TAPS, TWO

MODULUS = 1 << 16


@pytest.mark.parametrize("each", [TWO, FOUR], ids=lambda each: f"side {each.side}")
def test_interpolation_gives_twice_the_convolution(each: points.Points) -> None:
    factors = np.array([NINTH if i in each.ninths else 1 for i in range(each.count)])
    for k in range(each.side):
        for tap in range(TAPS):
            for at in range(each.count):
                found = int((each.a[:, k] * factors * each.g[:, tap] * each.b[:, at]).sum())
                assert found % MODULUS == (2 if at == k + tap else 0)


@pytest.mark.parametrize("side", POINTS)
def test_transforms_are_what_the_matrices_say(side: int) -> None:
    each = POINTS[side]
    factors = np.array([NINTH if i in each.ninths else 1 for i in range(each.count)])

    def applied(along: object, size: int) -> np.ndarray:
        units = [np.eye(size, dtype=np.int64)[i] for i in range(size)]
        return np.array(along(side, units, lambda v: v, lambda v, n: v * n))  # type: ignore[operator]

    np.testing.assert_array_equal(applied(points.input_along, each.count), each.b)
    np.testing.assert_array_equal(applied(points.taps_along, TAPS), each.g)
    difference = applied(points.output_along, each.count) - (each.a * factors[:, None]).T
    assert not (difference % MODULUS).any()


def test_bounds_are_reached() -> None:
    # 7 x 3 is the largest sum of taps of 0..3, and 2 + 7 codes stand against 7 + 2.
    assert FOUR.tap_bound(0, 3) == 21
    assert FOUR.input_bound(0, 3) == 27
    assert TWO.input_bound(-2, 1) == 4


def test_a_constant_reaches_position_one_only() -> None:
    for each in POINTS.values():
        assert [int(row.sum()) for row in each.b] == [0, 2, *[0] * (each.count - 2)]
        assert (each.a[1] == 1).all()
