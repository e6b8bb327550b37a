"""Signs as quantisers: zeros, magnitudes and strictness as ONNX Runtime has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_graphs import GraphBuilder, assert_like_onnx, run_onnx
from relax_models import const, evaluate, module, operators
from tvm import relax

import tvm_lowbit
from relay_passes import notes
from relay_passes.detect import detect_quantizers
from relay_passes.ops import FAKE_QUANT

SHAPE = (3, 5, 5)


def inputs() -> Any:
    """Random values with zeros of both signs and the smallest numbers beside among them."""
    x = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype(np.float32)
    tiny = np.finfo(np.float32).tiny
    x.reshape(-1)[::5] = np.resize(np.array([0.0, -0.0, tiny, -tiny, 1e-20], np.float32), x.size // 5)
    return x


def sign(g: GraphBuilder, x: str, name: str) -> str:
    return g.add("Sign", x, name=name)


def scaled_sign(g: GraphBuilder, x: str, name: str) -> str:
    return g.add("Mul", g.add("Sign", x), g.constant(0.37), name=name)


def where(comparison: str, *levels: float, left: bool = False) -> Any:
    def make(g: GraphBuilder, x: str, name: str) -> str:
        zero = g.constant(0)
        condition = g.add(comparison, *((zero, x) if left else (x, zero)))
        return g.add("Where", condition, *map(g.constant, levels), name=name)

    return make


def larq(g: GraphBuilder, x: str, name: str) -> str:
    return g.add("Sign", g.add("Add", g.add("Sign", x), g.constant(0.1)), name=name)


SPELLINGS = {
    "sign": (sign, "A2"),
    "scaled_sign": (scaled_sign, "A2"),
    "at_least": (where("GreaterOrEqual", 1, -1), "A1"),
    "above": (where("Greater", 0.3, -0.3), "A1"),
    "below": (where("Less", -1, 1), "A1"),
    "at_most": (where("LessOrEqual", -2, 2), "A1"),
    "zero_on_the_left": (where("LessOrEqual", 1, -1, left=True), "A1"),
    "step": (where("GreaterOrEqual", 0.7, 0), "A1"),
    "larq": (larq, "A1"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_activations(spelling: str) -> None:
    """Of the input, and of an accumulator that is 0 now and then; values are those of ONNX Runtime."""
    make, bits = SPELLINGS[spelling]
    g = GraphBuilder(opset=16)
    q = make(g, g.input(*SHAPE), "q0")
    conv = g.add("Conv", q, g.weights(4, 3, 1, 1, exact=True), name="c1")
    last = g.add("Conv", make(g, conv, "q1"), g.weights(2, 4, 3, 3), name="c2")
    model = g.model(last, "q0", "q1")
    artifact = tvm_lowbit.build(model, "host")
    assert [row.bits for row in artifact.report.low_bit] == [f"W2{bits}", f"W2{bits}"]
    x = inputs()
    result = artifact.run(x)
    for name, expected in zip((last, "q0", "q1"), run_onnx(model, x, [last, "q0", "q1"]), strict=True):
        np.testing.assert_allclose(result.outputs[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("zeros", "bits"), [(True, "W2A3"), (False, "W1A3")])
@pytest.mark.parametrize("magnitude", ["none", "one", "per_channel"])
def test_weights(zeros: bool, bits: str, magnitude: str) -> None:
    """XNOR-Net: a magnitude for each output; a weight of 0 stays 0."""
    g = GraphBuilder()
    w = g.random.normal(size=(4, 3, 3, 3)).astype(np.float32)
    w[1, 1] = 0 if zeros else w[1, 1]
    v = g.add("Sign", g.constant(w))
    if magnitude != "none":
        v = g.add("Mul", v, g.constant(np.abs(w).mean((1, 2, 3), keepdims=True) if magnitude != "one" else 0.4))
    model = g.model(g.add("Conv", g.quantiser(g.input(*SHAPE), 0.3, -4, 3, name="x0"), v, name="c"))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert [row.bits for row in artifact.report.low_bit] == [bits]
    assert_like_onnx(artifact, g, model, inputs())


def chosen(emit: Any, x: Any, threshold: Any = 0, levels: Any = (1, -1), magnitude: Any = None) -> Any:
    above = emit(relax.op.greater_equal(x, const(threshold)))
    value = emit(relax.op.where(above, const(levels[0]), const(levels[1])), "level" if magnitude is not None else "q")
    return value if magnitude is None else emit(relax.op.multiply(value, const(magnitude)), "q")


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"levels": (1, -2)}, "its levels -2 and 1 are neither opposite nor 0 and above"),
        ({"levels": (-1, 1)}, "its levels 1 and -1 are neither opposite nor 0 and above"),
        ({"levels": ([1, 2, 3, 4, 5], -1)}, "its two levels vary within the tensor"),
        ({"magnitude": -0.5}, "its magnitude is not above 0"),
        ({"magnitude": np.nan}, "its magnitude is not above 0"),
        ({"magnitude": np.arange(1.0, 16).reshape(1, 3, 5, 1)}, "varies along more than one axis"),
    ],
)
def test_what_is_declined_says_why(numbers: dict[str, Any], reason: str) -> None:
    before = module(lambda emit, x: chosen(emit, x, **numbers), (1, *SHAPE))
    after = detect_quantizers(before)
    assert reason in notes.read(after)["declined"]["q"]
    np.testing.assert_array_equal(evaluate(after, inputs()[:1])[0], evaluate(before, inputs()[:1])[0])


def test_sum_with_a_sign_that_is_not_larqs() -> None:
    def body(emit: Any, x: Any) -> Any:
        inner = emit(relax.op.sign(x), "inner")
        return emit(relax.op.sign(emit(relax.op.add(inner, const(1.5)))), "q")

    after = detect_quantizers(module(body, (1, *SHAPE)))
    assert "it adds to a sign what is not between 0 and 1" in notes.read(after)["declined"]["q"]
    assert operators(after) == [FAKE_QUANT, "relax.add", "relax.sign"]


def test_sign_of_integers_is_no_quantiser() -> None:
    def body(emit: Any, x: Any) -> Any:
        whole = emit(relax.op.astype(x, "int32"))
        return emit(relax.op.astype(emit(relax.op.sign(whole), "q"), "float32"), "out")

    after = detect_quantizers(module(body, (1, *SHAPE)))
    assert "it takes the sign of int32, not of float32" in notes.read(after)["declined"]["q"]
