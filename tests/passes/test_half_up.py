"""``Floor(x / s + 1/2)`` rounds halves up: codes are ONNX Runtime's, ties included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_graphs import GraphBuilder, run_onnx

import tvm_lowbit


def quantised(g: GraphBuilder, x: str, early: bool, zero: float, late: bool, half: float = 0.5) -> str:
    """Codes -4 to 3 of step 1/4, clipped before or after rounding; the zero point is added after or before."""
    v = g.add("Div", x, g.constant(0.25))
    if zero and not late:
        v = g.add("Add", v, g.constant(zero))
    if early:
        v = g.add("Clip", v, g.constant(-4), g.constant(3))
    v = g.add("Floor", g.add("Add", v, g.constant(half)))
    if zero and late:
        v = g.add("Add", v, g.constant(zero))
    if not early:
        v = g.add("Clip", v, g.constant(-4), g.constant(3))
    return g.add("Mul", g.add("Sub", v, g.constant(zero)) if zero else v, g.constant(0.25))


@pytest.mark.parametrize(("zero", "late"), [(0.0, False), (1.0, False), (1.0, True)])
@pytest.mark.parametrize("early", [False, True])
def test_floor_of_a_half_more(early: bool, zero: float, late: bool) -> None:
    """Before a layer and behind it; every multiple of half a step among the inputs."""
    g = GraphBuilder()
    layer = g.add(
        "MatMul", quantised(g, g.input(8), early, zero, late), g.weights(8, 5, axis=None, exact=True), name="fc"
    )
    model = g.model(quantised(g, layer, early, zero, late))
    artifact = tvm_lowbit.build(model, "host", batch=64)
    assert [(row.name, row.bits, row.reason) for row in artifact.report.rows] == [("fc", "W2A3", "")]
    x: Any = (np.random.default_rng(0).integers(-16, 16, (64, 8)) / 8).astype(np.float32)
    x[0] = np.nextafter(np.float32(0.125), np.float32(0))
    (expected,) = run_onnx(model, x, [model.graph.output[0].name])
    np.testing.assert_array_equal(next(iter(artifact.run(x).outputs.values())), expected)


def test_floor_of_something_else_is_said() -> None:
    g = GraphBuilder()
    q = quantised(g, g.input(8), True, 0.0, False, half=0.25)
    model = g.model(g.add("MatMul", q, g.weights(8, 5, axis=1), name="fc"))
    (row,) = tvm_lowbit.inspect(model, "host").stays_float
    assert row.reason.endswith("but it takes the floor of something else than a quotient plus 1/2")


def test_clip_by_magnitudes_is_said() -> None:
    """PACT's formula is no clip in float32: of -1e9 it gives a / 2."""
    g = GraphBuilder()
    x, a = g.input(8), g.constant(3.0)
    v = g.add("Sub", g.add("Abs", x), g.add("Abs", g.add("Sub", x, a)))
    v = g.add("Mul", g.constant(0.5), g.add("Add", v, a))
    q = g.add("Mul", g.add("Round", g.add("Mul", v, g.constant(5))), g.constant(0.2))
    model = g.model(g.add("MatMul", q, g.weights(8, 5, axis=1), name="fc"))
    (row,) = tvm_lowbit.inspect(model, "host").stays_float
    assert "but it clips by PACT's (abs(x) - abs(x - a) + a) / 2" in row.reason
    artifact = tvm_lowbit.build(model, "host", batch=2)
    data = np.float32([[-1e9] * 8, np.linspace(-1, 5, 8)])
    (clipped, expected) = run_onnx(model, data, [v, model.graph.output[0].name])
    assert clipped[0, 0] == 1.5
    np.testing.assert_allclose(next(iter(artifact.run(data).outputs.values())), expected, rtol=1e-6)
