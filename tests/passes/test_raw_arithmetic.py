"""Raw arithmetic with reciprocals, clips before scaling, late zero points: codes as ONNX Runtime's, or a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_graphs import GraphBuilder, assert_like_onnx
from relax_models import const, module, operators, values
from tvm import relax

import tvm_lowbit
from relay_passes import notes
from relay_passes.detect import detect_quantizers
from relay_passes.ops import FAKE_QUANT, op_name, quant_spec

SHAPE = (3, 5, 5)
ONE = np.float32(1)


def exact(numerator: float, start: float) -> tuple[np.float32, np.float32]:
    """A factor near ``numerator / start`` and the float32 step whose float32 reciprocal it is."""
    step = np.float32(start) / np.float32(numerator)
    return ONE / step, step


def inputs(step: float, seed: int = 0) -> Any:
    """Random values, values exactly between two codes, and one float beside."""
    random = np.random.default_rng(seed)
    x = (random.normal(size=(3, *SHAPE)) * 3).astype(np.float32)
    middle = ((random.integers(-9, 20, size=x.shape) + 0.5) * np.float32(step)).astype(np.float32)
    return np.concatenate([x, middle, np.nextafter(middle, np.float32(99)), np.nextafter(middle, np.float32(-99))])


def reciprocal(g: GraphBuilder, x: str, name: str, weight: bool = False) -> tuple[str, float]:
    """x * (1 / s), Clip, Round, * s."""
    k, s = exact(15, 4.7)
    v = g.add("Mul", g.constant(k), x)
    codes = g.add("Round", g.add("Clip", v, g.constant(-4), g.constant(3)), name=f"{name}/round")
    return g.add("Mul", codes, g.constant(s), name=name), s


def pact(g: GraphBuilder, x: str, name: str, weight: bool = False) -> tuple[str, float]:
    """Round(clip(x, 0, a) * k) * (1 / k)."""
    k, s = exact(15, 4.7)
    if weight:
        clip = g.add("Clip", x, g.constant(-1.7), g.constant(1.7))
    else:
        clip = g.add("Min", g.add("Relu", x), g.constant([4.7]))
    codes = g.add("Round", g.add("Mul", clip, g.constant(k)), name=f"{name}/round")
    return g.add("Mul", codes, g.constant(s), name=name), s


def dorefa(g: GraphBuilder, x: str, name: str, weight: bool = False) -> tuple[str, float]:
    """Round(clip(x, 0, 1) * 15) / 15."""
    lo = -1 if weight else 0
    codes = g.add("Mul", g.add("Clip", x, g.constant(lo), g.constant(1)), g.constant(15))
    codes = g.add("Round", codes, name=f"{name}/round")
    return g.add("Div", codes, g.constant(15), name=name), 1 / 15


def late_step(g: GraphBuilder, x: str, name: str, weight: bool = False) -> tuple[str, float]:
    """A step that is one float above the reciprocal's own."""
    k, s = exact(15, 4.7)
    k = np.nextafter(k, np.float32(0))
    codes = g.add("Clip", g.add("Round", g.add("Mul", x, g.constant(k))), g.constant(0), g.constant(15))
    codes = g.add("Identity", codes, name=f"{name}/round")
    return g.add("Mul", codes, g.constant(s), name=name), s


def clip_then_divide(g: GraphBuilder, x: str, name: str, weight: bool = False) -> tuple[str, float]:
    """A clip in units of the values, a division per channel."""
    s = g.constant(np.array([0.31, 0.33, 0.3]).reshape(1, 3, 1, 1))
    clip = g.add("Clip", x, g.constant(-1.2), g.constant(0.9))
    codes = g.add("Round", g.add("Div", clip, s), name=f"{name}/round")
    return g.add("Mul", codes, s, name=name), 0.31


def relu_then_minimum(g: GraphBuilder, x: str, name: str, weight: bool = False) -> tuple[str, float]:
    """One bound before scaling, the other after rounding."""
    s = g.constant(0.27)
    bound = g.add("Clip", x, g.constant(-1.9)) if weight else g.add("Relu", x)
    codes = g.add("Min", g.add("Round", g.add("Div", bound, s)), g.constant(7), name=f"{name}/round")
    return g.add("Mul", codes, s, name=name), 0.27


def late_zero(g: GraphBuilder, x: str, name: str, weight: bool = False) -> tuple[str, float]:
    """Rounded, then the zero point: as torch decomposes its fake-quant."""
    k, s = exact(3, 1.1)
    v = g.add("Add", g.constant(3), g.add("Round", g.add("Mul", x, g.constant(k))))
    codes = g.add("Clip", v, g.constant(0), g.constant(7), name=f"{name}/round")
    return g.add("Mul", g.add("Sub", codes, g.constant(3)), g.constant(s), name=name), s


def clip_then_late_zero(g: GraphBuilder, x: str, name: str, weight: bool = False) -> tuple[str, float]:
    """A clip before the zero point is in other codes than one after it."""
    s = g.constant(0.27)
    v = g.add("Round", g.add("Clip", g.add("Div", x, s), g.constant(-3), g.constant(4)))
    codes = g.add("Add", v, g.constant(3), name=f"{name}/round")
    return g.add("Mul", g.add("Sub", codes, g.constant(3)), s, name=name), 0.27


SPELLINGS = {
    reciprocal: (-4, 3, "reciprocal"),
    pact: (0, 15, "reciprocal"),
    dorefa: (0, 15, "reciprocal_above"),
    late_step: (0, 15, "reciprocal_below"),
    clip_then_divide: (-4, 3, "divide"),
    relu_then_minimum: (0, 7, "divide"),
    late_zero: (0, 7, "reciprocal"),
    clip_then_late_zero: (0, 7, "divide"),
}
NAMED = [pytest.param(make, id=make.__name__) for make in SPELLINGS]


@pytest.mark.parametrize("make", NAMED)
def test_codes_of_activations_are_onnx_runtimes(make: Any) -> None:
    """At ties and one float beside as well; then requantised from an accumulator."""
    g = GraphBuilder()
    q, step = make(g, g.input(*SHAPE), "q0")
    g.codes["q0"] = "q0/round"
    per_channel = make is clip_then_divide
    conv = g.add("Conv", q, g.weights(3, 3, 1, 1, bits=3), name="c1")
    q, _ = make(g, conv, "q1")
    g.codes["q1"] = "q1/round"
    model = g.model(g.add("Conv", q, g.weights(2, 3, 3, 3), name="c2"))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert len(artifact.report.low_bit) == (0 if per_channel else 2)
    assert_like_onnx(artifact, g, model, inputs(step))
    from relay_passes.canonicalize import canonicalize
    from tvm_lowbit.frontend import import_model

    found = values(detect_quantizers(canonicalize(import_model(model))))["q0"]
    spec = quant_spec(found)
    assert (spec.qmin, spec.qmax, spec.form) == SPELLINGS[make]


@pytest.mark.parametrize("make", [p for p in NAMED if p.values[0] is not clip_then_divide])
def test_weights_are_computed(make: Any) -> None:
    """Also those that are clipped before they are scaled."""
    g = GraphBuilder()
    x = g.quantiser(g.input(*SHAPE), 0.3, 0, 15, name="x0")
    w, _ = make(g, g.constant(g.random.normal(size=(4, 3, 3, 3))), "w", weight=True)
    model = g.model(g.add("Conv", x, w, name="c"))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert [row.name for row in artifact.report.low_bit] == ["c"]
    assert_like_onnx(artifact, g, model, inputs(0.3))


def test_reciprocal_on_the_left_of_weights() -> None:
    """Where both operands are constant, the smaller one is the factor."""
    g = GraphBuilder()
    x = g.quantiser(g.input(*SHAPE), 0.3, 0, 15, name="x0")
    w, _ = reciprocal(g, g.constant(g.random.normal(size=(4, 3, 3, 3))), "w")
    artifact = tvm_lowbit.build(g.model(g.add("Conv", x, w, name="c")), "host")
    assert [row.bits for row in artifact.report.low_bit] == ["W3A4"]


def raw(emit: Any, x: Any, by: Any = None, back: Any = None, **parts: Any) -> Any:
    """A quantiser with every part free."""
    if "ends" in parts:
        x = emit(relax.op.clip(x, *map(float, parts["ends"])), "ends")
    v = emit(relax.op.multiply(x, const(by)) if parts.get("multiply", True) else relax.op.divide(x, const(by)))
    v = emit(relax.op.add(v, const(parts["zero"]))) if "zero" in parts else v
    v = emit(relax.op.clip(v, *map(float, parts["clip"]))) if "clip" in parts else v
    v = emit(relax.op.round(v))
    v = emit(relax.op.add(v, const(parts["late"]))) if "late" in parts else v
    v = emit(relax.op.subtract(v, const(parts["again"]))) if "again" in parts else v
    v = emit(relax.op.divide(v, const(back)) if parts.get("divide") else relax.op.multiply(v, const(back)), "q")
    return emit(relax.op.nn.relu(v), "out")


FACTOR, STEP = exact(15, 4.7)
ONE_MORE = np.float32(1 + 1e-6)
CHANNELS = np.array([0.1, 0.2, 0.3], np.float32).reshape(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"by": FACTOR * ONE_MORE, "back": STEP, "clip": (0, 3)}, "is neither the float32 reciprocal of its step nor"),
        ({"by": FACTOR * 2, "back": STEP, "clip": (0, 3)}, "it divides by one scale and multiplies by another"),
        ({"by": 15, "back": 7, "clip": (0, 3), "divide": True}, "it divides by one scale and multiplies by another"),
        ({"by": FACTOR, "back": STEP}, "nothing bounds its codes"),
        ({"by": FACTOR, "back": STEP, "ends": (0, np.inf)}, "its clip bounds 0..inf are no integers"),
        ({"by": FACTOR, "back": STEP, "clip": (-4, 3), "zero": 1, "again": 1}, "a product that is not rounded yet"),
        (
            {"by": 0.5, "back": 0.5, "multiply": False, "clip": (-4, 3), "late": 0.5, "again": 0.5},
            "it adds a zero point that is no integer after rounding",
        ),
        (
            {"by": 0.5, "back": 0.5, "multiply": False, "clip": (-4, 3), "zero": 1, "late": 1, "again": 1},
            "it adds two zero points",
        ),
        (
            {"by": CHANNELS, "back": CHANNELS, "multiply": False, "ends": (0, 1)},
            "its clip before scaling leaves different codes in different channels",
        ),
    ],
)
def test_what_is_declined_says_why(parts: dict[str, Any], reason: str) -> None:
    before = module(lambda emit, x: raw(emit, x, **parts), (1, *SHAPE))
    after = detect_quantizers(before)
    assert operators(after) == operators(before)
    assert reason in notes.read(after)["declined"]["q"]


def test_a_channel_range_that_a_later_clip_makes_equal() -> None:
    """Only the codes that are left count."""
    parts = {"by": CHANNELS, "back": CHANNELS, "multiply": False, "ends": (0, 9), "clip": (-7, 7)}
    after = detect_quantizers(module(lambda emit, x: raw(emit, x, **parts), (1, *SHAPE)))
    spec = next(quant_spec(v) for v in values(after).values() if op_name(v) == FAKE_QUANT)
    assert (spec.qmin, spec.qmax, spec.axis) == (0, 7, 1)
