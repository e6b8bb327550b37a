"""Pooling stays integer on codes, and maxima on accumulators too: codes equal those of ONNX Runtime and torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx_graphs import GraphBuilder
from test_moving_forms import check, conv, dense, first, ints, last, quant

import tvm_lowbit

Graph = Callable[[GraphBuilder], str]

WINDOWS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_shape": [2, 3]},
    "overlapping, padded": {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 0, 1, 2]},
    "ceil mode": {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1},
    "ceil mode, padded": {"kernel_shape": [3, 2], "strides": [3, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
    "dilated": {"kernel_shape": [2, 3], "dilations": [2, 2], "pads": [1, 2, 1, 2]},
    "same, upper": {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "same, lower": {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("where", ["codes", "accumulator"])
def test_max_pool(name: str, where: str) -> None:
    """On an accumulator a ReLU and a batch norm of both signs follow: channels that fall turn maxima to minima."""

    def graph(g: GraphBuilder) -> str:
        x = quant(g, first(g), bits=3) if where == "codes" else first(g)
        x = g.add("MaxPool", x, **WINDOWS[name])
        return last(g, x if where == "codes" else quant(g, g.add("Relu", g.batch_norm(x, 8)), bits=3), 8)

    check(graph, 3, 7, 9)


def test_max_pool_before_a_sign() -> None:
    """XNOR-Net's block: convolution, pooling, batch norm, sign."""

    def graph(g: GraphBuilder) -> str:
        x = g.batch_norm(g.add("MaxPool", first(g), kernel_shape=[2, 2], strides=[2, 2]), 8)
        return conv(g, g.quantiser(x, 2.0, 0, 1, 0.5), 8, 4, 1)

    check(graph, 3, 8, 10)


def sppf(g: GraphBuilder) -> str:
    """A pyramid of pools, each of the one before, beside each other; before and behind the quantiser."""
    x, levels = g.add("Relu", first(g)), []
    for _ in range(3):
        levels.append(x)
        x = g.add("MaxPool", x, kernel_shape=[5, 5], pads=[2, 2, 2, 2])
    return last(g, quant(g, g.batch_norm(g.add("Concat", *levels, x, axis=1), 32)), 32)


MAXIMA: dict[str, tuple[Graph, tuple[int, ...]]] = {
    "SPPF": (sppf, (3, 7, 9)),
    "global": (lambda g: last(g, quant(g, g.batch_norm(g.add("GlobalMaxPool", first(g)), 8)), 8), (3, 5, 7)),
    "ReduceMax": (
        lambda g: dense(g, quant(g, g.add("ReduceMax", first(g), axes=[2, 3], keepdims=0)), 8),
        (3, 5, 7),
    ),
    "ReduceMin, falling": (
        lambda g: last(g, quant(g, g.add("Mul", g.add("ReduceMin", first(g), axes=[3]), g.constant(-0.7))), 8),
        (3, 5, 7),
    ),
    "one dimension": (
        lambda g: dense(
            g,
            g.add("Flatten", g.add("MaxPool", quant(g, "x"), kernel_shape=[3], strides=[2], pads=[1, 0])),
            3 * 4,
        ),
        (3, 8),
    ),
}


@pytest.mark.parametrize("name", MAXIMA)
def test_maxima(name: str) -> None:
    """No layer stays float."""
    body, shape = MAXIMA[name]
    check(body, *shape)


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("name", WINDOWS)
def test_average_pool(name: str, include: int) -> None:
    """Windows that count differently many pixels are brought to one denominator."""

    def graph(g: GraphBuilder) -> str:
        x = g.quantiser("x", 0.37, -4, 3)
        x = g.add("AveragePool", x, count_include_pad=include, **WINDOWS[name])
        return last(g, quant(g, g.batch_norm(x, 3), 0.21, 3), 3)

    check(graph, 3, 7, 9, opset=19)


AVERAGES: dict[str, tuple[Graph, tuple[int, ...]]] = {
    "global": (lambda g: g.add("GlobalAveragePool", g.quantiser("x", 0.37, -4, 3)), (3, 5, 7)),
    "mean of pixels": (lambda g: g.add("ReduceMean", quant(g, "x", bits=4), axes=[2, 3], keepdims=0), (4, 5, 7)),
    "mean of channels": (lambda g: g.add("ReduceMean", quant(g, "x", bits=4), axes=[1]), (3, 5, 7)),
    "mean of tokens": (lambda g: g.add("ReduceMean", g.quantiser("x", 0.3, -8, 7, 2.0), axes=[1], keepdims=0), (5, 6)),
    "sum": (lambda g: g.add("ReduceSum", quant(g, "x"), ints(g, 2), keepdims=0), (3, 5, 7)),
    "bipolar": (lambda g: g.add("GlobalAveragePool", g.quantiser("x", 0.5, 0, 1, 0.5)), (3, 5, 7)),
    "one dimension": (
        lambda g: g.add("AveragePool", quant(g, "x", bits=3), kernel_shape=[3], strides=[2], pads=[1, 1]),
        (3, 9),
    ),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_along_axes(name: str) -> None:
    """Followed by a quantiser of a step that no average is a multiple of."""
    body, shape = AVERAGES[name]
    check(lambda g: quant(g, g.add("Relu", body(g)), 0.0713, 4), *shape)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 5), (7, 2)])
def test_adaptive_average_pool_of_torch(size: tuple[int, int]) -> None:
    """Windows of uneven extents too."""

    class Net(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            x = torch.fake_quantize_per_tensor_affine(x, 0.3137, 3, 0, 15)
            x = torch.nn.functional.adaptive_avg_pool2d(x, size)
            return torch.fake_quantize_per_tensor_affine(x, 0.0713, 3, 0, 63)

    x = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(0))
    artifact = tvm_lowbit.build(Net(), target="host", example_inputs=(x,), batch=2)
    assert [row for row in artifact.report.rows if row.reason] == []
    (result,) = artifact.run(x.numpy()).outputs.values()
    np.testing.assert_array_equal(result, Net()(x).numpy())


def test_function_that_rises_and_falls_behind_a_maximum() -> None:
    """No thresholds of the parts, whose largest need not stay the largest: codes come from float32 registers."""

    def graph(g: GraphBuilder) -> str:
        x = g.add("Abs", g.add("MaxPool", first(g), kernel_shape=[2, 2]))
        return last(g, g.quantiser(x, 0.23, 0, 3, name="fold"), 8)

    (row,) = (row for row in check(graph, 3, 7, 9).report.rows if row.technique == "registers")
    assert row.why.endswith("it may rise and fall, and follows a maximum")
