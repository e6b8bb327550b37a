"""NaN behind an integer layer: no code stands for it, so the quantiser is computed in float, as the graph has it."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from onnx_graphs import GraphBuilder, assert_like_onnx, run_onnx

import tvm_lowbit
from tvm_lowbit import LowbitError

CHAINS: dict[str, Callable[[GraphBuilder, str], str]] = {
    "square root": lambda g, x: g.add("Sqrt", x),
    "NaN added": lambda g, x: g.add("Add", x, g.constant([1, np.nan, 0])),
    "divided by 0": lambda g, x: g.add("Div", x, g.constant(0.0)),
    "times infinity": lambda g, x: g.add("Mul", g.add("Add", x, g.constant([1.25, -1, 0])), g.constant(np.inf)),
    "overflow times 0": lambda g, x: g.add("Mul", g.add("Mul", x, g.constant([3e38, 1, np.inf])), g.constant(0.0)),
}


def network(g: GraphBuilder, chain: Callable[[GraphBuilder, str], str]) -> str:
    """A dense layer of 2 bits, a chain, a quantiser."""
    q = g.quantiser(g.input(4), 0.25, -2, 1, name="q")
    return g.quantiser(chain(g, g.add("MatMul", q, g.weights(4, 3, axis=1), name="fc")), 0.2, -8, 7, name="out")


@pytest.mark.parametrize("name", CHAINS)
def test_quantiser_of_nan(name: str) -> None:
    """Without any warning of NumPy's."""
    g = GraphBuilder()
    model = g.model(network(g, CHAINS[name]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        artifact = tvm_lowbit.build(model, "host", batch=64)
    assert [row.name for row in artifact.report.low_bit] == ["fc"]
    (row,) = artifact.report.stays_float
    assert row.reason == "its input is NaN where its accumulator takes some values"
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    (expected,) = run_onnx(model, x, [model.graph.output[0].name])
    assert np.isnan(expected).any()
    np.testing.assert_array_equal(next(iter(artifact.run(x).outputs.values())), expected)


def test_square_root_of_what_is_not_negative() -> None:
    """Thresholds, as of any rising function."""
    g = GraphBuilder()
    model = g.model(network(g, lambda g, x: g.add("Sqrt", g.add("Relu", x))))
    artifact = tvm_lowbit.build(model, "host", batch=8, probe=True)
    assert not artifact.report.stays_float
    assert_like_onnx(artifact, g, model, np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32))


def test_weights_that_are_nan() -> None:
    g = GraphBuilder()
    w = g.quantiser(g.constant([[1, 0], [np.nan, 1]]), 0.5, -2, 1)
    model = g.model(g.add("MatMul", g.quantiser(g.input(2), 0.25, -2, 1), w))
    with pytest.raises(LowbitError, match=r"weights of quantiser .*: expected numbers, got NaN"):
        tvm_lowbit.build(model, "host")
