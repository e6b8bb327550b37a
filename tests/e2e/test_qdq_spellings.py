"""QDQ as exporters write it: axes, types, opsets, biases; codes and outputs are a reference runtime's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import oracle
import pytest
from fuzz.seeds import Writer
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

import tvm_lowbit

F = np.float32
INT8, UINT8, INT16, INT32 = (getattr(TensorProto, name) for name in ("INT8", "UINT8", "INT16", "INT32"))


def activation(w: Writer, x: str, scale: float, zero: int, kind: int = UINT8) -> str:
    """QuantizeLinear, DequantizeLinear."""
    parts = w.const(scale), w.const(zero, kind)
    return w.add("DequantizeLinear", w.add("QuantizeLinear", x, *parts), *parts)


def weights(w: Writer, *shape: int, axis: int | None, low: int = -128, high: int = 128, kind: int = INT8) -> str:
    """Stored integers, a step for each index of the axis; powers of two, so that float32 sums are exact."""
    codes = w.const(w.random.integers(low, high, shape), kind)
    if axis is None:
        return w.add("DequantizeLinear", codes, w.const(0.25), w.const(0, kind))
    steps = 2.0 ** -w.random.integers(1, 4, shape[axis])
    return w.add("DequantizeLinear", codes, w.const(steps), w.const(np.zeros(shape[axis]), kind), axis=axis)


def assert_exact(made: onnx.ModelProto, bits: list[str], batch: int = 2) -> Any:
    """Codes and outputs are the reference's, and layers run at these bits."""
    artifact = tvm_lowbit.build(made, "host", batch=batch, probe=True)
    assert [row.bits for row in artifact.report.low_bit] == bits, artifact.report
    shape = artifact.manifest.inputs[0].shape
    x = (np.random.default_rng(0).integers(-40, 60, shape) / 8).astype(F)
    result = artifact.run(x)
    probed = onnx.ModelProto.FromString(made.SerializeToString())
    codes = {}
    for node in made.graph.node:
        if node.op_type == "QuantizeLinear":
            reader = next(n for n in made.graph.node if node.output[0] in n.input)
            codes[reader.name] = node.output[0]
            probed.graph.output.append(onnx.helper.make_empty_tensor_value_info(node.output[0]))
    names = [output.name for output in probed.graph.output]
    # Each knows opsets that the other does not.
    old = made.opset_import[0].version < 19
    values = oracle.session(probed).run(None, {"x": x}) if old else ReferenceEvaluator(probed).run(None, {"x": x})
    expected = dict(zip(names, values, strict=True))
    for name, got in result.codes.items():
        np.testing.assert_array_equal(got, np.asarray(expected[codes[name]]).astype(np.int32), err_msg=name)
    for name, got in result.outputs.items():
        np.testing.assert_array_equal(got, expected[name])
    return artifact


@pytest.mark.parametrize("opset", [10, 13, 19, 21, 23, 25, onnx.defs.onnx_opset_version()])
def test_opsets(opset: int) -> None:
    """From the first that has QuantizeLinear to the newest that onnx knows."""
    w = Writer(1)
    axis = None if opset < 13 else 0
    c = w.add("Conv", activation(w, "x", 0.5, 3), weights(w, 4, 3, 3, 3, axis=axis), pads=[1] * 4)
    y = activation(w, w.add("Relu", c), 0.75, 0)
    assert_exact(w.model(y, ["N", 3, 5, 5], 4, opset), ["W8A8"])


@pytest.mark.parametrize("zero", [0, 1, 77, 255])
def test_asymmetric_activations_with_padding(zero: int) -> None:
    """Padding is the code of 0.0."""
    w = Writer(zero)
    c = w.add("Conv", activation(w, "x", 0.25, zero), weights(w, 4, 3, 3, 3, axis=0), pads=[2, 0, 1, 3], strides=[2, 1])
    assert_exact(w.model(activation(w, c, 2.0, 130), ["N", 3, 5, 6], 4), ["W8A8"])


@pytest.mark.parametrize(
    ("kind", "zero", "bits"), [("UINT4", 0, 4), ("UINT4", 11, 4), ("UINT2", 1, 2), ("UINT2", 3, 2)]
)
def test_asymmetric_narrow_activations_with_padding(kind: str, zero: int, bits: int) -> None:
    """Of 4 and 2 bits."""
    w = Writer(zero)
    a = activation(w, "x", 0.5, zero, getattr(TensorProto, kind))
    c = w.add("Conv", a, weights(w, 4, 3, 3, 3, axis=0), pads=[1, 2, 1, 2])
    y = activation(w, c, 2.0, zero, getattr(TensorProto, kind))
    assert_exact(w.model(y, ["N", 3, 5, 5], 4, 21 if bits == 4 else 25), [f"W8A{bits}"])


@pytest.mark.parametrize("kind", [INT8, UINT8])
def test_matmul_weights_by_column(kind: int) -> None:
    """Axis 1, that of the outputs; written as -1 it is the same."""
    for axis in (1, -1):
        w = Writer(3)
        low, high = (0, 256) if kind == UINT8 else (-128, 128)
        m = w.add("MatMul", activation(w, "x", 0.5, 3), weights(w, 6, 4, axis=axis, low=low, high=high, kind=kind))
        assert_exact(w.model(activation(w, m, 0.5, 100), ["N", 6]), ["W8A8"])


@pytest.mark.parametrize(("transposed", "axis"), [(0, 1), (1, 0), (1, None)])
def test_gemm_weights(transposed: int, axis: int | None) -> None:
    """With transB the outputs are along axis 0."""
    w = Writer(4)
    shape = (4, 6) if transposed else (6, 4)
    m = w.add(
        "Gemm", activation(w, "x", 0.5, 3), weights(w, *shape, axis=axis), w.const([1, 2, -3, 0.5]), transB=transposed
    )
    assert_exact(w.model(m, ["N", 6]), ["W8A8"])


@pytest.mark.parametrize("axis", [1, None])
def test_transposed_convolution(axis: int | None) -> None:
    """Weights (C, O, kh, kw): the outputs are along axis 1. Right, low-bit or with a reason."""
    w = Writer(5)
    t = w.add("ConvTranspose", activation(w, "x", 0.5, 3), weights(w, 3, 4, 2, 2, axis=axis), strides=[2, 2])
    made = w.model(activation(w, t, 0.5, 10), ["N", 3, 4, 4], 4)
    rows = tvm_lowbit.inspect(made, "host").rows
    (row,) = (row for row in rows if "transpose" in row.op)
    assert row.bits == "W8A8" or row.reason
    assert_exact(made, [row.bits] if row.technique else [])


def test_wrong_axis_stays_float() -> None:
    """A step for each input channel has no common factor."""
    w = Writer(6)
    c = w.add("Conv", activation(w, "x", 0.5, 3), weights(w, 4, 3, 3, 3, axis=1))
    artifact = assert_exact(w.model(activation(w, c, 0.5, 10), ["N", 3, 5, 5], 4), [])
    assert "axis 1, which is not that of the outputs" in artifact.report.stays_float[0].reason


@pytest.mark.parametrize("kind", ["INT16", "UINT16"])
def test_sixteen_bits_stay_float(kind: str) -> None:
    """Activations and weights, each with its reason; results are right."""
    number = getattr(TensorProto, kind)
    w = Writer(7)
    a = activation(w, "x", 0.125, 3, number)
    c = w.add("Conv", a, weights(w, 4, 3, 3, 3, axis=0))
    artifact = assert_exact(w.model(c, ["N", 3, 5, 5], 4, 21), [])
    assert "takes 16 bits; 1 to 8 are supported" in artifact.report.stays_float[0].reason
    w = Writer(8)
    c = w.add("Conv", activation(w, "x", 0.5, 3), weights(w, 4, 3, 3, 3, axis=0, low=0, kind=number))
    artifact = assert_exact(w.model(c, ["N", 3, 5, 5], 4, 21), [])
    assert f"its weights are stored as {kind.lower()}" in artifact.report.stays_float[0].reason


def test_bias_along_an_axis_it_does_not_have() -> None:
    """ONNX's default, 1, is none of a vector's."""
    w = Writer(11)
    bias = w.add("DequantizeLinear", w.const([40, -80, 12, 7], INT32), w.const([0.25, 0.125, 0.5, 1]))
    made = w.model(w.add("Conv", "x", weights(w, 4, 3, 3, 3, axis=0), bias), ["N", 3, 5, 5], 4, 13)
    with pytest.raises(tvm_lowbit.LowbitError, match=r"axis of .*: expected one of 1 dimensions"):
        tvm_lowbit.build(made, "host")


@pytest.mark.parametrize("bound", [0, 1])
def test_clip_of_codes_with_one_bound(bound: int) -> None:
    """The other is the type's own."""
    w = Writer(10)
    parts = w.const(0.5), w.const(3, UINT8)
    bounds = ["", ""]
    bounds[bound] = w.const([2, 15][bound], UINT8)
    clipped = w.add("Clip", w.add("QuantizeLinear", "x", *parts), *bounds)
    c = w.add("Conv", w.add("DequantizeLinear", clipped, *parts), weights(w, 4, 3, 3, 3, axis=0))
    made = w.model(c, ["N", 3, 5, 5], 4, 13)
    artifact = tvm_lowbit.build(made, "host", batch=2)
    assert [row.bits for row in artifact.report.low_bit] == [["W8A8", "W8A4"][bound]]
    x = (np.random.default_rng(0).integers(-40, 160, (2, 3, 5, 5)) / 4).astype(F)
    np.testing.assert_array_equal(next(iter(artifact.run(x).outputs.values())), oracle.run(made, x))


@pytest.mark.parametrize("zero", [None, 0])
@pytest.mark.parametrize("operator", ["Conv", "Gemm"])
def test_bias_of_int32_is_a_constant(operator: str, zero: int | None) -> None:
    """Its step is the product of the others', channel by channel; the next quantiser still counts thresholds."""
    w = Writer(9)
    bias = [w.const([40, -80, 12, 7], INT32), w.const([0.25, 0.125, 0.5, 1])]
    if zero is not None:
        bias.append(w.const([0] * 4, INT32))
    conv = operator == "Conv"
    a = activation(w, "x", 0.5, 3)
    stored = weights(w, 4, 3, 3, 3, axis=0) if conv else weights(w, 6, 4, axis=1)
    c = w.add(operator, a, stored, w.add("DequantizeLinear", *bias, axis=0))
    made = w.model(activation(w, w.add("Relu", c), 0.75, 0), ["N", 3, 5, 5] if conv else ["N", 6], 4 if conv else 2)
    artifact = assert_exact(made, ["W8A8"])
    assert artifact.report.stays_float == []
