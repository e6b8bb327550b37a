"""TTQ: weights of two magnitudes without a common measure become two layers of one bit, exact in integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_graphs import GraphBuilder, assert_like_onnx, run_onnx

import tvm_lowbit
from relay_passes.recover_grid import ROUNDINGS
from relay_passes.two_scales import halves, two_scales

Array = Any


def weights(up: Any, down: Any, *shape: int, axis: int = 0, seed: int = 0) -> Array:
    """``{-down, 0, up}``, each a number or one for each output."""
    along = [-1 if i == axis else 1 for i in range(len(shape))]
    codes = np.random.default_rng(seed).integers(-1, 2, shape)
    up, down = (np.float32(v).reshape(along if np.ndim(v) else [1] * len(shape)) for v in (up, down))
    return (np.where(codes > 0, up, 0) - np.where(codes < 0, down, 0)).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1])
def test_their_sum_is_the_array(axis: int) -> None:
    array = weights(np.linspace(0.2, 0.9, 5), np.linspace(0.31, 0.7, 5), 5, 5, 3, axis=axis)
    array.swapaxes(0, axis)[2] = 0  # a channel of nothing
    specs = two_scales(array, axis, ROUNDINGS)
    assert specs is not None and [spec.bits for spec in specs] == [1, 1]
    parts = [spec.values(spec.codes(half)) for spec, half in zip(specs, halves(array), strict=True)]
    np.testing.assert_allclose(parts[0] + parts[1], array, rtol=ROUNDINGS)


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).normal(size=(4, 3, 3, 3)),
        weights(0.4127, 0.6953, 2, 2),  # too few to repeat
        np.where(weights(1, 1, 4, 9) > 0, 0.4127, 0.6953) * np.linspace(1, 1.001, 9),
        np.full((2, 20), np.nan),
    ],
    ids=["normal", "few", "beside", "nan"],
)
def test_other_weights_are_not(array: Array) -> None:
    assert two_scales(array.astype(np.float32), 0, ROUNDINGS) is None


LAYERS = {"conv": ((4, 3, 3, 3), 0), "grouped": ((6, 1, 3, 3), 0), "matmul": ((3, 6), 1), "deconv": ((3, 4, 2, 2), 1)}


@pytest.mark.parametrize("scales", [(0.4127, 0.6953), None], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("layer", LAYERS)
def test_layers(layer: str, scales: tuple[float, float] | None) -> None:
    """Bias, ReLU and a quantiser behind it: computed in registers from both accumulators."""
    shape, axis = LAYERS[layer]
    g = GraphBuilder()
    x = g.input(3, 6, 5) if layer != "matmul" else g.input(5, 3)
    a = g.quantiser(x, 0.5, -2, 1)
    up, down = scales or (np.linspace(0.21, 0.93, shape[axis]), np.linspace(0.31, 0.77, shape[axis]))
    w = g.constant(weights(up, down, *shape, axis=axis, seed=2))
    bias = g.constant(g.random.normal(size=shape[axis]))
    match layer:
        case "matmul":
            c = g.add("Add", g.add("MatMul", a, w, name="c"), bias)
        case "deconv":
            c = g.add("ConvTranspose", a, w, bias, name="c", strides=[2, 2])
        case _:
            c = g.add("Conv", a, w, bias, name="c", group=3 if layer == "grouped" else 1, pads=[1, 0, 1, 1])
    last = g.quantiser(g.add("Relu", c), 0.71, 0, 3, name="last")
    model = g.model(last)
    artifact = tvm_lowbit.build(model, "host", batch=2, probe=True)
    assert [(row.name, row.bits) for row in artifact.report.low_bit] == [("c/positive", "W1A2"), ("c/negative", "W1A2")]
    assert [row.name for row in artifact.report.in_registers] == ["last"]
    assert not artifact.report.stays_float
    assert_like_onnx(artifact, g, model, np.random.default_rng(1).normal(size=(2, *x_shape(layer))).astype(np.float32))


def x_shape(layer: str) -> tuple[int, ...]:
    return (5, 3) if layer == "matmul" else (3, 6, 5)


def test_layers_that_stay_float_are_not_split() -> None:
    """Activations of a scale for each channel."""
    g = GraphBuilder()
    a = g.quantiser(g.input(3, 6, 5), np.float32([0.3, 0.4, 0.5]).reshape(3, 1, 1), -2, 1)
    model = g.model(g.add("Conv", a, g.constant(weights(0.4127, 0.6953, 4, 3, 3, 3)), name="c"))
    assert [row.name for row in tvm_lowbit.build(model, "host").report.stays_float] == ["c"]


def test_excluded_layers_keep_their_weights() -> None:
    g = GraphBuilder()
    a = g.quantiser(g.input(3, 6, 5), 0.5, -2, 1)
    model = g.model(g.add("Conv", a, g.constant(weights(0.4127, 0.6953, 4, 3, 3, 3)), name="c"))
    artifact = tvm_lowbit.build(model, "host", exclude=["c"], explain=[])
    assert [row.name for row in artifact.report.rows] == ["c"]


def test_its_explanation_is_that_of_one_layer() -> None:
    """DeepLIFT of the layer, and of what it is split into, sums to the difference of the output."""
    g = GraphBuilder()
    a = g.quantiser(g.input(3, 4, 4), 0.5, -2, 1)
    w = weights(0.4127, 0.6953, 4, 3, 3, 3)
    c = g.add("Relu", g.add("Conv", a, g.constant(w), name="c"))
    model = g.model(g.add("MatMul", g.add("Flatten", c), g.constant(g.random.normal(size=(16, 2))), name="y"))
    x = np.random.default_rng(3).normal(size=(1, 3, 4, 4)).astype(np.float32)
    artifact = tvm_lowbit.build(model, "host", explain=[tvm_lowbit.DeepLift()])
    result = artifact.run(x)
    (expected,) = run_onnx(model, x, ["y"])
    np.testing.assert_allclose(result.outputs["y"], expected, rtol=1e-5, atol=1e-5)
    assert all(np.abs(e.gap).max() <= 1e-5 * max(1, np.abs(expected).max()) for e in result.explanations.values())
