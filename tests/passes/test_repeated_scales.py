"""Scales written out in full are the scales that they repeat; quantised biases are numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_graphs import GraphBuilder, assert_like_onnx

import tvm_lowbit
from relay_passes.patterns.base import per_axis
from relay_passes.quant_spec import NoMatch

SHAPE = (3, 6, 6)
CHANNELS = np.float32([0.25, 0.5, 0.125])


@pytest.mark.parametrize(
    ("array", "expected", "axis"),
    [
        (np.full((2, 3, 4), 0.5), 0.5, None),
        (np.full((4,), 0.5), 0.5, None),
        (np.broadcast_to(CHANNELS[:, None], (2, 3, 4)), CHANNELS, 1),
        (np.full((2, 3, 4), np.nan), np.nan, None),
        (CHANNELS.reshape(1, 3, 1), CHANNELS, 1),
    ],
)
def test_axes_along_which_a_scale_does_not_vary(array: Any, expected: Any, axis: int | None) -> None:
    found = per_axis(array, 3)
    assert not isinstance(found, NoMatch)
    np.testing.assert_array_equal(found[0], np.float32(expected))
    assert found[1] == axis


def test_a_scale_that_varies_along_two_axes() -> None:
    found = per_axis(np.arange(1, 7).reshape(2, 3, 1), 3)
    assert isinstance(found, NoMatch)
    assert found.reason == "its scale varies along more than one axis"


@pytest.mark.parametrize("zero", [0.0, 2.0])
def test_scale_of_the_tensors_own_shape(zero: float) -> None:
    g = GraphBuilder()
    q = g.quantiser(g.input(*SHAPE), np.full((1, *SHAPE), 0.31, np.float32), 0, 7, zero, name="q")
    model = g.model(g.add("Conv", q, g.weights(4, 3, 3, 3), name="conv"))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert [row.bits for row in artifact.report.rows] == ["W2A3"]
    x = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    assert_like_onnx(artifact, g, model, x)


@pytest.mark.parametrize("bits", [4, 8, 16, 32])
def test_quantised_bias(bits: int) -> None:
    """No row of its own, and thresholds behind it."""
    g = GraphBuilder()
    q = g.quantiser(g.input(*SHAPE), 0.31, 0, 7, name="q")
    half = 1 << (bits - 1)
    bias = g.add("Div", g.constant([0.1, -0.2, 7, 0.3]), g.constant(0.0371))
    bias = g.add(
        "Mul", g.add("Clip", g.add("Round", bias), g.constant(-half), g.constant(half - 1)), g.constant(0.0371)
    )
    y = g.add("Add", g.add("Conv", q, g.weights(4, 3, 3, 3), name="conv"), g.add("Reshape", bias, ints(g, 1, 4, 1, 1)))
    model = g.model(g.quantiser(y, 0.217, -8, 7, name="out"))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert [(row.name, row.bits, row.reason) for row in artifact.report.rows] == [("conv", "W2A3", "")]
    x = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    assert_like_onnx(artifact, g, model, x)


def ints(g: GraphBuilder, *values: int) -> str:
    """An int64 constant."""
    return g.constant(list(values), np.int64)
