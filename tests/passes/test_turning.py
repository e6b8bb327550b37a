"""Thresholds of functions that turn once, against the functions themselves over every accumulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relax_models import spec

from relay_passes.quant_spec import NoMatch
from relay_passes.turning import find_turning_thresholds

Array = npt.NDArray[Any]
CHANNELS = 6
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "silu": lambda v: v / (1 + np.exp(-v)),
    "hard-swish": lambda v: v * np.clip(v + 3, 0, 6) / 6,
    "peak": lambda v: -np.abs(v - 1),
    "rises only": lambda v: v * 3,
    "flat": lambda v: v * 0 + 0.7,
}


def check(value: Callable[[Array, int], Array], codes: Callable[[Array], Array], bound: int, tables: Any) -> None:
    """Every accumulator: rises less falls is the code."""
    rises, falls = tables
    everything = np.arange(-bound, bound + 1, dtype=np.int64)[:, None].repeat(CHANNELS, axis=1)
    for row in range(rises.shape[0]):
        reached = [(everything[:, None] >= t[row][None].astype(np.int64)).sum(axis=1) for t in (rises, falls)]
        np.testing.assert_array_equal(reached[0] - reached[1], codes(value(everything, row)))
        assert all(np.all(np.diff(t[row].astype(np.int64), axis=0) >= 0) for t in (rises, falls))


@pytest.mark.parametrize("function", FUNCTIONS)
@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.integers(1, 8),
    bound=st.one_of(st.integers(1, 500), st.integers(30000, 90000)),
    rows=st.sampled_from([1, 4]),
)
def test_thresholds_count_to_the_codes(function: str, seed: int, bits: int, bound: int, rows: int) -> None:
    """Scales of either sign, ranges within and beyond the turning point, residuals."""
    random = np.random.default_rng(seed)
    scale = random.uniform(0.5, 12, CHANNELS) * random.choice([-1, 1], CHANNELS) / bound
    shift, sides = random.normal(size=CHANNELS) * 2, random.normal(size=rows)
    zero = float(random.integers(0, 1 << bits))
    quantiser = spec(random.uniform(0.02, 1), 0, (1 << bits) - 1, zero)

    def value(acc: Array, row: int) -> Array:
        return FUNCTIONS[function](acc * scale + shift + sides[row]).astype(np.float32)

    tables = find_turning_thresholds(value, quantiser.codes, bound, quantiser.levels, CHANNELS, rows)
    assert not isinstance(tables, NoMatch)
    assert tables[0].dtype == tables[1].dtype == (np.int16 if bound < 2**15 - 1 else np.int32)
    check(value, quantiser.codes, bound, tables)


def test_what_turns_twice_is_declined() -> None:
    quantiser = spec(0.1, -8, 7)
    tables = find_turning_thresholds(
        lambda acc, row: np.sin(acc / 50).astype(np.float32), quantiser.codes, 1000, quantiser.levels, CHANNELS, 1
    )
    assert isinstance(tables, NoMatch) and "turns once" in tables.reason


def test_monotone_functions_need_no_falls() -> None:
    """One threshold that is never reached, and as many rises as levels."""
    quantiser = spec(1.0, 0, 3)
    rises, falls = find_turning_thresholds(
        lambda acc, row: acc.astype(np.float32), quantiser.codes, 100, quantiser.levels, CHANNELS, 1
    )  # type: ignore[misc] - a failure is no pair
    assert rises.shape == (1, 3, CHANNELS) and falls.shape == (1, 1, CHANNELS)
    assert np.all(falls == np.iinfo(np.int16).max)
