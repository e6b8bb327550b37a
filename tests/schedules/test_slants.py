"""Steps that move accumulators: proven by intervals, held against every accumulator and code there are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules import reference
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.problem_key import problem_key, problem_of
from schedules.slants import Slants, fit_slants, made_up, narrowed, reach

Array = npt.NDArray[Any]
FAR = np.iinfo(np.int16)


def counted(thresholds: Array, accumulators: Array) -> Array:
    """Thresholds ``(..., levels)`` that each of the accumulators ``(..., n)`` reaches."""
    return (accumulators[..., None, :] >= thresholds[..., :, None].astype(np.int64)).sum(axis=-2)


def hold_against_every_accumulator(rows: Array, slants: Slants, low: int, high: int) -> None:
    """For tables ``(rows, levels, 1)``."""
    every = np.arange(low, high + 1)
    codes = np.arange(len(rows))[:, None]
    moved = (every << slants.shift) + codes * int(slants.steps[0])
    limits = np.iinfo(slants.steps.dtype)
    assert limits.min <= moved.min() and moved.max() < limits.max
    base = slants.thresholds[0, :, 0]
    np.testing.assert_array_equal(
        counted(np.stack([base] * len(rows)), moved), counted(rows[:, :, 0], every + 0 * codes)
    )
    assert (np.diff(base.astype(np.int64)) >= 0).all(), "a search wants them sorted"
    assert slants.thresholds.dtype == slants.steps.dtype


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 15),
    st.floats(0.004, 2.0),
    st.floats(-2.0, 2.0),
    st.floats(-40.0, 40.0),
    st.integers(0, 300),
    st.integers(0, 300),
)
def test_a_float32_chain_of_scale_bias_and_residual(
    bits: int, levels: int, scale: float, other: float, bias: float, low: int, high: int
) -> None:
    every = np.arange(-low, high + 1)
    value = every.astype(np.float32) * np.float32(scale) + np.float32(bias)
    sums = value + np.arange(1 << bits, dtype=np.float32)[:, None] * np.float32(other)
    codes = np.clip(np.rint(np.maximum(sums, np.float32(0))), 0, levels)
    first = (codes[:, None] < np.arange(1, levels + 1)[:, None]).sum(axis=-1)
    rows = np.append(every, FAR.max)[first].astype(np.int16)[:, :, None]
    short, wide = (fit_slants(rows, np.array([-low]), np.array([high]), dtype) for dtype in ("int16", "int32"))
    if isinstance(short, str):
        assert "16 bits" in short, "there is a line; only its fractions may take too many bits"
    else:
        assert short.steps.dtype == np.int16
        hold_against_every_accumulator(rows, short, -low, high)
    # What 32 bits leave are ties that float32 rounding breaks now this way, now that.
    assert not isinstance(wide, str) or isinstance(short, str)
    if not isinstance(wide, str):
        assert wide.steps.dtype == np.int32
        hold_against_every_accumulator(rows, wide, -low, high)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 5), st.booleans(), st.sampled_from([np.int16, np.int32]))
def test_whatever_is_accepted_is_right(data: Any, bits: int, levels: int, smooth: bool, dtype: Any) -> None:
    """Any sorted thresholds, also those that no step suits, and those never or always reached."""
    limits = np.iinfo(dtype)
    numbers = st.one_of(st.integers(-60, 60), st.sampled_from([int(limits.min), -101, -100, 100, 101, int(limits.max)]))
    shape = (1 if smooth else 1 << bits, levels)
    rows = np.array(data.draw(st.lists(numbers, min_size=shape[0] * levels, max_size=shape[0] * levels)))
    rows = np.sort(rows.reshape(shape), axis=1)
    if smooth:
        step = data.draw(st.integers(-300, 300))
        rows = rows - np.arange(1 << bits)[:, None] * step // 8
    rows = np.clip(rows, limits.min, limits.max).astype(dtype)[:, :, None]
    found = fit_slants(rows, np.array([-100]), np.array([100]))
    if not isinstance(found, str):
        hold_against_every_accumulator(rows, found, -100, 100)


def test_the_least_shift_that_will_do() -> None:
    """Rows 2.5 apart need halves; 3 apart none; rows that nothing reaches tell nothing."""
    low, high = np.array([-50]), np.array([50])
    shifts = {}
    for apart in (3.0, 2.5):
        rows = np.ceil(np.array([0.0, 9.0]) - apart * np.arange(4)[:, None]).astype(np.int16)[:, :, None]
        found = fit_slants(rows, low, high)
        assert isinstance(found, Slants)
        shifts[apart] = found.shift
    assert shifts[3.0] == 0 < shifts[2.5]
    never = fit_slants(np.full((4, 3, 1), FAR.max, np.int16), low, high)
    assert isinstance(never, Slants) and never.shift == 0 and never.steps[0] == 0


def test_why_there_are_none() -> None:
    low, high = np.array([-50, -50]), np.array([50, 50])
    bent = np.array([[0, 9], [5, 5], [-9, 2], [30, -30]], np.int16)[:, None, :]
    assert "not evenly apart" in str(fit_slants(bent, low, high))
    wide = np.full((4, 1, 2), 3, np.int16)
    assert "16 bits hold no accumulator" in str(fit_slants(wide, low, np.array([50, FAR.max])))
    steep = np.array([[30000], [15000], [0], [-15000]], np.int16)[:, :, None]
    assert "what the second operand adds" in str(fit_slants(steep, np.array([-20000]), np.array([32000])))


@pytest.mark.parametrize("a", [Operand(2), Operand(3, 1, -4), Operand(1, 2, -1)])
def test_no_accumulator_lies_beyond_its_reach(a: Operand) -> None:
    """All inputs of a small layer, with a padded edge."""
    p = DotProblem(1, 1, 2, 2, 3, a, Operand(2, offset_bound=3), kernel=(1, 2), padding=(0, 1, 0, 0))
    random = np.random.default_rng(3)
    weights = random.integers(0, 4, (3, 2, 1, 2), np.uint8)
    offset = np.array([-3, -2, 1], np.int32)
    low, high = reach(p, weights, offset)
    every = np.stack(np.meshgrid(*[np.arange(a.max_code + 1)] * 4), axis=-1).reshape(-1, 1, 2, 2).astype(np.uint8)
    sums = reference.accumulate(replace(p, batch=len(every)), every, weights, offset)
    ends = sums.reshape(-1, 3).min(axis=0), sums.reshape(-1, 3).max(axis=0)
    assert (low <= np.minimum(ends[0], 0)).all() and (high >= np.maximum(ends[1], 0)).all()
    assert (low < 0).any() and (high > 0).any()
    if a.offset == 0:
        np.testing.assert_array_equal(np.stack([low, high]), [np.minimum(ends[0], 0), np.maximum(ends[1], 0)])


def test_keys_tell_them_from_rows_and_from_other_shifts() -> None:
    p = DotProblem(1, 4, 4, 8, 8, Operand(2), Operand(2, offset=-2, uniform=True, span=(0, 3)))
    out, types = Thresholds(2, 3).out, (None, "int16", "int32")
    specs = [Thresholds(2, 3, 2, side=out, shift=shift, dtype=kind) for shift in (None, 0, 3) for kind in types]
    keys = [problem_key(replace(p, epilogue=spec)) for spec in specs]
    assert len(set(keys)) == 9
    for key, spec in zip(keys, specs, strict=True):
        found = problem_of(key)
        assert problem_key(found) == key and found.epilogue == spec
    with pytest.raises(ValueError, match="shift"):
        Thresholds(2, 3, shift=1)


def test_made_up_ones_fit_their_type() -> None:
    spec = Thresholds(2, 3, 2, side=Thresholds(2, 3).out, shift=4)
    random = np.random.default_rng(0)
    sums = random.integers(-2000, 2000, (1, 3, 3, 5))
    side = random.integers(0, 4, sums.shape, np.uint8)
    slants, moved = made_up(spec, sums, side, "int16", random)
    np.testing.assert_array_equal(moved, (sums << 4) + side * slants.steps.astype(np.int64))
    assert FAR.min <= moved.min() and moved.max() < FAR.max and slants.steps.any()
    assert len(np.unique(reference.count_thresholds(moved, slants.thresholds, np.zeros(5, np.uint8)))) > 2


def test_thresholds_in_16_bits_count_the_same() -> None:
    """Where accumulators fit; thresholds beyond them stay beyond."""
    low, high = np.array([-200, -32768]), np.array([300, 32766])
    table = np.array([[-(2**31), -200, 300, 301, 2**31 - 1], [-40000, -32768, 32766, 32767, 40000]], np.int32).T[None]
    found = narrowed([table], low, high)
    assert found is not None and found[0].dtype == np.int16
    for channel in range(2):
        every = np.arange(low[channel], high[channel] + 1)
        np.testing.assert_array_equal(counted(found[0][0, :, channel], every), counted(table[0, :, channel], every))
    assert narrowed([table], low, high + 1) is None
    assert narrowed([table], low - 1, high) is None
    assert narrowed([table.astype(np.int16)], low, high) is None, "they are"
