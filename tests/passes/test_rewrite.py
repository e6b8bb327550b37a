"""RewriteLowbit: whole programs before and after, and what the notes say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from relax_models import const, evaluate, module, operators, quantised, spec, text, values
from tvm import relax

from relay_passes import notes, ops
from relay_passes.detect import detect_quantizers
from relay_passes.lower import lower_lowbit
from relay_passes.ops import constant, fake_quant, shape_of
from relay_passes.rewrite import EXPLANATION, rewrite_lowbit
from schedules.cores import host_core

RNG = np.random.default_rng(2)
WEIGHTS = RNG.normal(size=(3, 4, 3, 3)).astype(np.float32)
BIAS = RNG.normal(size=(1, 3, 1, 1)).astype(np.float32)
DENSE = RNG.normal(size=(48, 5)).astype(np.float32)


def layer(emit: Any, x: Any) -> Any:
    """Quantiser, conv, bias, ReLU, quantiser, dense of the flattened codes."""
    q = quantised(emit, x, "act", scale=0.5)
    w = emit(fake_quant(const(WEIGHTS), spec([0.5, 0.25, 0.75], -2, 1, axis=0)), "weight")
    conv = emit(relax.op.nn.conv2d(q, w, padding=1), "conv")
    relu = emit(relax.op.nn.relu(emit(relax.op.add(conv, const(BIAS)), "bias")), "relu")
    flat = emit(relax.op.reshape(quantised(emit, relu, "act2", scale=1.5), (1, 48)), "flat")
    dense = emit(fake_quant(const(DENSE), spec(0.5, 0, 1, 0.5, form="divide_shifted")), "weight2")
    return emit(relax.op.matmul(flat, dense), "fc")


def test_whole_program_before_and_after() -> None:
    """Integers from the first quantiser to the logits."""
    before = module(layer, (1, 4, 4, 4))
    assert operators(before) == [
        ops.FAKE_QUANT,
        ops.FAKE_QUANT,
        "relax.nn.conv2d",
        "relax.add",
        "relax.nn.relu",
        ops.FAKE_QUANT,
        "relax.reshape",
        ops.FAKE_QUANT,
        "relax.matmul",
    ]
    after = rewrite_lowbit(before)
    assert operators(after) == [
        ops.QUANTIZE,
        ops.DOT,
        ops.REQUANTIZE,
        "relax.reshape",
        ops.DOT,
        ops.SCALE_ACCUMULATORS,
    ]
    assert "fake_quant" not in text(after)
    dots = [v for v in values(after).values() if ops.op_name(v) == ops.DOT]
    assert [shape_of(d) for d in dots] == [(1, 3, 4, 4), (1, 5)]
    assert [str(d.ty.dtype) for d in dots] == ["int32", "int32"]
    codes = constant(dots[0].args[1])
    assert (codes.dtype, codes.shape) == (np.uint8, (3, 4, 3, 3))
    np.testing.assert_array_equal(codes, spec([0.5, 0.25, 0.75], -2, 1, axis=0).codes(WEIGHTS))
    np.testing.assert_array_equal(constant(dots[0].args[2]), [-2, -2, -2])
    np.testing.assert_array_equal(constant(dots[1].args[2]), [-1] * 5)
    assert list(map(int, dots[1].attrs["w"])) == [1, 2, 0, 1]
    requantize = next(v for v in values(after).values() if ops.op_name(v) == ops.REQUANTIZE)
    assert shape_of(requantize.args[1]) == (1, 3, 3)
    assert notes.read(after)["layers"] == {
        "conv": {"op": "relax.nn.conv2d", "bits": "W2A2"},
        "fc": {"op": "relax.matmul", "bits": "W1A2"},
    }


def test_values_stay() -> None:
    """Lowered, the program gives what the fake-quantised one gives."""
    before = module(layer, (1, 4, 4, 4))
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 4)).astype(np.float32)
    (expected,) = evaluate(before, x)
    (got,) = evaluate(lower_lowbit(rewrite_lowbit(before), host_core()), x)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_residual_picks_rows_by_codes() -> None:
    """conv + skip -> quantiser is one requantize with a side operand; no float is left between."""

    def body(emit: Any, x: Any) -> Any:
        q = quantised(emit, x, "act", qmin=-4, qmax=3)
        w = emit(fake_quant(const(WEIGHTS[:, :3, :1, :1]), spec(0.25, -2, 1)), "weight")
        conv = emit(relax.op.nn.conv2d(q, w), "conv")
        joined = emit(relax.op.nn.relu(emit(relax.op.add(q, conv), "join")), "relu")
        return emit(relax.op.nn.relu(quantised(emit, joined, "out", scale=0.7)), "end")

    after = rewrite_lowbit(module(body, (1, 3, 4, 4)))
    calls = {name: v for name, v in values(after).items() if ops.op_name(v)}
    (requantize,) = [v for v in calls.values() if ops.op_name(v) == ops.REQUANTIZE]
    assert len(requantize.args) == 4
    assert shape_of(requantize.args[1]) == (8, 3, 3)
    assert int(requantize.attrs["side_bits"]) == 3
    assert "relax.add" not in operators(after)
    assert operators(after).count(ops.SCALE_ACCUMULATORS) == 0


def test_float_value_beside_the_codes_is_kept_for_who_reads_it() -> None:
    """An explanation reads the value before a quantiser: it is computed from the same accumulator."""

    def body(emit: Any, x: Any) -> Any:
        q = quantised(emit, x, "act")
        w = emit(fake_quant(const(WEIGHTS), spec(0.25, -2, 1)), "weight")
        relu = emit(relax.op.nn.relu(emit(relax.op.nn.conv2d(q, w), "conv")), "relu")
        out = quantised(emit, relu, "out", scale=0.7)
        return emit(relax.op.subtract(out, relu), f"{EXPLANATION}m/difference")

    before = notes.add(module(body, (1, 4, 5, 5)), "explanation", {f"{EXPLANATION}m/difference": True})
    after = rewrite_lowbit(before)
    assert operators(after) == [
        ops.QUANTIZE,
        ops.DOT,
        ops.SCALE_ACCUMULATORS,
        "relax.nn.relu",
        ops.REQUANTIZE,
        ops.DEQUANTIZE,
        "relax.subtract",
    ]
    assert set(notes.read(after)["layers"]) == {"conv"}


def test_quantiser_never_stays_float() -> None:
    """Its codes are computed from the float value where no accumulator is known."""
    after = rewrite_lowbit(module(lambda emit, x: quantised(emit, emit(relax.op.sigmoid(x), "s")), (1, 4)))
    assert operators(after) == ["relax.sigmoid", ops.QUANTIZE, ops.DEQUANTIZE]


@pytest.mark.parametrize("qmax", [256, 65535])
def test_wide_quantisers_stay_float_with_reason(qmax: int) -> None:
    """Of activations and of weights."""

    def body(emit: Any, x: Any) -> Any:
        q = quantised(emit, x, "act", scale=0.01, qmax=qmax)
        w = emit(fake_quant(const(WEIGHTS), spec(0.01, 0, qmax)), "weight")
        return emit(relax.op.nn.conv2d(q, w), "conv")

    after = rewrite_lowbit(module(body, (1, 4, 5, 5)))
    assert operators(after) == [ops.FAKE_QUANT, ops.FAKE_QUANT, "relax.nn.conv2d"]
    layers = notes.read(after)["layers"]
    assert set(layers) == {"act", "weight", "conv"}
    assert all(layers[name]["reason"] for name in layers)


def test_layer_named_like_an_explanation_is_a_layer() -> None:
    """A model may call its layers as it likes."""
    name = f"{EXPLANATION}conv"

    def body(emit: Any, x: Any) -> Any:
        q = quantised(emit, x, f"{EXPLANATION}act")
        w = emit(fake_quant(const(WEIGHTS), spec(0.25, -2, 1)), "weight")
        return emit(relax.op.nn.conv2d(q, w), name)

    after = rewrite_lowbit(detect_quantizers(module(body, (1, 4, 5, 5))))
    assert ops.DOT in operators(after)
