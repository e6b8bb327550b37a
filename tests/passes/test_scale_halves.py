"""Accumulators scaled in float32 alone are those that float64 gives, or the scale is declined."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from relax_models import evaluate
from tvm import relax

from relay_passes import ops
from relay_passes.dataflow import Scope
from relay_passes.scale_halves import EXACT, MOST_PRODUCTS, halves


def program(scale: np.ndarray, channels: int, bound: int, fma: bool) -> relax.Function:
    """``main(float accumulators)``, cast to int32 and scaled."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([1, channels, 4 * bound + 2], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            scope = Scope(builder)
            acc = scope.emit(relax.op.astype(x, "int32"), "acc")
            call = ops.scale_accumulators(acc, scale, 1, bound)
            output = builder.emit_output(scope.emit(ops.with_fma(call) if fma else call, "scaled"))
        builder.emit_func_output(output)
    return builder.get()


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=3), st.integers(1, 300), st.booleans())
def test_halves_are_the_scale(scales: list[float], bound: int, negative: bool) -> None:
    """Where they are given, they are the scale to 48 bits together, and their exact sum rounds to the products."""
    scale = np.array(scales) * (-1 if negative else 1)
    found = halves(scale, bound)
    if found is None:
        return
    for s, high, low in zip(scale, *found, strict=True):
        assert abs(Fraction(float(high)) + Fraction(float(low)) - Fraction(float(s))) <= abs(Fraction(float(s))) / 2**47
        for acc in (-bound, -1, 0, 1, bound // 2, bound):
            small = Fraction(float(np.float32(acc) * low))
            exact = acc * Fraction(float(high)) + small
            # float(Fraction) rounds once; what has 53 bits at most is then rounded to float32 as the exact sum is.
            if Fraction(float(exact)) == exact:
                assert np.float32(float(exact)) == np.float32(acc * s)


def test_kernels_agree_on_every_accumulator() -> None:
    """The kernel in float32 gives bit for bit what the one in float64 gives, on both sides of 0."""
    bound, rng = 601, np.random.default_rng(4)
    scale = np.concatenate([rng.uniform(1e-4, 1, 5), [0.5, 2.0**-20]]).astype(np.float32).astype(np.float64)
    scale *= np.float64(np.float32(0.0371))
    assert halves(scale, bound) is not None
    acc = np.arange(-2 * bound - 1, 2 * bound + 1).clip(-bound, bound).astype(np.float32)
    x = np.broadcast_to(acc, (1, len(scale), len(acc))).copy()
    results = [evaluate(program(scale, len(scale), bound, fma), x)[0] for fma in (False, True)]
    np.testing.assert_array_equal(results[0].view(np.int32), results[1].view(np.int32))
    np.testing.assert_array_equal(results[1], (x.astype(np.float64) * scale[:, None]).astype(np.float32))


def rounded(value: Fraction) -> np.float32:
    """A number from 1 to 2 as float32, ties to even, in exact arithmetic."""
    return np.float32(float(Fraction(round(value * 2**23), 2**23)))


def test_what_would_differ_is_declined() -> None:
    """Scales of which three are next to the middle between two float32 numbers: each is judged rightly.

    Float64 tells the side of the middle; three times the lower half is rounded to the middle, a tie.
    """
    rng, judged = np.random.default_rng(0), []
    for middle in rng.integers(2**23, 2**24, 300) * 2 + 1:
        scale = float(Fraction(int(middle), 2**24) / 3 + Fraction(4, 2**53))
        high = np.float32(scale)
        low = np.float32(scale - np.float64(high))
        sum_of_halves = 3 * Fraction(float(high)) + Fraction(float(np.float32(3) * low))
        same = rounded(sum_of_halves) == np.float32(3 * scale)
        assert (halves(np.array([scale]), 3) is not None) == same
        judged.append(same)
    assert any(judged) and not all(judged)


def test_too_many_products_are_declined() -> None:
    """Accumulators that float32 does not hold, or more than are tried."""
    assert halves(np.array([0.3]), EXACT) is None
    assert halves(np.full(9, 0.3), MOST_PRODUCTS // 8) is None
    assert halves(np.array([1e-40]), 3) is None
