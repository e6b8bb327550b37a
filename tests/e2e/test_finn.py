"""FINN's MultiThreshold: one step is a sign, more are counted; bad ones named; FINN's own network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import model
from onnx import helper

import tvm_lowbit
from tvm_lowbit import LowbitError
from tvm_lowbit.from_onnx.finn import DOMAINS

F = np.float32
DOMAIN = "finn.custom_op.general"
RNG = np.random.default_rng(7)


def network(thresholds: Any, shape: tuple[int, ...], domain: str = DOMAIN, **attrs: Any) -> onnx.ModelProto:
    """A MultiThreshold, then a Relu, so that the quantiser is no output."""
    nodes = [
        helper.make_node("MultiThreshold", ["x", "t"], ["q"], "q", domain=domain, **attrs),
        helper.make_node("Relu", ["q"], ["y"], "relu"),
    ]
    return model(nodes, {"t": F(thresholds)}, ["N", *shape], ["y"])


def counted(x: Any, thresholds: Any, axis: int) -> Any:
    """By the definition: one comparison after the other."""
    along = np.reshape(F(thresholds), [-1 if i == axis else 1 for i in range(x.ndim)] + [np.shape(thresholds)[1]])
    return sum((x >= along[..., i]).astype(F) for i in range(along.shape[-1]))


@pytest.mark.parametrize("domain", sorted(DOMAINS))
@pytest.mark.parametrize(
    ("shape", "axis", "channels", "attrs"),
    [
        ((6,), 1, 6, {}),
        ((6,), 1, 1, {}),
        ((3, 4, 4), 1, 3, {}),
        ((4, 4, 3), 3, 3, {"data_layout": "NHWC"}),
        ((5, 3), 2, 3, {}),
    ],
)
@pytest.mark.parametrize(("steps", "scale", "bias"), [(1, 2.0, -1.0), (1, 1.0, 0.0), (3, 0.5, 0.0), (7, 0.25, -1.0)])
def test_codes(
    domain: str, shape: Any, axis: int, channels: int, attrs: Any, steps: int, scale: float, bias: float
) -> None:
    """Codes count the thresholds at or below, in any layout; inputs on and beside thresholds."""
    thresholds = np.sort(RNG.normal(size=(channels, steps)), axis=1).astype(F)
    x = RNG.normal(size=(2, *shape)).astype(F)
    x.flat[0] = thresholds.flat[0]
    x.flat[1:3] = np.nextafter(thresholds.flat[0], F([9, -9]))
    made = network(thresholds, shape, domain, out_scale=scale, out_bias=bias, **attrs)
    result = tvm_lowbit.build(made, "host", probe=True).run(x)
    expected = counted(x, thresholds, axis)
    np.testing.assert_array_equal(result.codes["q"], expected)
    np.testing.assert_array_equal(result.outputs["y"], np.maximum(expected * F(scale) + F(bias), 0))


def test_layers_around_one_step_are_low_bit() -> None:
    """Thresholds on accumulators, per channel."""
    w = RNG.normal(size=(12, 8)).astype(F)
    t = RNG.normal(size=(8, 1)).astype(F)
    signs = {"out_scale": 2.0, "out_bias": -1.0, "domain": DOMAIN}
    quant = {"domain": "qonnx.custom_op.general"}
    nodes = [
        helper.make_node("MultiThreshold", ["x", "zero"], ["a"], "a", **signs),
        helper.make_node("BipolarQuant", ["w", "one"], ["wq"], "wq", **quant),
        helper.make_node("MatMul", ["a", "wq"], ["m"], "m"),
        helper.make_node("MultiThreshold", ["m", "t"], ["b"], "b", **signs),
        helper.make_node("BipolarQuant", ["v", "one"], ["vq"], "vq", **quant),
        helper.make_node("MatMul", ["b", "vq"], ["y"], "y"),
    ]
    v = RNG.normal(size=(8, 3)).astype(F)
    made = model(nodes, {"w": w, "v": v, "t": t, "zero": F([[0]]), "one": F(1)}, ["N", 12], ["y"])
    artifact = tvm_lowbit.build(made, "host")
    assert {row.name: row.bits for row in artifact.report.low_bit} == {"m": "W1A1", "y": "W1A1"}
    assert artifact.report.stays_float == []
    x = RNG.normal(size=(50, 12)).astype(F)
    sign = lambda array, limit=0: np.where(array >= limit, F(1), F(-1))  # noqa: E731 - an abbreviation
    np.testing.assert_array_equal(artifact.run(x).outputs["y"], sign(sign(x) @ sign(w), t.T) @ sign(v))


@pytest.mark.parametrize(
    ("thresholds", "attrs", "words"),
    [
        ([0.0], {}, "thresholds of q.*shape"),
        ([[0.0], [1.0]], {}, "thresholds of q.*shape"),
        ([[np.nan]], {}, "thresholds of q.*NaN"),
        ([[0.0]], {"out_scale": 0.0}, "scale of quantiser q"),
        ([[0.0]], {"out_scale": -1.0}, "scale of quantiser q"),
        ([[0.0]], {"data_layout": "HW"}, "data_layout of q"),
    ],
)
def test_senseless_numbers(thresholds: Any, attrs: dict[str, Any], words: str) -> None:
    """A `LowbitError` that names the node."""
    with pytest.raises(LowbitError, match=words):
        tvm_lowbit.build(network(thresholds, (6,), **attrs), "host")


def test_finn_network() -> None:
    """FINN's known inputs give their known classes."""
    folder = os.environ.get("TVM_LOWBIT_MODELS")
    if not folder:
        pytest.skip("TVM_LOWBIT_MODELS does not name a folder of trained networks")
    path = Path(folder)
    result = tvm_lowbit.build(path / "finn_tfc_model.onnx", "host").run(np.load(path / "finn_tfc_input.npy"))
    expected = np.load(path / "finn_tfc_expected_output.npy")
    np.testing.assert_array_equal(result.outputs["global_out"].reshape(-1), expected.reshape(-1))
