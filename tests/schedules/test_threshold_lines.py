"""Lines near thresholds: proven by looking at thresholds, held against every accumulator there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.dot_problem import Thresholds
from schedules.threshold_lines import fit_lines

Array = npt.NDArray[Any]
BOUND = 3000
EVERY = np.arange(-BOUND, BOUND + 1)


def thresholds_of(code_of: Any, levels: int) -> Array:
    """Where codes of all accumulators, which rise, change; the type's largest number where they do not get there."""
    codes = code_of(EVERY)
    first = np.searchsorted(codes, np.arange(1, levels + 1))
    return np.append(EVERY, np.iinfo(np.int16).max)[first].astype(np.int16)


def guesses(slope: np.float32, start: np.float32, levels: int) -> list[Array]:
    """What a kernel computes: with the product rounded, and fused (float64 holds it exactly; one rounding is left)."""
    apart = EVERY.astype(np.float32) * slope + start
    fused = (EVERY.astype(np.float64) * np.float64(slope) + np.float64(start)).astype(np.float32)
    return [np.clip(np.trunc(value).astype(np.int64), 0, levels - 1) for value in (apart, fused)]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(16, 255),
    st.floats(1e-3, 0.9),
    st.floats(-300, 300),
    st.floats(0.01, 0.1),
)
def test_the_code_of_every_accumulator_is_the_guess_or_the_next(levels: int, per: float, bias: float, out: float):
    """A float32 chain of scale, bias, ReLU, division and rounding, as graphs have it."""
    scale, shift, step = np.float32(per * out), np.float32(bias * out), np.float32(out)

    def code_of(accumulators: Array) -> Array:
        value = np.maximum(accumulators.astype(np.float32) * scale + shift, np.float32(0))
        return np.clip(np.rint(value / step), 0, levels).astype(np.int64)

    column = thresholds_of(code_of, levels)
    lines = fit_lines(column[None, :, None], BOUND)
    if isinstance(lines, str):
        assert per > 0.4, lines  # steep ones skip codes: rounding to integers moves them off the line
        return
    assert lines.shape == (2, 1) and lines.dtype == np.float32
    codes = code_of(EVERY)
    for guess in guesses(*lines[:, 0], levels):
        assert set(codes - guess) <= {0, 1}
        threshold = column.astype(np.int64)[guess]
        np.testing.assert_array_equal(guess + (threshold <= EVERY), codes)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(-BOUND, BOUND + 1), min_size=16, max_size=40), st.booleans())
def test_whatever_is_accepted_is_right(column: list[int], smooth: bool):
    """Any sorted thresholds, also many that are no line."""
    table = np.sort(column) if not smooth else np.sort(np.array(column) // 40 + 60 * np.arange(len(column)) - 900)
    table = np.where(table > BOUND, np.iinfo(np.int16).max, table).astype(np.int16)
    lines = fit_lines(table[None, :, None], BOUND)
    if isinstance(lines, str):
        assert "channel 0" in lines
        return
    codes = np.searchsorted(table.astype(np.int64), EVERY, side="right")
    for guess in guesses(*lines[:, 0], len(table)):
        assert set(codes - guess) <= {0, 1}


@pytest.mark.parametrize("always", [0, 1, 7, 20])
def test_codes_that_never_change(always: int):
    column = np.where(np.arange(20) < always, -BOUND, np.iinfo(np.int16).max).astype(np.int16)
    lines = fit_lines(column[None, :, None], BOUND)
    assert not isinstance(lines, str)
    for guess in guesses(*lines[:, 0], 20):
        assert set(always - guess) <= {0, 1}


def test_what_is_no_line_is_declined_with_its_channel():
    even, bent = 10 * np.arange(31), np.arange(31) ** 2
    reason = fit_lines(np.stack([even, bent], axis=-1)[None].astype(np.int16), BOUND)
    assert isinstance(reason, str) and "thresholds are no line: at " in reason and "(channel 1)" in reason
    assert not isinstance(fit_lines(even[None, :, None].astype(np.int16), BOUND), str)


def test_a_guess_beyond_32_bits_is_declined():
    column = np.array([0, 1] * 8).reshape(16)
    column.sort()
    reason = fit_lines((column + np.arange(16))[None, :, None].astype(np.int32), 2**31 - 2)
    assert isinstance(reason, str) and "would not fit 32 bits" in reason


def test_lines_are_for_one_row_that_rises():
    for more in ({"falls": 1}, {"side_bits": 2}):
        with pytest.raises(ValueError, match="lines are for one row of rising thresholds"):
            Thresholds(5, 20, lines=True, **more)
