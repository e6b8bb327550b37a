"""Small graphs through the whole way on the host: codes of every quantiser as ONNX Runtime's, outputs close."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx_graphs import GraphBuilder, assert_like_onnx, run_onnx

import tvm_lowbit

ITEMS = 4


def batch(*shape: int, seed: int = 0, scale: float = 1.0) -> Any:
    """Inputs."""
    return (np.random.default_rng(seed).normal(size=(ITEMS, *shape)) * scale).astype(np.float32)


def chain(g: GraphBuilder) -> list[str]:
    """conv + bias + BN + ReLU + quantiser, twice, per-channel weights; float logits."""
    q = g.quantiser(g.input(3, 7, 7), 0.23, -8, 7, name="q0")
    v = g.add(
        "Conv", q, g.weights(8, 3, 3, 3, bits=3), g.constant(g.random.normal(size=8)), pads=[1, 1, 1, 1], name="c1"
    )
    q = g.quantiser(g.add("Relu", g.batch_norm(v, 8)), 0.31, 0, 3, name="q1")
    v = g.add("Conv", q, g.weights(5, 8, 3, 3), name="c2", strides=[2, 2])
    q = g.quantiser(g.add("Relu", g.batch_norm(v, 5)), 0.27, 0, 3, name="q2")
    v = g.add("Flatten", g.quantiser(g.add("GlobalAveragePool", q), 0.0617, 0, 15, name="q3"), axis=1)
    return [g.add("Gemm", v, g.weights(6, 5, bits=4), g.constant(g.random.normal(size=6)), transB=1, name="fc")]


def residual(g: GraphBuilder) -> list[str]:
    """A quantised skip, ReLU after the sum; the shortcut's quantiser has several consumers."""
    q = g.quantiser(g.input(6, 6, 6), 0.3, 0, 3, name="q0")
    v = g.batch_norm(g.add("Conv", q, g.weights(6, 6, 3, 3), pads=[1, 1, 1, 1], name="c1"), 6)
    inner = g.quantiser(g.add("Relu", v), 0.21, 0, 3, name="q1")
    v = g.batch_norm(g.add("Conv", inner, g.weights(6, 6, 3, 3), pads=[1, 1, 1, 1], name="c2"), 6)
    out = g.quantiser(g.add("Relu", g.add("Add", v, q)), 0.37, 0, 7, name="q2")
    down = g.quantiser(g.add("Conv", q, g.weights(4, 6, 1, 1), strides=[2, 2], name="c3"), 0.33, -4, 3, name="q3")
    return [
        g.add("Conv", out, g.weights(2, 6, 1, 1), name="c4"),
        g.add("Conv", down, g.weights(3, 4, 3, 3), name="c5"),
    ]


def skip_first(g: GraphBuilder) -> list[str]:
    """The skip is the left operand, and both sides of another join are codes."""
    q = g.quantiser(g.input(5, 5, 5), 0.3, -4, 3, name="q0")
    v = g.add("Conv", q, g.weights(5, 5, 1, 1), name="c1")
    a = g.quantiser(g.add("Add", q, v), 0.43, -4, 3, name="q1")
    b = g.quantiser(g.add("Add", a, q), 0.47, -2, 1, name="q2")
    same = g.quantiser(g.add("Add", b, b), 0.61, -2, 1, name="q3")
    return [g.add("Conv", same, g.weights(3, 5, 1, 1), name="c2")]


def pools(g: GraphBuilder) -> list[str]:
    """Max pool and both average pools on codes."""
    q = g.quantiser(g.input(4, 9, 9), 0.19, -8, 7, zero=-2, name="q0")
    p = g.add("MaxPool", q, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    v = g.add("Conv", p, g.weights(4, 4, 3, 3), name="c1")
    r = g.quantiser(v, 0.41, -4, 3, name="q1")
    counted = g.add("AveragePool", r, kernel_shape=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    r2 = g.quantiser(counted, 0.173, -4, 3, name="q2")
    plain = g.add("AveragePool", r2, kernel_shape=[2, 2], pads=[1, 0, 0, 1], strides=[2, 2], count_include_pad=0)
    r3 = g.quantiser(plain, 0.117, -4, 3, name="q3")
    return [g.add("Conv", r3, g.weights(3, 4, 1, 1), name="c2")]


def grouped(g: GraphBuilder) -> list[str]:
    """Groups, depthwise, dilation, stride, asymmetric padding."""
    q = g.quantiser(g.input(6, 9, 8), 0.3, 0, 15, name="q0")
    v = g.add("Conv", q, g.weights(9, 2, 3, 3), group=3, dilations=[2, 1], pads=[2, 0, 1, 3], name="groups")
    q = g.quantiser(v, 0.4, 0, 3, name="q1")
    v = g.add("Conv", q, g.weights(9, 1, 3, 2), group=9, strides=[2, 1], pads=[0, 1, 1, 0], name="depthwise")
    q = g.quantiser(v, 0.3, 0, 3, name="q2")
    return [
        g.add("Conv", q, g.weights(4, 9, 2, 2), strides=[1, 2], dilations=[1, 2], pads=[1, 1, 0, 0], name="dilated")
    ]


def bipolar(g: GraphBuilder) -> list[str]:
    """1-bit weights and 1-bit activations ((clip(round(v / s + 0.5), 0, 1) - 0.5) s)."""
    q = g.quantiser(g.input(9, 6, 6), 0.31, 0, 3, name="q0")
    v = g.batch_norm(g.add("Conv", q, g.weights(7, 9, 3, 3, bits=1), pads=[1, 1, 1, 1], name="c1"), 7)
    q = g.quantiser(v, 0.7, 0, 1, zero=0.5, name="q1")
    v = g.batch_norm(g.add("Conv", q, g.weights(5, 7, 3, 3, bits=1), name="c2"), 5)
    q = g.quantiser(v, 0.9, 0, 1, zero=0.5, name="q2")
    return [g.add("Gemm", g.add("Flatten", q, axis=1), g.weights(80, 3, bits=1, axis=1), transB=0, name="fc")]


def asymmetric(g: GraphBuilder) -> list[str]:
    """Zero points other than 0 with padding: what is padded is 0.0, not code 0."""
    q = g.quantiser(g.input(3, 6, 6), 0.29, -8, 7, zero=3, name="q0")
    v = g.add("Conv", q, g.weights(4, 3, 3, 3, bits=4), pads=[1, 1, 1, 1], name="c1")
    q = g.quantiser(v, 0.5, 0, 7, zero=4, name="q1")
    return [g.add("Conv", q, g.weights(4, 4, 3, 3, bits=2), pads=[2, 2, 2, 2], name="c2")]


def dense(g: GraphBuilder) -> list[str]:
    """MatMul of 3 dimensions, then Gemm of 2 with transB 0 and 1."""
    q = g.quantiser(g.input(5, 12), 0.3, -8, 7, name="q0")
    v = g.add("Add", g.add("MatMul", q, g.weights(12, 9, axis=1), name="mm"), g.constant(g.random.normal(size=9)))
    q = g.quantiser(g.add("Relu", v), 0.4, 0, 3, name="q1")
    v = g.add("Gemm", g.add("Flatten", q, axis=1), g.weights(45, 8, axis=None), transB=0, name="fc0")
    q = g.quantiser(v, 0.6, -8, 7, zero=1, name="q2")
    return [g.add("Gemm", q, g.weights(4, 8, axis=0), g.constant(g.random.normal(size=4)), transB=1, name="fc1")]


def mixed_widths(g: GraphBuilder) -> list[str]:
    """8 bits first and last, 1, 5 and 6 between; clip as activation."""
    q = g.quantiser(g.input(3, 6, 6), 0.02, -128, 127, name="q0")
    v = g.add("Conv", q, g.weights(8, 3, 3, 3, bits=8), pads=[1, 1, 1, 1], name="c8")
    q = g.quantiser(g.add("Clip", v, g.constant(0), g.constant(6)), 0.19, 0, 31, name="q1")
    q = g.quantiser(g.add("Conv", q, g.weights(8, 8, 3, 3, bits=6), name="c6"), 0.7, 0, 1, name="q2")
    q = g.quantiser(g.add("Conv", q, g.weights(8, 8, 1, 1, bits=5), name="c5"), 0.011, 0, 255, name="q3")
    return [g.add("Conv", q, g.weights(4, 8, 1, 1, bits=8), name="last")]


def activations(g: GraphBuilder) -> list[str]:
    """conv + BN + each activation function + quantiser, one behind the other; SiLU and Hard-swish turn."""
    v = g.quantiser(g.input(4, 6, 6), 0.23, -8, 7, name="q0")
    silu = lambda x: g.add("Mul", x, g.add("Sigmoid", x))  # noqa: E731
    hard = lambda x: g.add("Mul", x, g.add("HardSigmoid", x, alpha=1 / 6, beta=0.5))  # noqa: E731
    functions: dict[str, Callable[[str], str]] = {
        "leaky": lambda x: g.add("LeakyRelu", x, alpha=0.1),
        "prelu": lambda x: g.add("PRelu", x, g.constant(g.random.uniform(0.1, 0.5, (4, 1, 1)))),
        "sigmoid": lambda x: g.add("Sigmoid", x),
        "tanh": lambda x: g.add("Tanh", x),
        "silu": silu,
        "hardswish": lambda x: g.add("HardSwish", x),
        "spelled": hard,
        "elu": lambda x: g.add("Relu", g.add("Abs", x)),
    }
    for i, (name, function) in enumerate(functions.items()):
        v = g.batch_norm(g.add("Conv", v, g.weights(4, 4, 3, 3, bits=4), pads=[1, 1, 1, 1], name=f"conv{i}"), 4)
        unsigned = name in ("sigmoid", "elu")
        v = g.quantiser(function(v), 0.0673 if unsigned else 0.137, 0 if unsigned else -4, 11, name=f"q_{name}")
    return [g.add("Conv", v, g.weights(3, 4, 1, 1), name="last")]


def ties(g: GraphBuilder) -> list[str]:
    """Powers of two: float32 is exact, every accumulator on a tie must go to the even code."""
    q = g.quantiser(g.input(5, 6, 6), 0.5, -4, 3, name="q0")
    v = g.add("Conv", q, g.weights(6, 5, 3, 3, bits=3, exact=True), pads=[1, 1, 1, 1], name="c1")
    q = g.quantiser(v, 1.0, -8, 7, zero=1, name="q1")
    v = g.add("Conv", q, g.weights(6, 6, 1, 1, exact=True), name="c2")
    q = g.quantiser(g.add("Add", v, q), 2.0, -4, 3, name="q2")
    p = g.add("AveragePool", q, kernel_shape=[2, 2], strides=[2, 2])
    q = g.quantiser(p, 1.0, -4, 3, name="q3")
    return [g.add("Conv", q, g.weights(3, 6, 1, 1, exact=True), name="c3")]


GRAPHS: dict[str, tuple[Callable[[GraphBuilder], list[str]], tuple[int, ...], float, set[str]]] = {
    # builder, input shape, spread of the input, layers that must stay float
    "chain": (chain, (3, 7, 7), 1.0, set()),
    "residual": (residual, (6, 6, 6), 0.8, set()),
    "skip_first": (skip_first, (5, 5, 5), 1.0, set()),
    "pools": (pools, (4, 9, 9), 1.0, set()),
    "grouped": (grouped, (6, 9, 8), 2.0, set()),
    "bipolar": (bipolar, (9, 6, 6), 1.0, set()),
    "asymmetric": (asymmetric, (3, 6, 6), 1.0, set()),
    "dense": (dense, (5, 12), 1.0, set()),
    "mixed_widths": (mixed_widths, (3, 6, 6), 1.0, set()),
    "activations": (activations, (4, 6, 6), 1.0, set()),
    "ties": (ties, (5, 6, 6), 1.0, set()),
}


@pytest.mark.parametrize("spelling", ["raw", "qdq"])
@pytest.mark.parametrize("name", GRAPHS)
def test_graph_is_like_onnx(name: str, spelling: str) -> None:
    """Every quantiser's codes equal, every conv and dense layer low-bit."""
    make, shape, spread, stay = GRAPHS[name]
    graph = GraphBuilder(spelling, seed=len(name), opset=14 if name == "activations" else 13)
    model = graph.model(*make(graph))
    x = batch(*shape, scale=spread)
    if name == "ties":
        x = np.round(x * 8) / np.float32(8)
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert_like_onnx(artifact, graph, model, x)
    floats = {row.name: row.reason for row in artifact.report.stays_float}
    assert {n.rstrip("0123456789") for n in floats} == stay, floats
    products = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(artifact.report.low_bit) == len(products)


@pytest.mark.parametrize("name", ["chain", "dense", "grouped"])
def test_batch_of_several(name: str) -> None:
    """Compiled for four items at once."""
    make, shape, spread, _ = GRAPHS[name]
    graph = GraphBuilder(seed=1)
    model = graph.model(*make(graph))
    artifact = tvm_lowbit.build(model, "host", probe=True, batch=ITEMS)
    assert artifact.manifest.batch == ITEMS
    assert_like_onnx(artifact, graph, model, batch(*shape, scale=spread))


@pytest.mark.parametrize("technique", ["reference", "portable", "bit_serial"])
def test_technique_asked_for(technique: str) -> None:
    """The same codes by each."""
    graph = GraphBuilder(seed=2)
    model = graph.model(*residual(graph))
    artifact = tvm_lowbit.build(model, "host", probe=True, technique=technique)
    assert {row.technique for row in artifact.report.low_bit} == {technique}
    assert_like_onnx(artifact, graph, model, batch(6, 6, 6))


def test_random_ties_in_the_first_quantiser() -> None:
    """Inputs exactly halfway, and one float beside, for scales that are no powers of two."""
    graph = GraphBuilder("qdq")
    q = graph.quantiser(graph.input(40), 0.1, -8, 7, zero=1, name="q")
    model = graph.model(graph.add("Gemm", q, graph.weights(40, 2, axis=1), name="fc"))
    middle = ((np.arange(40) - 20 + 0.5) * np.float32(0.1)).astype(np.float32)
    x = np.stack([middle, np.nextafter(middle, np.float32(9)), np.nextafter(middle, np.float32(-9))])
    assert_like_onnx(tvm_lowbit.build(model, "host", probe=True), graph, model, x)


def test_nine_bits_stay_float_and_right() -> None:
    """A quantiser too wide for codes, and the layer that reads it."""
    graph = GraphBuilder()
    x = graph.input(4, 5, 5)
    wide = graph.quantiser(x, 0.01, 0, 511, name="wide")
    del graph.codes["wide"]
    conv = graph.add("Conv", wide, graph.weights(4, 4, 3, 3), name="conv")
    q = graph.quantiser(conv, 0.4, 0, 3, name="q")
    model = graph.model(graph.add("Conv", q, graph.weights(2, 4, 1, 1), name="last"))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert_like_onnx(artifact, graph, model, batch(4, 5, 5))
    reasons = {row.name: row.reason for row in artifact.report.stays_float}
    assert set(reasons) == {"conv"}
    assert reasons["conv"].startswith("its input is not quantised: wide looks like a quantiser")
    assert "takes 9 bits; 1 to 8 are supported" in reasons["conv"]
    assert [row.name for row in artifact.report.low_bit] == ["last"]


def test_float_first_layer_has_its_reason() -> None:
    """conv of the image itself."""
    graph = GraphBuilder()
    conv = graph.add("Conv", graph.input(3, 5, 5), graph.weights(4, 3, 3, 3), name="first")
    q = graph.quantiser(graph.add("Relu", conv), 0.4, 0, 3, name="q")
    model = graph.model(graph.add("Conv", q, graph.weights(2, 4, 1, 1), name="last"))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert_like_onnx(artifact, graph, model, batch(3, 5, 5))
    (row,) = artifact.report.stays_float
    assert (row.name, row.op) == ("first", "relax.nn.conv2d")
    assert row.reason == "its input is not quantised"
    assert "its input is not quantised" in str(artifact.report)


def test_quantiser_as_output() -> None:
    """Its codes are observed once, under its name, whether or not others read it."""
    graph = GraphBuilder()
    q = graph.quantiser(graph.input(3, 5, 5), 0.4, 0, 3, name="q")
    conv = graph.add("Conv", q, graph.weights(4, 3, 3, 3), name="conv")
    model = graph.model(conv, q)
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert list(artifact.manifest.probes) == ["q"]
    assert_like_onnx(artifact, graph, model, batch(3, 5, 5))


def test_joined_codes_are_in_the_report() -> None:
    """Codes of two grids brought together are codes of neither: what reads them stays float, with its reason."""
    graph = GraphBuilder()
    x = graph.input(3, 5, 5)
    parts = [graph.quantiser(x, s, 0, 3, name=f"q{i}") for i, s in enumerate((0.3, 0.4))]
    model = graph.model(
        graph.add("Conv", graph.add("Concat", *parts, axis=1, name="cat"), graph.weights(4, 6, 1, 1), name="last")
    )
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert_like_onnx(artifact, graph, model, batch(3, 5, 5))
    reasons = {row.name: row.reason for row in artifact.report.stays_float}
    assert reasons["last"] == "its input is not quantised: cat brings together tensors that no one quantiser gave"


@pytest.mark.parametrize("prefix", ["", "explain/"])
def test_layers_may_have_any_names(prefix: str) -> None:
    """Not ASCII, with spaces, with the prefix of what explanations add."""
    graph = GraphBuilder()
    q = graph.quantiser(graph.input(3, 5, 5), 0.4, 0, 3, name=f"{prefix}q é")
    model = graph.model(graph.add("Conv", q, graph.weights(4, 3, 3, 3), name=f"{prefix}свёртка 1"))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert_like_onnx(artifact, graph, model, batch(3, 5, 5))
    assert [row.name for row in artifact.report.low_bit] == [f"{prefix}свёртка 1"]


def test_two_outputs_have_their_names() -> None:
    """In the order of the graph."""
    graph = GraphBuilder(seed=9)
    model = graph.model(*residual(graph))
    artifact = tvm_lowbit.build(model, "host")
    x = batch(6, 6, 6)
    result = artifact.run(x)
    assert list(result.outputs) == ["c4", "c5"]
    assert not result.codes
    for name, expected in zip(("c4", "c5"), run_onnx(model, x, ["c4", "c5"]), strict=True):
        np.testing.assert_allclose(result.outputs[name], expected, rtol=1e-4, atol=1e-4)


def test_reason_is_kept_through_a_flatten() -> None:
    """A quantiser of nine bits, flattened, before a dense layer: the layer says why its input is not quantised."""
    g = GraphBuilder()
    wide = g.quantiser(g.input(2, 2, 2), 0.1, 0, 511, name="wide")
    g.add("MatMul", g.add("Flatten", wide), g.constant(np.ones((8, 2))), name="dense")
    rows = {row.name: row.reason for row in tvm_lowbit.inspect(g.model("dense")).stays_float}
    assert "wide looks like a quantiser (div_clip_round_mul), but its range 0..511 takes 9 bits" in rows["dense"]
