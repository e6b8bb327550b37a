"""DetectQuantizers: every row of QUANT_PATTERNS finds its spelling, and says why it leaves what only looks like one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tvm
from onnx_graphs import GraphBuilder, run_onnx
from relax_models import const, evaluate, module, operators, text, values
from tvm import relax

from relay_passes import notes
from relay_passes.canonicalize import canonicalize
from relay_passes.detect import detect_quantizers
from relay_passes.ops import FAKE_QUANT, constant, op_name, quant_spec
from relay_passes.patterns import QUANT_PATTERNS, register
from relay_passes.patterns.base import Found, QuantPattern
from relay_passes.quant_forms import steps
from schedules.errors import LowbitError
from tvm_lowbit.frontend import import_model

SHAPE = (3, 4, 4)


def raw(graph: GraphBuilder) -> str:
    """Div, Clip, Round, Mul."""
    return graph.quantiser(graph.input(*SHAPE), 0.3, -2, 1, name="q")


def raw_zero_point(graph: GraphBuilder) -> str:
    """Div, Add, Clip, Round, Sub, Mul per channel."""
    scale = np.array([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1)
    return graph.quantiser(graph.input(*SHAPE), scale, 0, 15, zero=3, name="q")


def raw_round_first(graph: GraphBuilder) -> str:
    """Div, Round, Clip, Mul with the scale on the left."""
    scale = graph.constant(0.3)
    rounded = graph.add("Round", graph.add("Div", graph.input(*SHAPE), scale))
    return graph.add("Mul", scale, graph.add("Clip", rounded, graph.constant(-2), graph.constant(1)), name="q")


def raw_bipolar(graph: GraphBuilder) -> str:
    """A zero point of one half."""
    return graph.quantiser(graph.input(*SHAPE), 0.3, 0, 1, zero=0.5, name="q")


def qdq(graph: GraphBuilder) -> str:
    """QuantizeLinear, DequantizeLinear: the type gives the range."""
    parts = [graph.constant(0.05), graph.constant(3, np.uint8)]
    codes = graph.add("QuantizeLinear", graph.input(*SHAPE), *parts)
    return graph.add("DequantizeLinear", codes, *parts, name="q")


def qcdq(graph: GraphBuilder) -> str:
    """With a Clip between, per channel."""
    graph.spelling = "qdq"
    return graph.quantiser(graph.input(*SHAPE), [0.1, 0.2, 0.3], -4, 3, 1, name="q", axis=1)


def stored_weights(graph: GraphBuilder) -> str:
    """An int8 constant and DequantizeLinear per channel."""
    codes = graph.constant(np.arange(-6, 6).reshape(3, 4, 1, 1), np.int8)
    parts = [graph.constant([0.1, 0.2, 0.3]), graph.constant([0, 0, 0], np.int8)]
    weights = graph.add("DequantizeLinear", codes, *parts, name="q", axis=0)
    return graph.add("Conv", graph.input(4, 2, 2), weights)


def stored_clipped_weights(graph: GraphBuilder) -> str:
    """A uint8 constant, Clip to 2 bits, DequantizeLinear."""
    codes = graph.constant(np.arange(12).reshape(3, 4, 1, 1), np.uint8)
    clipped = graph.add("Clip", codes, graph.constant(0, np.uint8), graph.constant(3, np.uint8))
    parts = [graph.constant(0.1), graph.constant(1, np.uint8)]
    return graph.add("Conv", graph.input(4, 2, 2), graph.add("DequantizeLinear", clipped, *parts, name="q"))


def ternary_sign(graph: GraphBuilder) -> str:
    """Sign with a magnitude."""
    return graph.add("Mul", graph.constant(0.3), graph.add("Sign", graph.input(*SHAPE)), name="q")


def bipolar_where(graph: GraphBuilder) -> str:
    """1 at and above 0, -1 below."""
    above = graph.add("GreaterOrEqual", graph.input(*SHAPE), graph.constant(0))
    return graph.add("Where", above, graph.constant(1), graph.constant(-1), name="q")


def cast_comparison(graph: GraphBuilder) -> str:
    """1 above 1/2, -1 elsewhere."""
    above = graph.add("Cast", graph.add("Greater", graph.input(*SHAPE), graph.constant(0.5)), to=1)
    return graph.add("Sub", graph.add("Mul", above, graph.constant(2)), graph.constant(1), name="q")


def ternary_steps(graph: GraphBuilder) -> str:
    """1 above 1/2, -1 below -1/4, 0 between."""
    x = graph.input(*SHAPE)
    above = graph.add("Cast", graph.add("Greater", x, graph.constant(0.5)), to=1)
    below = graph.add("Cast", graph.add("Less", x, graph.constant(-0.25)), to=1)
    return graph.add("Sub", above, below, name="q")


@dataclass(frozen=True)
class Sample:
    """A spelling and what must be read from it: range, axis, form."""

    make: Callable[[GraphBuilder], str]
    qmin: int
    qmax: int
    axis: int | None = None
    form: str = "divide"


SAMPLES = {
    "div_clip_round_mul": [
        Sample(raw, -2, 1),
        Sample(raw_zero_point, 0, 15, 1, "divide_shifted"),
        Sample(raw_round_first, -2, 1),
        Sample(raw_bipolar, 0, 1, None, "divide_shifted"),
    ],
    "quantize_clip_dequantize": [Sample(qdq, 0, 255), Sample(qcdq, -4, 3, 1)],
    "sign": [Sample(ternary_sign, -1, 1, None, "sign"), Sample(bipolar_where, 0, 1, None, "at_least_zero")],
    "integer_weights": [Sample(stored_weights, -128, 127, 0), Sample(stored_clipped_weights, 0, 3)],
    "steps": [
        Sample(cast_comparison, 0, 1, None, steps(0, [(False, 0.5)])),
        Sample(ternary_steps, -1, 1, None, steps(-1, [(True, -0.25), (False, 0.5)])),
    ],
    "scale_at_run_time": [],  # declines whatever it matches: see tests/e2e/test_bad_models.py
}
ROWS = [
    pytest.param(row, sample, id=f"{row}-{sample.make.__name__}") for row in QUANT_PATTERNS for sample in SAMPLES[row]
]


def imported(graph: GraphBuilder, *outputs: str) -> Any:
    """Through import and canonicalisation."""
    return canonicalize(import_model(graph.model(*outputs)))


def test_every_row_has_samples() -> None:
    """A new row needs its own."""
    assert set(SAMPLES) == set(QUANT_PATTERNS)
    assert all(row.name == name and row.help for name, row in QUANT_PATTERNS.items())


@pytest.mark.parametrize(("row", "sample"), ROWS)
def test_spelling_becomes_fake_quant(row: str, sample: Sample) -> None:
    """One fake_quant of the right numbers, and the same outputs as ONNX Runtime's of the spelling."""
    graph = GraphBuilder()
    output = graph.add("Relu", sample.make(graph), name="out")
    model = graph.model(output)
    after = detect_quantizers(canonicalize(import_model(model)))
    calls = [v for v in values(after).values() if op_name(v) == FAKE_QUANT]
    assert len(calls) == 1
    q = quant_spec(calls[0])
    assert (q.qmin, q.qmax, q.axis, q.form) == (sample.qmin, sample.qmax, sample.axis, sample.form)
    assert "q" in values(after)
    assert {"relax.round", "relax.quantize", "relax.dequantize"}.isdisjoint(operators(after))
    x = np.random.default_rng(0).normal(size=(1, *[int(d) for d in after["main"].params[0].ty.shape][1:]))
    (expected,) = run_onnx(model, x.astype(np.float32), ["out"])
    np.testing.assert_allclose(evaluate(after, x)[0], expected, rtol=1e-5, atol=1e-6)


def test_whole_program_before_and_after() -> None:
    """Raw arithmetic of activations and weights, and a ReLU that stays."""
    graph = GraphBuilder()
    x = graph.quantiser(graph.input(4, 2, 2), 0.5, 0, 3, name="act")
    conv = graph.add("Conv", x, graph.weights(3, 4, 1, 1, exact=True, name="weight"), name="conv")
    before = imported(graph, graph.add("Relu", conv, name="relu"))
    quantiser = ["relax.divide", "relax.clip", "relax.round", "relax.multiply"]
    assert operators(before) == [*quantiser, *quantiser, "relax.nn.conv2d", "relax.nn.relu"]
    after = detect_quantizers(before)
    assert operators(after) == [FAKE_QUANT, FAKE_QUANT, "relax.nn.conv2d", "relax.nn.relu"]
    lines = [line.split(":")[0].strip() for line in text(after).splitlines() if " = " in line]
    assert [line for line in lines if not line.startswith("gv")] == ["act", "weight", "conv", "relu"]
    found = values(after)
    assert constant(found["act"].args[0]) is None
    assert constant(found["weight"].args[0]).shape == (3, 4, 1, 1)
    assert notes.read(after)["declined"] == {}
    tvm.ir.assert_structural_equal(detect_quantizers(after)["main"].body, after["main"].body, map_free_vars=True)


def raw_numbers(emit: Any, x: Any, scales: Any = (0.5, 0.5), zeros: Any = (None, None), clip: Any = (-2, 1)) -> Any:
    """Raw arithmetic with each number free."""
    value = emit(relax.op.divide(x, const(scales[0])), "q_div")
    value = value if zeros[0] is None else emit(relax.op.add(value, const(zeros[0])), "q_add")
    value = emit(relax.op.round(emit(relax.op.clip(value, *map(float, clip)), "q_clip")), "q_round")
    value = value if zeros[1] is None else emit(relax.op.subtract(value, const(zeros[1])), "q_sub")
    return emit(relax.op.nn.relu(emit(relax.op.multiply(value, const(scales[1])), "q")), "out")


def qdq_numbers(
    emit: Any, x: Any, scales: Any = (0.5, 0.5), zeros: Any = (0, 0), dtype: str = "int8", clip: Any = None
) -> Any:
    """QDQ with each number free."""
    codes = emit(relax.op.quantize(x, const(scales[0]), const(zeros[0], dtype), axis=1, out_dtype=dtype), "q_codes")
    codes = codes if clip is None else emit(relax.op.clip(codes, *clip), "q_clip")
    value = emit(relax.op.dequantize(codes, const(scales[1]), const(zeros[1], dtype), axis=1), "q")
    return emit(relax.op.nn.relu(value), "out")


VECTOR, COLUMN = (np.arange(1.0, 1 + n) / 4 for n in (3, 4))
VECTOR, COLUMN = VECTOR.reshape(1, 3, 1, 1), COLUMN.reshape(1, 1, 4, 1)


@pytest.mark.parametrize(
    ("make", "numbers", "zero"),
    [(raw_numbers, {"zeros": (5.0, 5.0)}, 5), (qdq_numbers, {"zeros": (5, 5), "clip": (0, 3)}, 5)],
)
def test_a_clip_may_leave_out_the_zero_point(make: Any, numbers: dict[str, Any], zero: float) -> None:
    """Then no code stands for 0.0; it is a quantiser all the same."""
    after = detect_quantizers(module(lambda emit, x: make(emit, x, **numbers), (1, *SHAPE)))
    found = quant_spec(values(after)["q"])
    assert found.zero_point == zero
    assert found.operand.zero_code is None


@pytest.mark.parametrize(
    ("make", "numbers", "reason"),
    [
        (raw_numbers, {"scales": (0.5, 0.25)}, "it divides by one scale and multiplies by another"),
        (raw_numbers, {"zeros": (1.0, 0.0)}, "it adds one zero point and subtracts another"),
        (raw_numbers, {"zeros": (1.0, None)}, "it adds one zero point and subtracts another"),
        (raw_numbers, {"clip": (-2.5, 1)}, "its clip bounds -2.5..1 are no integers"),
        (raw_numbers, {"clip": (0, np.inf)}, "its clip bounds 0..inf are no integers"),
        (raw_numbers, {"scales": (VECTOR * COLUMN,) * 2}, "its scale varies along more than one axis"),
        (raw_numbers, {"scales": (VECTOR,) * 2, "zeros": (COLUMN,) * 2}, "run along different axes"),
        (raw_numbers, {"clip": (1, 1)}, "holds fewer than two codes"),
        (raw_numbers, {"clip": (0, 511)}, "takes 9 bits; 1 to 8 are supported"),
        (raw_numbers, {"zeros": (0.25, 0.25)}, "its zero point is no multiple of 1/2"),
        (raw_numbers, {"zeros": (4e4, 4e4)}, "its zero point lies more than 32768 steps from its codes -2..1"),
        (qdq_numbers, {"scales": (0.5, 0.25)}, "QuantizeLinear and DequantizeLinear differ in scale or zero point"),
        (qdq_numbers, {"zeros": (1, 2)}, "QuantizeLinear and DequantizeLinear differ in scale or zero point"),
        (qdq_numbers, {"clip": (-0.5, 3)}, "its clip bounds -0.5..3 are no integers"),
    ],
)
def test_what_only_looks_like_a_quantiser(make: Any, numbers: dict[str, Any], reason: str) -> None:
    """The program stays and the notes say why, under the name of the last operator."""
    before = module(lambda emit, x: make(emit, x, **numbers), (1, *SHAPE))
    after = detect_quantizers(before)
    assert operators(after) == operators(before)
    declined = notes.read(after)["declined"]
    assert set(declined) == {"q"}
    row = "div_clip_round_mul" if make is raw_numbers else "quantize_clip_dequantize"
    assert declined["q"].startswith(f"looks like a quantiser ({row}), but ")
    assert reason in declined["q"]


def test_wide_stored_weights_are_declined() -> None:
    """int32 constants (biases) are no low-bit weights."""

    def body(emit: Any, x: Any) -> Any:
        stored = const(np.arange(4), "int32")
        return emit(relax.op.add(x, emit(relax.op.dequantize(stored, const(0.5), const(0, "int32")), "q")), "out")

    after = detect_quantizers(module(body, (2, 4)))
    assert "its weights are stored as int32; 8-bit integers are supported" in notes.read(after)["declined"]["q"]


@pytest.mark.parametrize("scale", [np.nan, np.inf, 0.0, -1.0])
@pytest.mark.parametrize("make", [raw_numbers, qdq_numbers])
def test_senseless_scales_stop_the_build(make: Any, scale: float) -> None:
    """Whatever the spelling, NaN included, which is not equal to itself."""
    with pytest.raises(LowbitError, match="scale of quantiser q"):
        detect_quantizers(module(lambda emit, x: make(emit, x, scales=(scale, scale)), (1, *SHAPE)))


def test_senseless_zero_point_stops_the_build() -> None:
    """NaN as a zero point."""
    with pytest.raises(LowbitError, match="zero point of quantiser q"):
        detect_quantizers(module(lambda emit, x: raw_numbers(emit, x, zeros=(np.nan, np.nan)), (1, *SHAPE)))


def test_fake_quant_of_a_front_end_is_checked() -> None:
    """What torch's front end writes itself."""
    from relax_models import quantised

    with pytest.raises(LowbitError, match="scale of quantiser q"):
        detect_quantizers(module(lambda emit, x: quantised(emit, x, scale=-1.0), (1, 4)))


@pytest.mark.parametrize("spelling", ["raw", "qdq"])
@pytest.mark.parametrize("axis", [0, None])
def test_transposed_weights_are_folded(spelling: str, axis: int | None) -> None:
    """Gemm with transB: the quantiser moves to the transposed constant and its axis along."""
    graph = GraphBuilder(spelling)
    x = graph.input(4)
    before = imported(graph, graph.add("Gemm", x, graph.weights(5, 4, axis=axis, name="w"), transB=1, name="fc"))
    assert "relax.permute_dims" in operators(before)
    after = detect_quantizers(before)
    assert operators(after) == [FAKE_QUANT, "relax.matmul"]
    call = next(v for v in values(after).values() if op_name(v) == FAKE_QUANT)
    assert constant(call.args[0]).shape == (4, 5)
    assert quant_spec(call).axis == (None if axis is None else 1)


def test_quantiser_that_is_an_output_keeps_its_name() -> None:
    """And is one quantiser, though it is read as well."""
    graph = GraphBuilder()
    q = graph.quantiser(graph.input(*SHAPE), 0.5, 0, 3, name="q")
    after = detect_quantizers(imported(graph, q, graph.add("Relu", q, name="relu")))
    assert operators(after) == [FAKE_QUANT, "relax.nn.relu"]
    assert op_name(values(after)["q"]) == FAKE_QUANT
    alone = GraphBuilder()
    after = detect_quantizers(imported(alone, alone.quantiser(alone.input(*SHAPE), 0.5, 0, 3, name="q")))
    assert op_name(values(after).get("q")) == FAKE_QUANT


@pytest.mark.parametrize(
    ("shape", "scale"),
    [((1, 4, 4), np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1)), ((5,), np.array(0.1).reshape(1, 1, 1))],
    ids=["repeats_the_input", "adds_dimensions"],
)
def test_scale_that_broadcasts_the_input_is_no_quantiser(shape: tuple[int, ...], scale: Any) -> None:
    """A fake_quant keeps its input's shape; a scale of more extent makes a larger tensor."""

    def body(emit: Any, x: Any) -> Any:
        return raw_numbers(emit, x, scales=(scale, scale))

    before = module(body, (1, *shape))
    x = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    (expected,) = evaluate(before, x)
    (got,) = evaluate(detect_quantizers(before), x)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_intermediate_results_read_elsewhere_stay() -> None:
    """The codes themselves are an output too."""

    def body(emit: Any, x: Any) -> Any:
        codes = emit(relax.op.round(emit(relax.op.clip(emit(relax.op.divide(x, const(0.5))), 0.0, 3.0))), "codes")
        return relax.Tuple([emit(relax.op.multiply(codes, const(0.5)), "q"), codes])

    before = module(body, (1, *SHAPE))
    after = detect_quantizers(before)
    assert FAKE_QUANT in operators(after) and "relax.round" in operators(after)
    x = np.random.default_rng(0).normal(size=(1, *SHAPE))
    for got, expected in zip(evaluate(after, x), evaluate(before, x), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_row_cannot_be_registered_twice() -> None:
    """The first stays."""
    name = next(iter(QUANT_PATTERNS))
    row = QUANT_PATTERNS[name]
    with pytest.raises(ValueError, match="registered already"):
        register(QuantPattern(name, "another", row.make))
    assert QUANT_PATTERNS[name] is row


def test_an_added_row_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of CONTRIBUTING: a pattern and what to read from it are enough."""
    from relax_models import spec
    from tvm.relax.dpl import is_op, wildcard

    from relay_passes import patterns

    def make() -> Any:
        pattern = is_op("relax.floor")(wildcard())
        return pattern, lambda match: Found(match[pattern].args[0], spec(1.0, 0, 3))

    monkeypatch.setattr(patterns, "_TABLE", dict(patterns._TABLE))
    monkeypatch.setattr("relay_passes.detect.QUANT_PATTERNS", patterns._TABLE)
    register(QuantPattern("floor", "a floor", make))
    after = detect_quantizers(module(lambda emit, x: emit(relax.op.nn.relu(emit(relax.op.floor(x), "f")), "r"), (2, 2)))
    assert operators(after) == [FAKE_QUANT, "relax.nn.relu"]
