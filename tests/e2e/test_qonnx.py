"""QONNX quantisers: codes and outputs as their definition has them, bad ones named."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import oracle
import pytest
from models import model
from onnx import helper
from qonnx_oracle import ROUNDINGS, spelled_out

import tvm_lowbit
from tvm_lowbit import LowbitError
from tvm_lowbit.from_onnx.qonnx import DOMAINS, ROUNDING_MODES

F = np.float32
DOMAIN = "qonnx.custom_op.general"


def quant(x: str, name: str, operator: str = "Quant", domain: str = DOMAIN, **attrs: Any) -> Any:
    """A quantiser of ``x``; its parts are the initialisers ``{name}_s``, ``_z`` and ``_b``."""
    parts = [f"{name}_s"] if operator == "BipolarQuant" else [f"{name}_s", f"{name}_z", f"{name}_b"]
    return helper.make_node(operator, [x, *parts], [name], name, domain=domain, **attrs)


def parts(name: str, scale: Any, zero: Any = 0.0, bits: Any = 2) -> dict[str, Any]:
    """The initialisers of one."""
    return {f"{name}_s": F(scale), f"{name}_z": F(zero), f"{name}_b": F(bits)}


def conv(a: Any, w: Any, arrays: dict[str, Any], channels: int = 3, shape: tuple[int, ...] = (4, 3, 3, 3)) -> Any:
    """Activation and weight quantisers around a convolution, and an activation quantiser behind it.

    Padded only if 0.0 has a code: bipolar activations have none.
    """
    bipolar = a.op_type == "BipolarQuant" or (arrays["a_b"].size == 1 and arrays["a_b"] == 1)
    weights = np.random.default_rng(5).normal(size=shape).astype(F)
    nodes = [a, w, helper.make_node("Conv", ["a", "w"], ["c"], "conv", pads=[0 if bipolar else 1] * 4)]
    nodes += [quant("c", "q", signed=1), helper.make_node("Relu", ["q"], ["y"], "relu")]
    made = model(nodes, {"raw": weights, **parts("q", 0.53, bits=3), **arrays}, ["N", channels, 5, 5], ["y"])
    made.opset_import.extend(helper.make_opsetid(d, 1) for d in sorted({n.domain for n in nodes if n.domain}))
    return made


def assert_exact(made: onnx.ModelProto, x: Any, low_bit: int = 1, rtol: float = 0.0) -> Any:
    """Codes of activation quantisers equal; outputs too (where they follow no quantiser, within ``rtol``)."""
    artifact = tvm_lowbit.build(made, "host", probe=True)
    assert len(artifact.report.low_bit) == low_bit, artifact.report
    result = artifact.run(x)
    standard, codes = spelled_out(made)
    names = list(result.codes)
    for name in names:
        standard.graph.output.append(helper.make_tensor_value_info(codes[name], onnx.TensorProto.FLOAT, None))
    expected = oracle.session(standard).run(None, {"x": x})
    for name, values in zip(names, expected[1:], strict=True):
        # Bipolar codes are 0 and 1 here, the definition's -1 and 1.
        bipolar = result.codes[name].max() <= 1 and values.min() == -1 and not np.any(values == 0)
        np.testing.assert_array_equal(result.codes[name] * (2 if bipolar else 1) - bipolar, values, err_msg=name)
    atol = rtol * float(np.abs(expected[0]).max())
    np.testing.assert_allclose(result.outputs["y"], expected[0], rtol, atol)
    return artifact


def inputs(scale: float = 0.5, channels: int = 3) -> Any:
    """Values around and at the ties and codes of a scale, and others."""
    rng = np.random.default_rng(3)
    x = (rng.integers(-12, 13, (4, channels, 5, 5)) * F(scale) / 2).astype(F)
    x[1] = np.nextafter(x[1], F(np.inf))
    x[2] = rng.normal(size=x[2].shape)
    x[3, :, 0] = [0.0, -0.0, 1e-42, -1e-42, 1e30]
    return x


@pytest.mark.parametrize("domain", sorted(DOMAINS))
@pytest.mark.parametrize("operator", ["Quant", "IntQuant"])
def test_domains_and_names(domain: str, operator: str) -> None:
    """Both names in every domain."""
    arrays = parts("a", 0.5, bits=3) | parts("w", np.full((4, 1, 1, 1), [[[[0.31]]]]))
    assert_exact(conv(quant("x", "a", operator, domain), quant("raw", "w", operator, domain), arrays), inputs())


@pytest.mark.parametrize("mode", ROUNDING_MODES)
@pytest.mark.parametrize("zero", [0.0, 1.0])
def test_rounding_modes(mode: str, zero: float) -> None:
    """On activations before and behind a convolution, and on weights."""
    made = conv(
        quant("x", "a", rounding_mode=mode),
        quant("raw", "w", rounding_mode=mode),
        parts("a", 0.5, zero, 4) | parts("w", np.reshape([0.125, 0.25, 0.5, 0.25], (4, 1, 1, 1)), bits=3),
    )
    made.graph.node[3].attribute.append(helper.make_attribute("rounding_mode", mode.lower()))
    reference = onnx.ModelProto()
    reference.CopyFrom(made)
    assert set(ROUNDINGS) == set(ROUNDING_MODES)
    reference.graph.node[3].attribute[-1].s = mode.encode()
    assert_exact(reference, inputs())
    tvm_lowbit.build(made, "host")  # lower case is the same


# One unsigned narrow bit is left out: 0 is its only code.
@pytest.mark.parametrize(
    ("bits", "signed", "narrow"),
    [(b, s, n) for b in range(1, 9) for s in (0, 1) for n in (0, 1) if (b, s, n) != (1, 0, 1)],
)
def test_widths(bits: int, signed: int, narrow: int) -> None:
    """1 to 8 bits, signed or not, narrow or not."""
    made = conv(
        quant("x", "a", signed=signed, narrow=narrow),
        quant("raw", "w", signed=1, narrow=narrow),
        parts("a", 2.0 ** (2 - bits), bits=bits) | parts("w", 2.0 ** (1 - bits), bits=bits),
    )
    assert_exact(made, inputs(2.0 ** (2 - bits)))


@pytest.mark.parametrize("scale", [0.37, [[[[0.25]]], [[[0.5]]], [[[2.0]]], [[[1.0]]]]])
def test_bipolar(scale: Any) -> None:
    """Weights per tensor and per channel; activations by their sign, that of 0 included."""
    arrays = {"a_s": F(0.5), "w_s": F(scale)}
    assert_exact(conv(quant("x", "a", "BipolarQuant"), quant("raw", "w", "BipolarQuant"), arrays), inputs())


def test_bipolar_behind_a_layer() -> None:
    """Thresholds on accumulators."""
    arrays = parts("a", 0.5, bits=3) | {"w_s": F(0.25)}
    made = conv(quant("x", "a"), quant("raw", "w", "BipolarQuant"), arrays)
    made.graph.node[3].CopyFrom(quant("c", "q", "BipolarQuant"))
    assert_exact(made, inputs())


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1), (4, 1, 1, 1)])
def test_shapes_of_scales(shape: tuple[int, ...]) -> None:
    """Whatever broadcasts to one axis."""
    arrays = parts("a", np.full((1,) * len(shape), 0.5), bits=3) | parts("w", np.full(shape, 0.31))
    assert_exact(conv(quant("x", "a"), quant("raw", "w"), arrays), inputs())


@pytest.mark.parametrize("mode", ["ROUND", "HALF_UP", "FLOOR"])
def test_scale_along_two_axes_stays_float(mode: str) -> None:
    """Right all the same, and the ordinary spelling says why."""
    scale = (0.1 * np.sqrt(np.arange(2, 14))).reshape(4, 3, 1, 1)  # no common step
    arrays = parts("a", 0.5, bits=3) | parts("w", scale)
    made = conv(quant("x", "a"), quant("raw", "w", rounding_mode=mode), arrays)
    artifact = assert_exact(made, inputs(), low_bit=0)
    (reason,) = [row.reason for row in artifact.report.stays_float if "conv" in row.name]
    assert "weights are not quantised" in reason
    assert mode != "ROUND" or "its scale varies along more than one axis" in reason


@pytest.mark.parametrize("bits", [9, 16, 24, 32])
def test_wide_quantisers_stay_float(bits: int) -> None:
    """Right, with the reason."""
    arrays = parts("a", 2.0 ** (3 - bits), bits=bits) | parts("w", 0.31)
    made = conv(quant("x", "a"), quant("raw", "w"), arrays)
    artifact = tvm_lowbit.build(made, "host", probe=True)
    reasons = {row.name: row.reason for row in artifact.report.stays_float}
    assert f"takes {bits} bits; 1 to 8 are supported" in reasons["a"]
    assert "input is not quantised" in reasons["conv"]
    x = inputs()
    np.testing.assert_allclose(artifact.run(x).outputs["y"], oracle.run(spelled_out(made)[0], x), atol=1e-6)


@pytest.mark.parametrize(
    ("numbers", "attrs", "words"),
    [
        ({"bits": 0}, {}, ("bit width of quantiser a", "from 1 to 32", "0")),
        ({"bits": -2}, {}, ("bit width of quantiser a", "-2")),
        ({"bits": 2.5}, {}, ("bit width of quantiser a", "2.5")),
        ({"bits": 33}, {}, ("bit width of quantiser a", "33")),
        ({"bits": np.nan}, {}, ("bit width of quantiser a", "nan")),
        ({"bits": [2, 3]}, {}, ("bit width of quantiser a", "2, 3")),
        ({"scale": 0.0}, {}, ("scale of quantiser a", "above 0")),
        ({"scale": -1.0}, {}, ("scale of quantiser a", "-1.0")),
        ({"scale": np.inf}, {}, ("scale of quantiser a", "inf")),
        ({"zero": np.nan}, {}, ("zero point of quantiser a",)),
        ({"zero": 1.0, "bits": 1}, {}, ("zero point of quantiser a", "1 signed bit")),
        ({}, {"rounding_mode": "STOCHASTIC"}, ("rounding_mode of quantiser a", "HALF_DOWN", "STOCHASTIC")),
    ],
)
def test_senseless_numbers(numbers: dict[str, Any], attrs: dict[str, Any], words: tuple[str, ...]) -> None:
    """A `LowbitError` that names node and number."""
    made = conv(quant("x", "a", **attrs), quant("raw", "w"), parts("a", **({"scale": 0.5} | numbers)) | parts("w", 0.3))
    with pytest.raises(LowbitError) as caught:
        tvm_lowbit.build(made, "host")
    assert all(word in str(caught.value) for word in words), caught.value


def test_senseless_bipolar_scale_is_named_as_it_is() -> None:
    """Not as its double."""
    made = conv(quant("x", "a", "BipolarQuant"), quant("raw", "w"), parts("a", -1.5) | parts("w", 0.3))
    with pytest.raises(LowbitError, match=r"scale of quantiser a.*-1\.5"):
        tvm_lowbit.build(made, "host")


@pytest.mark.parametrize("index", [1, 2, 3])
def test_parts_computed_at_run_time(index: int) -> None:
    """Scale, zero point and bit width must be constant."""
    made = conv(quant("x", "a"), quant("raw", "w"), parts("a", 0.5) | parts("w", 0.3))
    made.graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["late"], "late", keepdims=0))
    made.graph.node[1].input[index] = "late"
    with pytest.raises(LowbitError, match=r"quantiser a: expected a constant .* got one computed at run time"):
        tvm_lowbit.build(made, "host")


@pytest.mark.parametrize(("operator", "domain"), [("Quant", ""), ("Quant", "my.ops"), ("Relu", DOMAIN)])
def test_other_domains_are_refused(operator: str, domain: str) -> None:
    """A quantiser outside QONNX's domains, and a standard operator inside."""
    node = helper.make_node(operator, ["x"], ["y"], "other", domain=domain)
    made = model([node], {}, ["N", 4], ["y"])
    if domain:
        made.opset_import.append(helper.make_opsetid(domain, 1))
    with pytest.raises(LowbitError, match=operator):
        tvm_lowbit.build(made, "host")


def test_domain_may_be_undeclared() -> None:
    """As in files of the older exporters; the caller's model stays as it was."""
    made = conv(quant("x", "a"), quant("raw", "w"), parts("a", 0.5, bits=3) | parts("w", 0.3))
    del made.opset_import[1:]
    before = made.SerializeToString()
    assert_exact(made, inputs())
    assert made.SerializeToString() == before
