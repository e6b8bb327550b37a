"""QuantSpec against ONNX Runtime, numpy and torch, ties included."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort  # type: ignore[import-untyped] - it has no types
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from relax_models import spec

from relay_passes.quant_forms import FORMS
from relay_passes.quant_spec import NoMatch, QuantSpec
from schedules.errors import LowbitError

Array = npt.NDArray[Any]
CHANNELS = 3
settings.register_profile("passes", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("passes")


@st.composite
def quantisers(draw: st.DrawFn, halves: bool = False, beyond: bool = False) -> tuple[QuantSpec, Array]:
    """A quantiser of 1 to 8 bits and values around all of its codes: ties, their neighbours, far beyond the range."""
    bits = draw(st.integers(1, 8))
    signed, narrow, channels = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    qmin = -(1 << (bits - 1)) if signed else 0
    qmax = qmin + (1 << bits) - 1
    qmin += int(narrow and bits > 1)
    count = CHANNELS if channels else 1
    powers = draw(st.booleans())
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = (2.0 ** random.integers(-8, 5, count) if powers else np.exp(random.uniform(-6, 4, count))).astype(
        np.float32
    )
    zero = random.integers(qmin, qmax + 1, count).astype(np.float32)
    if beyond:  # a clip that leaves out 0.0
        zero += np.float32(random.choice([-1, 1]) * random.integers(1 << bits, 1 << 12))
    if halves:
        zero = (zero if beyond else np.minimum(zero, qmax - 1)) + np.float32(0.5)
    codes = random.integers(qmin - 3, qmax + 4, (CHANNELS, 40)).astype(np.float32)
    integers = codes - zero[:, None]
    ties = ((integers + np.float32(0.5)) * scale[:, None]).astype(np.float32)
    spread = (random.normal(size=(CHANNELS, 40)) * scale[:, None] * (qmax - qmin)).astype(np.float32)
    parts = [ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf)), spread]
    far = np.full((CHANNELS, 3), [0, 1e30, -1e30], np.float32)
    x = np.concatenate([*parts, integers * scale[:, None], far], axis=1).astype(np.float32)
    if not channels:
        scale, zero = scale.reshape(()), zero.reshape(())
    return QuantSpec(scale, zero, qmin, qmax, 0 if channels else None), x


@cache
def session(kind: str, dtype: str, channels: bool) -> Any:
    """A quantiser's graph in ONNX Runtime whose scale, zero point and range are inputs."""
    integer = getattr(TensorProto, dtype.upper())
    inner = integer if kind == "qdq" else TensorProto.FLOAT
    length = [CHANNELS, 1] if kind != "qdq" else [CHANNELS]
    shape: list[int] = length if channels else []
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [CHANNELS, "n"])]
    inputs.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, shape))
    inputs.append(helper.make_tensor_value_info("z", inner, shape))
    inputs += [helper.make_tensor_value_info(name, inner, []) for name in ("lo", "hi")]
    n = helper.make_node
    if kind == "qdq":
        extra = {"axis": 0} if channels else {}
        nodes = [
            n("QuantizeLinear", ["x", "s", "z"], ["q"], **extra),
            n("Clip", ["q", "lo", "hi"], ["codes"]),
            n("DequantizeLinear", ["codes", "s", "z"], ["y"], **extra),
        ]
    else:
        head = [n("Div", ["x", "s"], ["d"]), n("Add", ["d", "z"], ["a"])]
        clip_first = [n("Clip", ["a", "lo", "hi"], ["c"]), n("Round", ["c"], ["codes"])]
        round_first = [n("Round", ["a"], ["c"]), n("Clip", ["c", "lo", "hi"], ["codes"])]
        tail = [n("Sub", ["codes", "z"], ["b"]), n("Mul", ["b", "s"], ["y"])]
        nodes = [*head, *(clip_first if kind == "clip_first" else round_first), *tail]
    outputs = [helper.make_empty_tensor_value_info(name) for name in ("codes", "y")]
    graph = helper.make_graph(nodes, "quantiser", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def by_onnx(kind: str, q: QuantSpec, x: Array) -> tuple[Array, Array]:
    """Signed codes and values."""
    dtype = np.dtype(np.int8 if q.qmin < 0 else np.uint8) if kind == "qdq" else np.dtype(np.float32)
    shape = q.scale.shape if kind == "qdq" or q.axis is None else (CHANNELS, 1)
    parts = {"s": q.scale.reshape(shape), "z": q.zero_point.reshape(shape).astype(dtype)}
    parts |= {"lo": np.asarray(q.qmin, dtype), "hi": np.asarray(q.qmax, dtype)}
    codes, values = session(kind, str(dtype) if kind == "qdq" else "int8", q.axis is not None).run(
        None, {"x": x, **parts}
    )
    return codes, values


def assert_equal(q: QuantSpec, x: Array, codes: Array | None, values: Array) -> None:
    """Codes and values, bit for bit."""
    mine = q.codes(x)
    assert mine.dtype == np.uint8
    if codes is not None:
        np.testing.assert_array_equal(mine.astype(np.int32) + q.qmin, codes.astype(np.int32))
    np.testing.assert_array_equal(q.values(mine), values)


@given(quantisers())
def test_divide_equals_quantize_clip_dequantize(drawn: tuple[QuantSpec, Array]) -> None:
    """ONNX Runtime's QuantizeLinear, Clip, DequantizeLinear."""
    q, x = drawn
    assert_equal(q, x, *by_onnx("qdq", q, x))


@pytest.mark.parametrize("kind", ["clip_first", "round_first"])
@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("beyond", [False, True])
@given(data=st.data())
def test_divide_shifted_equals_raw_arithmetic(kind: str, beyond: bool, halves: bool, data: st.DataObject) -> None:
    """ONNX Runtime's Div, Add, Clip, Round, Sub, Mul, Clip and Round in either order; any zero points."""
    q, x = data.draw(quantisers(halves, beyond))
    assert isinstance(q.checked("q"), QuantSpec)
    q = QuantSpec(q.scale, q.zero_point, q.qmin, q.qmax, q.axis, "divide_shifted")
    assert_equal(q, x, *by_onnx(kind, q, x))


@given(quantisers())
def test_reciprocal_equals_torch(drawn: tuple[QuantSpec, Array]) -> None:
    """torch.fake_quantize per tensor and per channel."""
    q, x = drawn
    q = QuantSpec(q.scale, q.zero_point, q.qmin, q.qmax, q.axis, "reciprocal")
    # torch's integer conversion of 1e30 * s is undefined; keep what fits.
    x = np.clip(x, -1e6 * q.scale.min(), 1e6 * q.scale.min()).astype(np.float32)
    tensor, zero = torch.from_numpy(x), q.zero_point
    if q.axis is None:
        expected = torch.fake_quantize_per_tensor_affine(tensor, float(q.scale), int(zero), q.qmin, q.qmax)
    else:
        parts = torch.from_numpy(q.scale), torch.from_numpy(zero.astype(np.int32))
        expected = torch.fake_quantize_per_channel_affine(tensor, *parts, 0, q.qmin, q.qmax)
    assert_equal(q, x, None, expected.numpy())


def test_forms_differ_where_they_should() -> None:
    """An odd zero point moves ties for one form; the reciprocal moves them in the last bit."""
    half = np.array([0.5], np.float32)
    codes = {form: int(spec(1.0, 0, 7, 3.0, form=form).codes(half)[0]) for form in FORMS}
    down, up = (
        {"divide", "reciprocal", "reciprocal_below", "floor", "to_zero", "half_to_zero"},
        {"divide_shifted", "reciprocal_above", "ceil", "away", "half_away", "half_up", "half_up_shifted", "sign"},
    )
    signs = dict.fromkeys(("at_least_zero", "above_zero", "sign_scaled"), 1)
    assert codes == dict.fromkeys(down, 3) | dict.fromkeys(up, 4) | signs
    found = []
    for scale in np.linspace(0.1, 0.9, 33, dtype=np.float32):
        ties = (np.arange(0.5, 7) * scale).astype(np.float32)
        near = np.concatenate([ties, np.nextafter(ties, np.float32(9)), np.nextafter(ties, np.float32(0))])
        divide, reciprocal = (spec(scale, 0, 7, form=form).codes(near) for form in ("divide", "reciprocal"))
        found.append(np.any(divide != reciprocal))
    assert any(found)


@given(quantisers(halves=True), st.booleans())
def test_invariants(drawn: tuple[QuantSpec, Array], whole: bool) -> None:
    """Bits, levels, multiplier, offset and operand describe the values exactly."""
    q, _ = drawn
    if whole:
        q = QuantSpec(q.scale, np.floor(q.zero_point), q.qmin, q.qmax, q.axis)
    assert isinstance(q.checked("q"), QuantSpec)
    assert q.levels == q.qmax - q.qmin
    assert 2 ** (q.bits - 1) <= q.levels < 2**q.bits
    assert q.multiplier == (1 if whole else 2)
    codes = np.arange(q.levels + 1)
    integers = q.multiplier * codes + np.reshape(q.offset, (-1, 1))
    exact = (codes + q.qmin - np.reshape(q.zero_point, (-1, 1)).astype(np.float64)) * np.reshape(q.scale, (-1, 1))
    np.testing.assert_array_equal(integers * np.reshape(q.step, (-1, 1)), exact)
    assert np.abs(integers).max() <= q.operand.bound
    assert (q.operand.bits, q.operand.multiplier) == (q.bits, q.multiplier)
    assert q.operand.offset_bound == np.abs(q.offset).max()
    if q.axis is None:
        assert q.operand.offset == int(q.offset)
        zero = q.operand.zero_code
        on_grid = [int(c) for c, v in zip(codes, integers[0], strict=True) if v == 0]
        assert ([] if zero is None else [zero]) == on_grid or (zero is not None and zero > q.levels)


@given(quantisers())
def test_values_are_fixed_points(drawn: tuple[QuantSpec, Array]) -> None:
    """Quantising a quantised value changes nothing."""
    q, x = drawn
    codes = q.codes(x)
    np.testing.assert_array_equal(q.codes(q.values(codes)), codes)


def test_per_channel_along_any_axis() -> None:
    """The axis says where scales run; one scale of size 1 is no axis at all."""
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    for axis in range(3):
        scale = np.linspace(0.1, 0.5, x.shape[axis], dtype=np.float32)
        q = spec(scale, -2, 1, axis=axis)
        for i, s in enumerate(scale):
            part = np.take(x, i, axis)
            np.testing.assert_array_equal(np.take(q.codes(x), i, axis), spec(s, -2, 1).codes(part))
    one = spec(np.float32([0.3]), -2, 1, axis=1)
    np.testing.assert_array_equal(one.codes(x), spec(0.3, -2, 1).codes(x))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -0.5])
@pytest.mark.parametrize("axis", [None, 1])
def test_senseless_scales_are_errors(value: float, axis: int | None) -> None:
    """The message names the quantiser and the number."""
    scale = value if axis is None else [0.5, value, 0.5]
    with pytest.raises(LowbitError) as caught:
        spec(scale, 0, 3, axis=axis).checked("act1")
    assert "scale of quantiser act1" in caught.value.where
    assert caught.value.got == repr(value)
    assert caught.value.hint


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_senseless_zero_points_are_errors(value: float) -> None:
    """Likewise."""
    with pytest.raises(LowbitError, match="zero point of quantiser act1"):
        spec(0.5, 0, 3, value).checked("act1")


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"qmin": 3, "qmax": 3}, "its range 3..3 holds fewer than two codes"),
        ({"qmin": 3, "qmax": 1}, "fewer than two codes"),
        ({"qmin": 0, "qmax": 256}, "its range 0..256 takes 9 bits; 1 to 8 are supported"),
        ({"qmin": 0, "qmax": 65535}, "takes 16 bits"),
        ({"qmin": 0, "qmax": 7, "zero": 0.25}, "its zero point is no multiple of 1/2"),
        ({"qmin": 0, "qmax": 7, "zero": 32769.0}, "its zero point lies more than 32768 steps from its codes 0..7"),
        ({"qmin": 0, "qmax": 7, "zero": -1e30}, "its zero point lies more than 32768 steps"),
        ({"qmin": 0, "qmax": 7, "scale": [0.5, 0.25]}, "its scale varies along more than one axis"),
    ],
)
def test_what_is_no_low_bit_quantiser(numbers: dict[str, Any], reason: str) -> None:
    """A reason each, in its own words."""
    checked = spec(**({"scale": 0.5} | numbers)).checked("q")
    assert isinstance(checked, NoMatch)
    assert reason in checked.reason


def test_prints_its_width() -> None:
    """For reports."""
    assert str(spec(0.5, -2, 1)) == "2 bits -2..1 per tensor"
    assert str(spec([0.5, 0.25], 0, 255, axis=1)) == "8 bits 0..255 per channel (axis 1)"
