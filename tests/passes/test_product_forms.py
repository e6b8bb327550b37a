"""Convolutions of any kind, products with a constant on either side: low-bit, and codes as ONNX Runtime's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx_graphs import GraphBuilder, assert_like_onnx

import tvm_lowbit

BATCH = 2
# Scale, range and zero point: a code for 0.0, none (bipolar), none (a clip above it), and none below, in halves.
ACTIVATIONS: dict[str, tuple[float, int, int, float]] = {
    "signed": (0.31, -3, 4, 1.0),
    "bipolar": (0.83, 0, 1, 0.5),
    "above": (0.17, 1, 8, 0.0),
    "below": (0.29, -4, 3, 3.5),
}
Layer = Callable[[GraphBuilder, str], str]


def inputs(*shape: int) -> Any:
    """Reproducible float32 numbers."""
    return (np.random.default_rng(7).normal(size=(BATCH, *shape)) * 1.5).astype(np.float32)


def compare(layer: Layer, *shape: int, technique: str | None = None, spelling: str = "raw") -> Any:
    """``layer`` between quantisers of every kind, in one graph, against ONNX Runtime; gives the report."""
    graph = GraphBuilder(spelling, seed=len(shape))
    x = graph.input(*shape)
    kinds = ACTIVATIONS if spelling == "raw" else {"signed": ACTIVATIONS["signed"]}
    for kind, (scale, low, high, zero) in kinds.items():
        y = layer(graph, graph.quantiser(x, scale, low, high, zero, name=f"{kind}_in"))
        graph.quantiser(graph.add("LeakyRelu", y, alpha=0.37), 0.31, -16, 15, name=f"{kind}_out")
    model = graph.model(*(f"{kind}_out" for kind in kinds))
    artifact = tvm_lowbit.build(model, "host", probe=True, technique=technique, batch=BATCH)
    result = assert_like_onnx(artifact, graph, model, inputs(*shape))
    for kind in kinds:
        assert len(np.unique(result.codes[f"{kind}_out"])) > 1, "a test of constants tests nothing"
    assert not artifact.report.stays_float
    assert len(artifact.report.low_bit) == len(kinds)
    return artifact.report


def conv(*shape: int, bits: int = 2, bias: bool = True, **attrs: Any) -> Layer:
    """Conv with a step for each output."""

    def layer(g: GraphBuilder, q: str) -> str:
        parts = [g.constant(g.random.normal(size=shape[0]))] if bias else []
        return g.add("Conv", q, g.weights(*shape, bits=bits), *parts, **attrs)

    return layer


def transposed(*shape: int, bits: int = 2, axis: int | None = 1, **attrs: Any) -> Layer:
    """ConvTranspose, its batch norm folded by nobody."""

    def layer(g: GraphBuilder, q: str) -> str:
        outputs = shape[1] * attrs.get("group", 1)
        y = g.add("ConvTranspose", q, g.weights(*shape, bits=bits, axis=axis), **attrs)
        return g.batch_norm(y, outputs)

    return layer


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], Layer]] = {
    "padding": ((3, 6, 5), conv(4, 3, 3, 3, pads=[1, 1, 1, 1])),
    "bipolar weights": ((3, 6, 5), conv(4, 3, 3, 3, bits=1, pads=[2, 1, 0, 1])),
    "asymmetric padding, stride": ((3, 7, 6), conv(4, 3, 3, 2, pads=[2, 0, 1, 1], strides=[2, 3])),
    "dilation": ((3, 7, 6), conv(4, 3, 3, 2, pads=[3, 2, 1, 0], dilations=[2, 3], bits=4)),
    "groups": ((4, 5, 5), conv(6, 2, 3, 3, pads=[1, 1, 1, 1], group=2, bias=False)),
    "depthwise": ((4, 5, 5), conv(8, 1, 5, 3, pads=[2, 1, 2, 1], group=4)),
    "more padding than image": ((3, 2, 2), conv(4, 3, 3, 3, pads=[3, 4, 3, 2])),
    "1d": ((3, 9), conv(4, 3, 3, pads=[1, 1])),
    "1d, groups": ((4, 9), conv(6, 2, 4, pads=[3, 1], strides=[2], dilations=[2], group=2)),
    "1d, depthwise": ((4, 9), conv(4, 1, 3, pads=[0, 2], group=4, bits=8)),
    "1d, same": ((3, 8), conv(4, 3, 4, auto_pad="SAME_UPPER", strides=[3])),
    "same": ((3, 7, 6), conv(4, 3, 4, 2, auto_pad="SAME_LOWER", strides=[2, 1])),
    "not padded": ((3, 5, 4), conv(4, 3, 2, 2, auto_pad="VALID")),
}
TRANSPOSED: dict[str, tuple[tuple[int, ...], Layer]] = {
    "stride 1": ((3, 5, 4), transposed(3, 4, 3, 3, pads=[1, 1, 1, 1])),
    "stride 2": ((3, 5, 4), transposed(3, 4, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])),
    "kernel 4": ((3, 4, 4), transposed(3, 4, 4, 4, strides=[2, 2], pads=[1, 1, 1, 1], bits=1)),
    # Positions that no tap reaches: nothing but the bias.
    "stride beyond the kernel": ((3, 4, 3), transposed(3, 4, 2, 1, strides=[3, 2], output_padding=[0, 1])),
    "cropped": ((3, 6, 6), transposed(3, 4, 2, 3, strides=[2, 1], pads=[3, 2, 2, 4])),
    "dilation": ((3, 4, 5), transposed(3, 4, 3, 2, strides=[2, 3], dilations=[3, 2], pads=[2, 0, 1, 1])),
    "common divisor": ((2, 4, 4), transposed(2, 3, 3, 4, strides=[4, 2], dilations=[2, 4], pads=[1, 2, 3, 4])),
    "groups": ((4, 4, 3), transposed(4, 3, 3, 2, strides=[2, 2], group=2, bits=3)),
    "depthwise, a step for each input": ((4, 4, 3), transposed(4, 2, 3, 3, strides=[2, 1], group=4, axis=0)),
    "one step": ((3, 4, 3), transposed(3, 2, 3, 3, strides=[2, 2], axis=None, bits=8)),
    "one output": ((3, 1, 1), transposed(3, 4, 3, 3, strides=[3, 5], pads=[1, 1, 1, 0])),
    "same": ((3, 4, 3), transposed(3, 4, 4, 3, auto_pad="SAME_UPPER", strides=[1, 2])),
    "output shape": ((3, 4, 3), transposed(3, 4, 4, 3, output_shape=[7, 9], strides=[2, 3])),
    "output shape, upper": ((3, 5), transposed(3, 4, 4, output_shape=[9], strides=[2], auto_pad="SAME_UPPER")),
    "1d": ((3, 6), transposed(3, 4, 4, strides=[2], pads=[1, 1])),
    "1d, all": ((4, 6), transposed(4, 3, 3, strides=[3], dilations=[2], pads=[1, 2], output_padding=[2], group=2)),
}


def product(*shape: int, axis: int | None, left: bool = False) -> Layer:
    """MatMul with weights."""

    def layer(g: GraphBuilder, q: str) -> str:
        w = g.weights(*shape, axis=axis)
        return g.add("MatMul", w, q) if left else g.add("MatMul", q, w)

    return layer


def gemm(*shape: int, axis: int, bias: tuple[int, ...] | None = None, left: bool = False, **attrs: Any) -> Layer:
    """Gemm with weights."""

    def layer(g: GraphBuilder, q: str) -> str:
        w = g.weights(*shape, axis=axis)
        parts = [] if bias is None else [g.constant(g.random.normal(size=bias))]
        return g.add("Gemm", *((w, q) if left else (q, w)), *parts, **attrs)

    return layer


PRODUCTS: dict[str, tuple[tuple[int, ...], Layer]] = {
    "rows": ((7,), product(7, 5, axis=1)),
    "rows of rows": ((3, 7), product(7, 5, axis=1)),
    "rows of images": ((3, 4, 7), product(7, 5, axis=1)),
    "a matrix in a batch of one": ((3, 7), product(1, 7, 5, axis=2)),
    "more dimensions than the input": ((7,), product(1, 1, 7, 5, axis=3)),
    "a vector": ((3, 7), product(7, axis=None)),
    "columns": ((7,), product(5, BATCH, axis=0, left=True)),
    "columns of rows": ((7, 3), product(5, 7, axis=0, left=True)),
    "columns of images": ((4, 7, 3), product(5, 7, axis=0, left=True)),
    "a matrix in a batch of one, on the left": ((7, 3), product(1, 5, 7, axis=1, left=True)),
    "a vector on the left": ((4, 7, 3), product(7, axis=None, left=True)),
    "gemm": ((7,), gemm(7, 5, axis=1, bias=(5,))),
    "gemm, transposed and scaled": ((7,), gemm(5, 7, axis=0, bias=(1, 5), transB=1, alpha=0.37, beta=-1.3)),
    "gemm, turned": ((7,), gemm(7, 5, axis=1, alpha=-0.83)),
    "gemm, columns": ((7,), gemm(BATCH, 5, axis=1, bias=(), transA=1, beta=0.5)),
    "gemm, weights on the left": ((7,), gemm(7, 5, axis=1, left=True, bias=(5, 1), transA=1, transB=1)),
}
CASES = {"conv": CONVOLUTIONS, "transposed": TRANSPOSED, "product": PRODUCTS}


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, cases in CASES.items() for name in cases])
def test_codes_are_those_of_onnx_runtime(family: str, name: str) -> None:
    """By the technique that is chosen for it."""
    shape, layer = CASES[family][name]
    compare(layer, *shape)


SAMPLE = [("conv", "dilation"), ("conv", "1d, groups"), ("transposed", "dilation"), ("transposed", "cropped")]


@pytest.mark.parametrize("technique", ["bit_serial", "reference"])
@pytest.mark.parametrize(("family", "name"), [*SAMPLE, ("product", "columns of images")])
def test_every_technique(family: str, name: str, technique: str) -> None:
    """The phases of a transposed convolution count as one layer."""
    shape, layer = CASES[family][name]
    for row in compare(layer, *shape, technique=technique).low_bit:
        assert row.technique == technique


@pytest.mark.parametrize(("family", "name"), [("conv", "1d"), ("transposed", "stride 2"), ("product", "gemm")])
def test_quantize_linear(family: str, name: str) -> None:
    """The axis of per-channel QDQ weights."""
    shape, layer = CASES[family][name]
    compare(layer, *shape, spelling="qdq")


def stored(g: GraphBuilder, codes: Any, zero: Any, dtype: Any, axis: int) -> str:
    """Weights stored as integers, a scale and a zero point for each index along ``axis``."""
    scale = g.random.uniform(0.05, 0.3, codes.shape[axis]) / max(1, int(np.abs(codes).max()) // 2)
    parts = [g.constant(codes, dtype), g.constant(scale), g.constant(zero, dtype)]
    return g.add("DequantizeLinear", *parts, axis=axis)


# Lowest and highest code, zero points of the outputs, type.
STORED = {
    "different zero points": (-8, 7, [0, 3, -5, 7], np.int8),
    "ternary": (-1, 1, [0, 0, 0, 0], np.int8),
    "unsigned": (0, 255, [128, 0, 255, 77], np.uint8),
    "signed": (-128, 127, [-128, 127, 0, 5], np.int8),
}


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "MatMul"])
def test_weights_of_every_kind(operator: str, kind: str) -> None:
    """Stored integers, two groups."""
    low, high, zero, dtype = STORED[kind]

    def layer(g: GraphBuilder, q: str) -> str:
        group = 1 if operator == "MatMul" else 2
        shape = {"Conv": (4, 2, 3, 3), "ConvTranspose": (4, 4, 3, 3), "MatMul": (4, 5)}[operator]
        codes = g.random.integers(low, high + 1, shape)
        axis = 1 if operator == "ConvTranspose" else 0
        if operator == "MatMul":
            return g.add("MatMul", stored(g, codes, zero, dtype, axis), q)
        return g.add(operator, q, stored(g, codes, zero, dtype, axis), group=group, pads=[1, 0, 1, 1])

    compare(layer, *((5, 3) if operator == "MatMul" else (4, 4, 3)))


def test_weights_shared_by_two_layers() -> None:
    """A tied autoencoder: Conv and ConvTranspose of one tensor, and a second Conv of it."""
    graph = GraphBuilder(seed=5)
    weights = graph.weights(4, 4, 3, 3, axis=None)
    q = graph.quantiser(graph.input(4, 6, 6), 0.31, -3, 4, 1.0, name="q0")
    for i, (operator, attrs) in enumerate(
        [("Conv", {"strides": [2, 2]}), ("ConvTranspose", {"strides": [2, 2]}), ("Conv", {"pads": [1] * 4})]
    ):
        y = graph.add("Relu", graph.add(operator, q, weights, name=f"layer{i}", **attrs))
        q = graph.quantiser(y, 0.4 + 0.3 * i, 0, 3, name=f"q{i + 1}")
    model = graph.model(q)
    artifact = tvm_lowbit.build(model, "host", probe=True, batch=BATCH)
    assert_like_onnx(artifact, graph, model, inputs(4, 6, 6))
    assert [row.name for row in artifact.report.low_bit] == ["layer0", "layer1", "layer2"]
    assert not artifact.report.stays_float


# Of 4 channels, by the number of groups that share one.
SCALES = {1: [0.21, 0.47, 0.3, 0.3], 2: [0.21, 0.21, 0.47, 0.47], 4: [0.21, 0.47, 0.3, 0.6]}


def per_channel(zero: Any, group: int, operator: str = "Conv") -> tuple[Any, Any, Any]:
    """A convolution of activations with a scale for each channel."""
    graph = GraphBuilder("qdq", seed=6)
    x, scale = graph.input(4, 5, 5), SCALES[group]
    parts = [graph.constant(scale), graph.constant(np.broadcast_to(zero, 4), np.int8)]
    codes = graph.add("QuantizeLinear", x, *parts, axis=1)
    codes = graph.add("Clip", codes, graph.constant(-4, np.int8), graph.constant(3, np.int8), name="q/codes")
    q = graph.add("DequantizeLinear", codes, *parts, name="q", axis=1)
    graph.codes["q"] = "q/codes"
    shape = (8, 4 // group, 3, 3) if operator == "Conv" else (4, 8 // group, 3, 3)
    y = graph.add(operator, q, graph.weights(*shape, axis=0 if operator == "Conv" else 1), name="layer", group=group)
    model = graph.model(graph.quantiser(y, 0.4, -4, 3, name="out"))
    return graph, model, tvm_lowbit.build(model, "host", probe=True, batch=BATCH)


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("group", [2, 4])
def test_activations_with_a_scale_for_each_group(operator: str, group: int) -> None:
    """Depthwise, or two channels of one scale: the sums of a group have one scale."""
    graph, model, artifact = per_channel(1, group, operator)
    assert_like_onnx(artifact, graph, model, inputs(4, 5, 5))
    assert [row.name for row in artifact.report.low_bit] == ["layer"]


@pytest.mark.parametrize(
    ("zero", "group", "reason"),
    [
        (1, 1, "its input is quantised per channel, so products of different channels have different scales"),
        ([1, 0, 1, 1], 4, "its input is quantised per channel with different zero points"),
    ],
)
def test_activations_of_different_channels_that_no_sum_can_hold(zero: Any, group: int, reason: str) -> None:
    """Float, with the reason, and right."""
    graph, model, artifact = per_channel(zero, group)
    assert_like_onnx(artifact, graph, model, inputs(4, 5, 5))
    assert {row.name: row.reason for row in artifact.report.stays_float}["layer"] == reason
