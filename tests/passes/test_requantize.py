"""Thresholds against the float32 chain itself, over every accumulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relax_models import spec

from relay_passes.quant_spec import QuantSpec
from relay_passes.requantize import find_thresholds

Array = npt.NDArray[Any]
CHANNELS = 5
settings.register_profile("passes", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("passes")


def count(accumulators: Array, thresholds: Array, flip: Array, levels: int) -> Array:
    """Codes by definition: thresholds at or below the accumulator, counted down where flipped."""
    reached = (accumulators[:, None] >= thresholds[None].astype(np.int64)).sum(axis=1)
    return np.where(flip == 1, levels - reached, reached)


class Chain:
    """A random monotone float32 chain, affine with gammas of any sign, ReLU, clip, and a residual of a few codes."""

    def __init__(self, random: np.random.Generator, quantiser: QuantSpec, rows: int, steps: list[str]) -> None:
        self.quantiser, self.steps = quantiser, steps
        span = float(quantiser.scale) * quantiser.levels
        self.scale = random.uniform(0.2, 3, CHANNELS) * span / 1000
        self.gamma = random.normal(size=CHANNELS).astype(np.float32)
        self.gamma[0], self.gamma[1], self.gamma[2] = 0, -abs(self.gamma[1]), abs(self.gamma[2])
        self.beta = (random.normal(size=CHANNELS) * span).astype(np.float32)
        self.side = (random.normal(size=rows) * span / 4).astype(np.float32)
        self.limits = np.sort(random.normal(size=2) * span).astype(np.float32)

    def __call__(self, accumulators: Array, row: int) -> Array:
        """Codes."""
        v = (accumulators.astype(np.float64) * self.scale).astype(np.float32)
        for step in self.steps:
            if step == "affine":
                v = v * self.gamma + self.beta
            elif step == "side":
                v = v + self.side[row]
            elif step == "relu":
                v = np.maximum(v, np.float32(0))
            elif step == "clip":
                v = np.clip(v, *self.limits)
            elif step == "divide":
                v = v / np.float32(-0.3)
        assert v.dtype == np.float32
        return self.quantiser.codes(v)


@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.integers(1, 8),
    signed=st.booleans(),
    bound=st.integers(1, 3000),
    rows=st.sampled_from([1, 2, 4, 16]),
    steps=st.lists(st.sampled_from(["affine", "side", "relu", "clip", "divide"]), max_size=5),
)
def test_thresholds_count_to_the_chains_codes(
    seed: int, bits: int, signed: bool, bound: int, rows: int, steps: list[str]
) -> None:
    """Every accumulator, every row, every channel."""
    random = np.random.default_rng(seed)
    qmin = -(1 << (bits - 1)) if signed else 0
    quantiser = spec(random.uniform(0.01, 2), qmin, qmin + (1 << bits) - 1, float(random.integers(qmin, qmin + 2)))
    chain = Chain(random, quantiser, rows, steps)
    thresholds, flip = find_thresholds(chain, bound, quantiser.levels, CHANNELS, rows)
    assert thresholds.shape == (rows, quantiser.levels, CHANNELS)
    assert (thresholds.dtype, flip.dtype, flip.shape) == (np.int16, np.uint8, (CHANNELS,))
    everything = np.arange(-bound, bound + 1, dtype=np.int64)[:, None].repeat(CHANNELS, axis=1)
    for row in range(rows):
        expected = chain(everything, row)
        np.testing.assert_array_equal(count(everything, thresholds[row], flip, quantiser.levels), expected)
        assert np.all(np.diff(thresholds[row].astype(np.int64), axis=0) >= 0)


def test_narrow_range_of_codes() -> None:
    """-1, 0, 1: two levels, though they take two bits."""
    quantiser = spec(1.0, -1, 1)
    thresholds, _ = find_thresholds(lambda acc, row: quantiser.codes(acc.astype(np.float32)), 5, 2, 1, 1)
    np.testing.assert_array_equal(thresholds.ravel(), [0, 1])


def test_ties_go_to_even() -> None:
    """acc / 2: 0.5 rounds to 0, 1.5 to 2, 2.5 to 2."""
    quantiser = spec(1.0, 0, 3)
    code_of = lambda acc, row: quantiser.codes((acc * 0.5).astype(np.float32))  # noqa: E731
    np.testing.assert_array_equal(find_thresholds(code_of, 20, 3, 1, 1)[0].ravel(), [2, 3, 6])


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0, 9.0])
def test_constant_chains(value: float) -> None:
    """A channel whose code never changes has thresholds that all or none are reached."""
    quantiser = spec(1.0, 0, 3)
    code_of = lambda acc, row: quantiser.codes(np.full(acc.shape, value, np.float32))  # noqa: E731
    thresholds, flip = find_thresholds(code_of, 100, 3, 1, 1)
    code = int(np.clip(value, 0, 3))
    np.testing.assert_array_equal(thresholds.ravel()[:code] <= -100, True)
    np.testing.assert_array_equal(thresholds.ravel()[code:], np.iinfo(np.int16).max)
    assert flip[0] == 0


@pytest.mark.parametrize(
    ("bound", "dtype"), [(32766, np.int16), (32767, np.int32), (32768, np.int32), (2**31 - 2, np.int32)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_type_holds_bound_and_what_is_never_reached(bound: int, dtype: Any, sign: int) -> None:
    """The narrowest type in which no accumulator equals the threshold that is never reached."""
    quantiser = spec(1.0, 0, 3)
    code_of = lambda acc, row: quantiser.codes((sign * (acc - bound + 1.5)).astype(np.float64))  # noqa: E731
    thresholds, flip = find_thresholds(code_of, bound, 3, 1, 1)
    assert thresholds.dtype == dtype
    ends = np.array([[-bound], [bound - 1], [bound]], np.int64)
    np.testing.assert_array_equal(count(ends, thresholds[0], flip, 3), code_of(ends, 0))
