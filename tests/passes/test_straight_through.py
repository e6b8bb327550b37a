"""``x + (q(x) - x)`` in any order is the quantiser, of activations and of weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx_graphs import GraphBuilder, assert_like_onnx

import tvm_lowbit

SHAPE = (3, 6, 6)
ORDERS: dict[str, Callable[[GraphBuilder, str, str], str]] = {
    "x + (q - x)": lambda g, x, q: g.add("Add", x, g.add("Sub", q, x)),
    "(q - x) + x": lambda g, x, q: g.add("Add", g.add("Sub", q, x), x),
    "(x + q) - x": lambda g, x, q: g.add("Sub", g.add("Add", x, q), x),
    "(q + x) - x": lambda g, x, q: g.add("Sub", g.add("Add", q, x), x),
    "x - (x - q)": lambda g, x, q: g.add("Sub", x, g.add("Sub", x, q)),
}


@pytest.mark.parametrize("of_weights", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_estimator_around_a_quantiser(order: str, of_weights: bool) -> None:
    g = GraphBuilder()
    x, w = g.input(*SHAPE), g.constant(g.random.normal(size=(4, 3, 3, 3)))
    q = g.quantiser(x, 0.31, 0, 7, name="q")
    wq = g.quantiser(w, 0.4, -2, 1, name="w")
    layer = g.add("Conv", *((q, ORDERS[order](g, w, wq)) if of_weights else (ORDERS[order](g, x, q), wq)), name="conv")
    del g.codes[wq]
    model = g.model(g.add("Relu", layer))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert [(row.name, row.bits, row.reason) for row in artifact.report.rows] == [("conv", "W2A3", "")]
    data = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    assert_like_onnx(artifact, g, model, data)


def test_a_sum_with_another_tensor_stays() -> None:
    """(q(x) - x) + y."""
    g = GraphBuilder()
    x, y = g.input(*SHAPE), g.constant(g.random.normal(size=(1, *SHAPE)))
    q = g.quantiser(x, 0.31, 0, 7, name="q")
    model = g.model(g.add("Conv", g.add("Add", g.add("Sub", q, x), y), g.weights(4, 3, 3, 3), name="conv"))
    assert [row.reason for row in tvm_lowbit.inspect(model, "host").rows if row.name == "conv"] == [
        "its input is not quantised"
    ]
