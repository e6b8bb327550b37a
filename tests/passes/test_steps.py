"""Comparisons with constants as quantisers: thresholds, levels, strictness and magnitudes; what is declined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx_graphs import GraphBuilder, run_onnx
from relax_models import const, module, values
from tvm import relax

import tvm_lowbit
from relay_passes import notes
from relay_passes.detect import detect_quantizers
from relay_passes.ops import FAKE_QUANT, literal, op_name, quant_spec
from relay_passes.patterns.steps import STEPS

SHAPE = (3, 5, 5)
Make = Callable[[GraphBuilder, str, str], str]


def inputs() -> Any:
    """Random values with thresholds, their neighbours and zeros among them."""
    x = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype(np.float32)
    ends = np.float32([0.0, -0.0, 0.25, -0.25, 0.37, -0.5, 1e-42, -1e-42])
    x.reshape(-1)[::3] = np.resize(ends, x.size // 3)
    x.reshape(-1)[1::7] = np.resize(np.nextafter(ends, np.float32(np.inf)), x.reshape(-1)[1::7].size)
    x.reshape(-1)[2::7] = np.resize(np.nextafter(ends, np.float32(-np.inf)), x.reshape(-1)[2::7].size)
    return x


def cast(g: GraphBuilder, x: str, operator: str, threshold: float, left: bool = False) -> str:
    t = g.constant(threshold)
    return g.add("Cast", g.add(operator, *((t, x) if left else (x, t))), to=1)


def affine(operator: str, threshold: float, factor: float, shift: float, left: bool = False) -> Make:
    def make(g: GraphBuilder, x: str, name: str) -> str:
        return g.add(
            "Sub", g.add("Mul", cast(g, x, operator, threshold, left), g.constant(factor)), g.constant(shift), name=name
        )

    return make


def scaled(operator: str, threshold: float, factor: float) -> Make:
    return lambda g, x, name: g.add("Mul", g.constant(factor), cast(g, x, operator, threshold), name=name)


def where(operator: str, threshold: float, a: float, b: float) -> Make:
    def make(g: GraphBuilder, x: str, name: str) -> str:
        return g.add("Where", g.add(operator, x, g.constant(threshold)), g.constant(a), g.constant(b), name=name)

    return make


def apart(upper: tuple[str, float], lower: tuple[str, float], size: float = 1.0) -> Make:
    def make(g: GraphBuilder, x: str, name: str) -> str:
        code = g.add("Sub", cast(g, x, *upper), cast(g, x, *lower), name=name if size == 1 else "")
        return code if size == 1 else g.add("Mul", code, g.constant(size), name=name)

    return make


def nested(high: float, low: float, middle: float = 0.0) -> Make:
    def make(g: GraphBuilder, x: str, name: str) -> str:
        below = g.add("Where", g.add("Less", x, g.constant(-0.5)), g.constant(low), g.constant(middle))
        return g.add("Where", g.add("GreaterOrEqual", x, g.constant(0.37)), g.constant(high), below, name=name)

    return make


TAKEN: dict[str, tuple[Make, str]] = {
    "sign": (affine("Greater", 0, 2, 1), "A1"),
    "threshold": (affine("GreaterOrEqual", 0.37, 2, 1), "A1"),
    "constant on the left": (affine("Less", -0.25, 2, 1, left=True), "A1"),
    "falling twice": (affine("Less", 0.25, -2, -1), "A1"),
    "magnitude": (affine("Greater", 0.25, 0.6, 0.3), "A1"),
    "unipolar": (scaled("GreaterOrEqual", 0.25, 0.7), "A1"),
    "where": (where("Greater", 0.37, 0.5, -0.5), "A1"),
    "where below": (where("LessOrEqual", -0.5, -1, 1), "A1"),
    "ternary": (apart(("Greater", 0.25), ("Less", -0.25)), "A2"),
    "ternary with ends": (apart(("GreaterOrEqual", 0.37), ("LessOrEqual", -0.5), 0.3), "A2"),
    "ternary at one point": (apart(("Greater", 0), ("Less", 0)), "A2"),
    "ternary where": (nested(0.4, -0.4), "A2"),
}
LEFT: dict[str, tuple[Make, str]] = {
    "falls": (affine("Less", 0.25, 2, 1), "do not rise"),
    "levels": (affine("Greater", 0.25, 3, 1), "do not rise from 0"),
    "middle": (nested(0.4, -0.4, 0.1), "its middle level is 0.1"),
    "crossing": (apart(("Greater", -0.5), ("Less", 0.25)), "not one for large and one for small values"),
    "infinite": (affine("Greater", np.inf, 2, 1), "its threshold is not a finite number"),
}


def network(make: Make) -> tuple[GraphBuilder, Any, str]:
    """The spelling of the input, and of an accumulator."""
    g = GraphBuilder(opset=16)
    conv = g.add("Conv", make(g, g.input(*SHAPE), "q0"), g.weights(4, 3, 1, 1, exact=True), name="c1")
    last = g.add("Conv", make(g, conv, "q1"), g.weights(2, 4, 3, 3), name="c2")
    return g, g.model(last, "q0", "q1"), last


def assert_like_onnx(artifact: Any, model: Any, last: str) -> None:
    x = inputs()
    result = artifact.run(x)
    for name, expected in zip((last, "q0", "q1"), run_onnx(model, x, [last, "q0", "q1"]), strict=True):
        np.testing.assert_allclose(result.outputs[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", TAKEN)
def test_activations(name: str) -> None:
    """Both layers low-bit."""
    make, bits = TAKEN[name]
    _, model, last = network(make)
    artifact = tvm_lowbit.build(model, "host")
    assert [row.bits for row in artifact.report.low_bit] == [f"W2{bits}", f"W2{bits}"]
    assert_like_onnx(artifact, model, last)


@pytest.mark.parametrize("name", LEFT)
def test_what_stays_float(name: str) -> None:
    """Right, with the reason."""
    make, reason = LEFT[name]
    _, model, last = network(make)
    artifact = tvm_lowbit.build(model, "host")
    assert not artifact.report.low_bit
    assert all(reason in row.reason for row in artifact.report.stays_float if row.name in ("c1", "c2"))
    assert_like_onnx(artifact, model, last)


def masked(g: GraphBuilder, w: str) -> str:
    """TWN: threshold 0.7 of the mean magnitude, one scale for what exceeds it."""
    size = g.add("Abs", w)
    mask = g.add(
        "Cast", g.add("Greater", size, g.add("Mul", g.add("ReduceMean", size, keepdims=0), g.constant(0.7))), to=1
    )
    total = g.add("ReduceSum", g.add("Mul", size, mask), keepdims=0)
    alpha = g.add("Div", total, g.add("ReduceSum", mask, keepdims=0))
    return g.add("Mul", g.add("Mul", g.add("Sign", w), mask), alpha)


def two_scales(up: float, down: float) -> Callable[[GraphBuilder, str], str]:
    """TTQ: a scale of its own on either side."""
    return lambda g, w: g.add(
        "Sub",
        g.add("Mul", cast(g, w, "Greater", 0.3), g.constant(up)),
        g.add("Mul", cast(g, w, "Less", -0.3), g.constant(down)),
    )


@pytest.mark.parametrize(
    ("make", "bits"),
    [
        (masked, "W2A2"),
        (two_scales(0.5, 0.5), "W2A2"),
        (two_scales(0.5, 0.25), "W2A2"),
    ],
)
def test_ternary_weights(make: Callable[[GraphBuilder, str], str], bits: str) -> None:
    """TWN; and TTQ where its two scales have a common measure."""
    g = GraphBuilder(opset=13)
    a = g.quantiser(g.input(*SHAPE), 0.5, -2, 1, name="a")
    last = g.add("Conv", a, make(g, g.constant(g.random.normal(size=(4, 3, 3, 3)))), name="c")
    model = g.model(last)
    artifact = tvm_lowbit.build(model, "host")
    (row,) = [row for row in artifact.report.rows if row.name == "c"]
    assert row.bits == bits
    (expected,) = run_onnx(model, inputs(), [last])
    np.testing.assert_allclose(artifact.run(inputs()).outputs[last], expected, rtol=1e-4, atol=1e-4)


def test_steep_clip_is_no_sign() -> None:
    """``Clip(x * big)`` has all values between -1 and 1; it is computed as it is written."""
    g = GraphBuilder()
    q = g.add("Clip", g.add("Mul", g.input(*SHAPE), g.constant(1e10)), g.constant(-1), g.constant(1), name="q")
    model = g.model(g.add("Conv", q, g.weights(4, 3, 1, 1), name="c"))
    artifact = tvm_lowbit.build(model, "host")
    assert [row.name for row in artifact.report.stays_float] == ["c"]
    (expected,) = run_onnx(model, inputs(), ["c"])
    np.testing.assert_allclose(artifact.run(inputs()).outputs["c"], expected, rtol=1e-5, atol=1e-5)


X = np.array([[-1e-40, -0.0, 0.0, 1e-40, 2.0, -3.0]], np.float32)


def signs(compare: Any = relax.op.greater_equal, **parts: Any) -> Any:
    """``float(compare(x, 0)) * span - less`` and so on."""

    def body(emit: Any, x: Any) -> Any:
        level = emit(relax.op.astype(emit(compare(x, const(parts.get("threshold", 0)))), parts.get("type", "float32")))
        kind = str(level.ty.dtype)
        v = emit(relax.op.multiply(level, literal(np.asarray(parts.get("span", 2), kind))))
        if "more" in parts:
            v = emit(relax.op.add(literal(np.asarray(parts["more"], kind)), v), "q")
        else:
            v = emit(relax.op.subtract(v, literal(np.asarray(parts.get("less", 1), kind))), "q")
        if "magnitude" in parts:
            v = emit(relax.op.multiply(v, const(parts["magnitude"])), "m")
        return emit(relax.op.abs(v), "out")

    return detect_quantizers(module(body, X.shape))


@pytest.mark.parametrize(
    ("mod", "scale", "upper"),
    [
        (signs(), 1.0, X >= 0),
        (signs(relax.op.greater, more=-1), 1.0, X > 0),
        (signs(magnitude=0.3), 0.3, X >= 0),
        (signs(magnitude=[[0.3, 0.4, 0.5, 0.6, 0.7, 0.8]]), np.float32([0.3, 0.4, 0.5, 0.6, 0.7, 0.8]), X >= 0),
        (signs(span=0.5, less=0.25), 0.25, X >= 0),
    ],
    ids=["plain", "above", "magnitude", "per_channel", "small"],
)
def test_signs(mod: Any, scale: Any, upper: Any) -> None:
    """The same values as the arithmetic gives, on zeros of either sign and the smallest numbers."""
    found = next(value for value in values(mod).values() if op_name(value) == FAKE_QUANT)
    spec = quant_spec(found)
    assert spec.bits == 1
    expected = np.where(upper, scale, -np.asarray(scale)).astype(np.float32)
    np.testing.assert_array_equal(spec.values(spec.codes(X)), expected)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"threshold": np.nan}, "its threshold is not a finite number"),
        ({"threshold": [[0, 0, 0, 0, 0, 1]]}, "its thresholds or levels vary within the tensor"),
        ({"compare": relax.op.less}, "its levels 1, -1 do not rise"),
        ({"less": 0.5}, "its levels -0.5, 1.5 do not rise from 0, or from the opposite"),
        ({"span": -2, "more": 1}, "its levels 1, -1 do not rise"),
        ({"magnitude": -1}, "its magnitude is not above 0"),
        ({"type": "float64"}, "it compares or gives float64, not float32"),
        ({"span": [[2, 2, 2, 2, 2, 1]]}, "its thresholds or levels vary within the tensor"),
    ],
)
def test_signs_that_are_none(parts: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its reason; some are another row's quantisers."""
    monkeypatch.setattr("relay_passes.detect.QUANT_PATTERNS", {STEPS.name: STEPS})
    mod = signs(**parts)
    # What comes before the last operator may be a quantiser still: of levels 0 and 2, or of -1 and 1.
    assert op_name(values(mod)["m" if "magnitude" in parts else "q"]) != FAKE_QUANT
    assert reason in " ".join(notes.read(mod)["declined"].values())


@pytest.mark.parametrize(("shape", "taken"), [((1,), True), ((1, 1), True), ((1, 1, 1, 1), False)])
def test_thresholds_of_one_element(shape: tuple[int, ...], taken: bool) -> None:
    """Of any rank up to the tensor's; one that broadcasts the tensor is no quantiser of it."""

    def body(emit: Any, x: Any) -> Any:
        above = emit(relax.op.greater_equal(x, literal(np.full(shape, 0.25, np.float32))))
        return emit(relax.op.abs(emit(relax.op.where(above, const(1.0), const(-1.0)), "q")), "out")

    after = detect_quantizers(module(body, (2, 3)))
    assert (FAKE_QUANT in {op_name(value) for value in values(after).values()}) == taken
