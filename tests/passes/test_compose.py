"""ComposeRequantize: one table says what two quantisers in a row do, or none is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from relax_models import const, evaluate, module, operators, quantised, spec
from tvm import relax

from relay_passes import ops
from relay_passes.compose import Counts, compose_requantize, composed
from relay_passes.detect import detect_quantizers
from relay_passes.lower import lower_lowbit
from relay_passes.ops import fake_quant
from relay_passes.rewrite import rewrite_lowbit
from schedules import reference
from schedules.cores import host_core

CHANNELS, BOUND = 5, 40
SHAPE = (1, 4, 6, 6)


def tables(random: Any, rows: int, levels: int, falls: int, bound: int) -> Counts:
    """Sorted thresholds of both kinds, some of them never reached."""

    def table(count: int) -> Any:
        found = random.integers(-bound, bound + 1, (rows, count, CHANNELS)).astype(np.int16)
        found[random.random(found.shape) < 0.1] = np.iinfo(np.int16).max
        return np.sort(found, axis=1)

    flip = np.zeros(CHANNELS, np.uint8) if falls else random.integers(0, 2, CHANNELS).astype(np.uint8)
    return Counts(table(levels), flip, table(falls) if falls else None)


def counted(counts: Counts, accumulators: Any, side: Any = None) -> Any:
    """By the reference of the kernels' own tests."""
    return reference.count_thresholds(accumulators, counts.rises, counts.flip, side, counts.falls)


@pytest.mark.parametrize("as_row", [False, True])
@pytest.mark.parametrize(("bits", "inner_falls"), [(1, 0), (2, 0), (3, 0), (2, 1), (4, 2)])
@pytest.mark.parametrize("seed", range(6))
def test_one_table_for_both(seed: int, bits: int, inner_falls: int, as_row: bool) -> None:
    """For every accumulator and every code of the other operand."""
    random = np.random.default_rng(seed)
    top, other = (1 << bits) - 1, 2
    first = tables(random, 1, top, inner_falls, BOUND)
    accumulators = np.arange(-BOUND - 1, BOUND + 2)[:, None].repeat(CHANNELS, axis=1)[None, None]
    codes = counted(first, accumulators).astype(np.int64)
    # Falls may lie before rises here, which no quantiser's do: codes below zero wrap, and are left out.
    first_is_one = codes.max() <= top
    second = tables(random, 1 << (bits if as_row else other), 3, 0, top + 1)
    if as_row:  # a sum rises with either operand
        second = Counts(-np.sort(-second.rises, axis=0), second.flip)
    found = composed(first, second, 1 << other, 3, as_row)
    if found is None or not first_is_one:
        assert inner_falls, "without falls there is always a table"
        return
    for row in range(1 << other):
        rows = np.full_like(codes, row)
        expected = counted(second, rows, codes) if as_row else counted(second, codes, rows)
        np.testing.assert_array_equal(counted(found, accumulators, rows), expected)


def test_a_function_that_turns_too_often_has_no_table() -> None:
    """Codes 0, 1, 0, 1 of which the second quantiser makes 0, 3, 0, 3: six rises into 2 bits."""
    first = Counts(np.array([[[0], [20]]], np.int16), np.zeros(1, np.uint8), np.array([[[10]]], np.int16))
    second = Counts(np.ones((1, 3, 1), np.int16), np.zeros(1, np.uint8))
    assert composed(first, second, 1, 3, False) is not None
    again = Counts(np.array([[[0], [20], [40]]], np.int16), np.zeros(1, np.uint8), np.array([[[10], [30]]], np.int16))
    assert composed(again, second, 1, 3, False) is None


def convolution(emit: Any, q: Any, name: str) -> Any:
    """3x3, 2-bit weights, some batch norm scales negative."""
    numbers = np.random.default_rng(len(name)).normal(size=(4, 4, 3, 3)) * 0.5
    conv = emit(
        relax.op.nn.conv2d(q, emit(fake_quant(const(numbers), spec(0.25, -2, 1)), f"{name}_w"), padding=1), name
    )
    return emit(relax.op.multiply(conv, const(np.array([0.5, -0.25, 1.0, 0.1]).reshape(4, 1, 1))), f"{name}_scale")


def join(emit: Any, left: Any, right: Any, **numbers: Any) -> Any:
    """Added, rectified, quantised."""
    total = emit(relax.op.nn.relu(emit(relax.op.add(left, right), "join")), "relu")
    return emit(relax.op.negative(quantised(emit, total, "out", **({"scale": 1.0} | numbers))), "end")


def identity_shortcut(emit: Any, x: Any) -> Any:
    """The second operand is the block's input."""
    q = quantised(emit, x, "in")
    return join(emit, quantised(emit, convolution(emit, q, "conv"), "inner", qmin=-2, qmax=1), q)


def shortcut_first(emit: Any, x: Any) -> Any:
    """The same with the operands in the other order."""
    q = quantised(emit, x, "in")
    return join(emit, q, quantised(emit, convolution(emit, q, "conv"), "inner", qmin=-2, qmax=1))


def two_convolutions(emit: Any, x: Any) -> Any:
    """Both operands are convolutions; one of them keeps its quantiser."""
    q = quantised(emit, x, "in")
    sides = [quantised(emit, convolution(emit, q, n), f"{n}_q", qmin=-4, qmax=3) for n in ("left", "right_one")]
    return join(emit, *sides)


def eight_bit_residual(emit: Any, x: Any) -> Any:
    """The wider operand is counted, in four rows: 256 rows would be a larger table than both were."""
    q = quantised(emit, x, "in", qmax=255, scale=0.02)
    return join(emit, quantised(emit, convolution(emit, q, "conv"), "inner", qmin=-2, qmax=1), q)


def read_twice(emit: Any, x: Any) -> Any:
    """The codes between are a result of the network, too."""
    q = quantised(emit, x, "in")
    inner = quantised(emit, convolution(emit, q, "conv"), "inner", qmin=-2, qmax=1)
    return relax.Tuple([join(emit, inner, q), emit(relax.op.negative(inner), "other_end")])


def quantised_again(emit: Any, x: Any) -> Any:
    """Two quantisers in a row, nothing added."""
    inner = quantised(emit, convolution(emit, quantised(emit, x, "in"), "conv"), "inner", qmax=15, scale=0.1)
    return emit(relax.op.negative(quantised(emit, inner, "out", scale=0.7)), "end")


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (identity_shortcut, 1),
        (shortcut_first, 1),
        (two_convolutions, 2),
        (eight_bit_residual, 2),
        (read_twice, 2),
        (quantised_again, 1),
    ],
)
def test_joins_in_the_convolutions_epilogue(body: Any, left: int) -> None:
    """As many quantisers are left as must write codes; values are those of TVM's compilation of the float graph."""
    mod = detect_quantizers(module(body, SHAPE))
    rewritten = rewrite_lowbit(mod)
    assert operators(compose_requantize(rewritten)).count(ops.REQUANTIZE) == left
    x = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32) * 2
    got = evaluate(lower_lowbit(rewritten, host_core()), x)
    for result, expected in zip(got, evaluate(mod, x), strict=True):
        np.testing.assert_array_equal(result, expected)
        assert len(np.unique(expected)) > 2, "the case must tell codes apart"
