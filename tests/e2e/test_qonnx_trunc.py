"""QONNX's ``Trunc``, both definitions: a quantiser behind sums of codes, right in float elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import oracle
import pytest
from models import model
from onnx import helper
from qonnx_oracle import spelled_out
from test_qonnx import DOMAIN, assert_exact, parts, quant

import tvm_lowbit
from tvm_lowbit import LowbitError
from tvm_lowbit.from_onnx.qonnx import ROUNDING_MODES

F = np.float32


def network(
    trunc: dict[str, Any],
    *,
    pool: tuple[int, int] = (2, 2),
    signed: int = 0,
    bits: int = 4,
    scale: float = 0.5,
    gain: float | None = None,
    attrs: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    """Quantiser, average pool, [the pool's size as a factor,] Trunc, quantised convolution.

    ``trunc`` has the inputs of Trunc behind x, in order.
    """
    n = helper.make_node
    nodes = [
        quant("x", "a", signed=signed),
        n("AveragePool", ["a"], ["p"], "pool", kernel_shape=pool, strides=pool),
        *([] if gain is None else [n("Mul", ["p", "gain"], ["sum"], "sum")]),
        n("Trunc", ["p" if gain is None else "sum", *trunc], ["t"], "t", domain=DOMAIN, **(attrs or {})),
        quant("raw", "w"),
        n("Conv", ["t", "w"], ["y"], "conv"),
    ]
    raw = np.random.default_rng(5).normal(size=(4, 3, 1, 1)).astype(F)
    arrays = {"raw": raw, **parts("a", scale, bits=bits), **parts("w", 0.25, bits=3)}
    arrays |= {name: F(value) for name, value in trunc.items()}
    if gain is not None:
        arrays["gain"] = F(gain)
    made = model(nodes, arrays, ["N", 3, 6, 6], ["y"])
    made.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return made


def first(bits_in: int, bits: int, scale: float = 0.5, zero: float = 0.0) -> dict[str, Any]:
    """Inputs of the first definition."""
    return {"t_s": scale, "t_z": zero, "t_i": bits_in, "t_b": bits}


def second(bits: int, scale: Any, out: Any, zero: float = 0.0, bits_in: int = 8) -> dict[str, Any]:
    """Inputs of the second definition."""
    return {"t_s": scale, "t_z": zero, "t_i": bits_in, "t_o": out, "t_b": bits}


def inputs(scale: float = 0.5) -> Any:
    """Codes, ties, and values far beyond the range."""
    x = (np.random.default_rng(3).integers(-24, 40, (6, 3, 6, 6)) * F(scale) / 2).astype(F)
    x[4] *= F(1e6)
    return x


@pytest.mark.parametrize("mode", ROUNDING_MODES)
@pytest.mark.parametrize("signed", [0, 1])
def test_first_definition_after_a_sum(mode: str, signed: int) -> None:
    """As Brevitas wrote ``QuantAvgPool2d``: the pool's sum is shifted right, scale and codes are an average's."""
    made = network(first(6, 4), gain=4, signed=signed, attrs={"rounding_mode": mode})
    artifact = assert_exact(made, inputs())
    (row,) = artifact.report.low_bit
    assert row.bits.startswith("W3A")


@pytest.mark.parametrize("mode", ROUNDING_MODES)
@pytest.mark.parametrize(("signed", "narrow"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_second_definition(mode: str, signed: int, narrow: int) -> None:
    """Behind the pool itself, whose mean is a multiple of a quarter of the step."""
    attrs = {"rounding_mode": mode.lower(), "signed": signed, "narrow": narrow}
    made = network(second(4, 0.125, 0.5), signed=signed, attrs=attrs)
    reference = onnx.ModelProto.FromString(made.SerializeToString())
    assert [row.bits for row in assert_exact(reference, inputs()).report.low_bit] == ["W3A4"]


@pytest.mark.parametrize("pool", [(3, 3), (6, 6), (2, 3)])
@pytest.mark.parametrize("scale", [0.5, 0.37])
def test_pools_that_are_no_power_of_two(pool: tuple[int, int], scale: float) -> None:
    """A ninth of the step and 8 to divide by: what Brevitas writes for a window of 9."""
    inner = F(scale) / F(pool[0] * pool[1])
    made = network(second(4, inner, scale), pool=pool, scale=scale, attrs={"rounding_mode": "ROUND", "signed": 0})
    assert_exact(made, inputs(scale), rtol=0 if scale == 0.5 else 1e-6)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_widths(bits: int) -> None:
    """As wide as the report says; narrower than the sums, so that it clamps."""
    made = network(second(bits, 0.125, 0.5), attrs={"signed": 0})
    assert [row.bits for row in assert_exact(made, inputs()).report.low_bit] == [f"W3A{bits}"]


@pytest.mark.parametrize("zero", [4.0, 8.0])
def test_zero_point(zero: float) -> None:
    """It is shifted with the codes."""
    assert_exact(network(second(4, 0.125, 0.5, zero), signed=1, attrs={"signed": 0}), inputs())


def assert_float(made: onnx.ModelProto, x: Any, reason: str) -> None:
    """Right, and the convolution says why it stays float."""
    artifact = tvm_lowbit.build(made, "host")
    expected = oracle.run(spelled_out(made)[0], x)
    np.testing.assert_allclose(artifact.run(x).outputs["y"], expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    assert reason in {row.name: row.reason for row in artifact.report.stays_float}["conv"], artifact.report


def test_zero_point_between_the_codes_stays_float() -> None:
    """A quarter has no integer form."""
    made = network(second(4, 0.125, 0.5, 5.0), signed=1, attrs={"signed": 0})
    assert_float(made, inputs(), "its zero point is no multiple of 1/2")


def test_unbounded_first_definition_stays_float() -> None:
    """It clamps nothing, and here nobody else does."""
    made = network(first(6, 4))
    made.graph.node[2].input[0] = "x"
    assert_float(made, inputs(), "nothing bounds its codes")


def test_first_definition_of_too_many_bits_stays_float() -> None:
    """Sums of 4 bits times 64 take 10 bits if no digit is dropped."""
    assert_float(network(first(6, 6), gain=64), inputs(), "bits; 1 to 8 are supported")


def test_unrelated_scales_stay_float() -> None:
    """No float32 number divides 0.7 and 0.3 to the scales of both channels."""
    scales = {"scale": F([0.1, 0.3, 0.7]).reshape(1, 3, 1, 1), "out": F([0.4, 1.3, 2.9]).reshape(1, 3, 1, 1)}
    assert_float(network(second(4, **scales)), inputs(), "its scale is not its output scale divided by one")


@pytest.mark.parametrize(
    ("trunc", "words"),
    [
        (second(0, 0.125, 0.5), "bit width of quantiser t: expected one whole number from 1 to 32, got 0"),
        (second(33, 0.125, 0.5), "got 33"),
        (second(4, 0.125, 0.5, bits_in=0), "bit width of quantiser t.*got 0"),
        (second(4, 0.0, 0.5), "scale of quantiser t.*got 0.0"),
        (second(4, 0.125, -0.5), "scale of quantiser t.*got -0.5"),
        (second(4, 0.125, np.nan), "scale of quantiser t.*got nan"),
        (second(4, 0.125, 0.5, np.inf), "zero point of quantiser t"),
        (second(4, 1e-30, 1e30), r"scales of quantiser t: expected .* factor of 2\*\*64 apart"),
        (first(6, 40), "got 40"),
        ({"t_s": 0.5, "t_z": 0.0, "t_b": 4}, "quantiser t: expected 5 or 6 inputs, got 4"),
    ],
)
def test_senseless_numbers(trunc: dict[str, Any], words: str) -> None:
    """Named."""
    with pytest.raises(LowbitError, match=words):
        tvm_lowbit.build(network(trunc), "host")


def test_unknown_rounding_mode() -> None:
    """Named."""
    with pytest.raises(LowbitError, match=r"rounding_mode of quantiser t.*RANDOM"):
        tvm_lowbit.build(network(first(6, 4), attrs={"rounding_mode": "RANDOM"}), "host")
