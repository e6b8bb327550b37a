"""Operators that only move values stay integer on codes and on accumulators: codes equal those of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx_graphs import GraphBuilder, assert_like_onnx

import tvm_lowbit

Graph = Callable[[GraphBuilder], str]


def check(body: Graph, *shape: int, spelling: str = "raw", opset: int = 13, float_ops: tuple[str, ...] = ()) -> Any:
    """Build ``body``'s graph, compare with ONNX Runtime, and require that only ``float_ops`` stay float."""
    graph = GraphBuilder(spelling=spelling, opset=opset)
    graph.input(*shape)
    model = graph.model(body(graph))
    artifact = tvm_lowbit.build(model, target="host", batch=2, probe=True)
    stayed = {row.name: row.reason for row in artifact.report.rows if row.reason}
    assert set(stayed) == set(float_ops), stayed
    x = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    assert_like_onnx(artifact, graph, model, x)
    return artifact


def ints(graph: GraphBuilder, *values: int) -> str:
    """An int64 constant."""
    return graph.constant(list(values), np.int64)


def conv(graph: GraphBuilder, x: str, inputs: int, outputs: int, kernel: int = 3, name: str = "") -> str:
    """A convolution of quantised weights and a bias, of what must be codes."""
    weights = graph.weights(outputs, inputs, kernel, kernel)
    bias = graph.constant(graph.random.normal(size=outputs))
    return graph.add("Conv", x, weights, bias, name=name, pads=[kernel // 2] * 4)


def first(graph: GraphBuilder, inputs: int = 3, outputs: int = 8, name: str = "acc") -> str:
    """Quantised input, convolution, batch norm of both signs: a function of an accumulator."""
    x = graph.quantiser("x", 0.37, -4, 3)
    return graph.batch_norm(conv(graph, x, inputs, outputs, name=name), outputs)


def last(graph: GraphBuilder, codes: str, inputs: int) -> str:
    """A convolution that must be low-bit."""
    return conv(graph, codes, inputs, 5, 1, "last")


def dense(graph: GraphBuilder, codes: str, inputs: int) -> str:
    """A dense layer that must be low-bit."""
    return graph.add("MatMul", codes, graph.weights(inputs, 4, axis=1), name="last")


def quant(graph: GraphBuilder, x: str, scale: Any = 0.41, bits: int = 2, **more: Any) -> str:
    """An unsigned quantiser."""
    return graph.quantiser(x, scale, 0, (1 << bits) - 1, **more)


def flatten(g: GraphBuilder) -> str:
    """A flattened feature map, quantised after."""
    return dense(g, quant(g, g.add("Relu", g.add("Flatten", first(g)))), 8 * 35)


def reshape_transpose(g: GraphBuilder) -> str:
    """A detector's head: anchors out of the channels, then to the end."""
    x = g.add("Reshape", first(g), ints(g, 0, 2, 4, 5, 7))
    x = g.add("Transpose", g.add("Relu", x), perm=[0, 1, 3, 4, 2])
    return dense(g, quant(g, x), 4)


def squeeze(g: GraphBuilder) -> str:
    """Axes of extent 1 come and go."""
    x = g.add("Squeeze", g.add("Unsqueeze", first(g), ints(g, 2)), ints(g, 2))
    return last(g, quant(g, x), 8)


def depth_to_space(mode: str) -> Graph:
    """Sub-pixel convolution: a leaky ReLU and a scalar after it."""

    def body(g: GraphBuilder) -> str:
        x = g.add("DepthToSpace", first(g), blocksize=2, mode=mode)
        return last(g, quant(g, g.add("Mul", g.add("Relu", x), g.constant(0.7))), 2)

    return body


def space_to_depth(g: GraphBuilder) -> str:
    """YOLO's focus."""
    x = g.quantiser("x", 0.37, -4, 3)
    return last(g, g.add("SpaceToDepth", x, blocksize=2), 12)


def sliced(g: GraphBuilder) -> str:
    """Every other row, from the middle."""
    arguments = ints(g, 1, 0), ints(g, 5, 9), ints(g, 2, 3), ints(g, 2, 1)
    return last(g, quant(g, g.add("Slice", first(g), *arguments)), 8)


def reversed_channels(g: GraphBuilder) -> str:
    """A step of -1."""
    arguments = ints(g, -1), ints(g, -100), ints(g, 1), ints(g, -1)
    return last(g, quant(g, g.batch_norm(g.add("Slice", first(g), *arguments), 8)), 8)


def gathered(g: GraphBuilder) -> str:
    """Channels in another order: a shuffle by constant indices."""
    return last(g, quant(g, g.batch_norm(g.add("Gather", first(g), ints(g, 3, 0, 7, -2, 2), axis=1), 5)), 5)


def channel_shuffle(g: GraphBuilder) -> str:
    """ShuffleNet's shuffle, a batch norm behind it."""
    x = g.add("Reshape", first(g), ints(g, 0, 2, 4, 5, 7))
    x = g.add("Reshape", g.add("Transpose", x, perm=[0, 2, 1, 3, 4]), ints(g, 0, 8, 5, 7))
    return last(g, quant(g, g.add("Relu", g.batch_norm(x, 8))), 8)


MOVES = {
    "flatten": (flatten, (3, 5, 7)),
    "reshape and transpose": (reshape_transpose, (3, 5, 7)),
    "squeeze": (squeeze, (3, 5, 7)),
    "DepthToSpace DCR": (depth_to_space("DCR"), (3, 3, 5)),
    "DepthToSpace CRD": (depth_to_space("CRD"), (3, 3, 5)),
    "SpaceToDepth": (space_to_depth, (3, 6, 10)),
    "Slice": (sliced, (3, 7, 9)),
    "Slice backwards": (reversed_channels, (3, 5, 7)),
    "Gather": (gathered, (3, 5, 7)),
    "channel shuffle": (channel_shuffle, (3, 5, 7)),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_between_accumulator_and_quantiser(name: str) -> None:
    """No layer stays float."""
    body, shape = MOVES[name]
    check(body, *shape)


def join(*sources: str, axis: int = 1) -> Callable[[GraphBuilder], str]:
    """A Concat of ``acc`` (a convolution's result), ``codes``, ``other`` (codes of another grid) or the ``input``."""

    def body(g: GraphBuilder) -> str:
        x = g.quantiser("x", 0.37, -4, 3)
        parts = []
        for i, source in enumerate(sources):
            if source == "acc":
                parts.append(g.add("Relu", g.batch_norm(conv(g, x, 3, 4, name=f"acc{i}"), 4)))
            else:
                parts.append(
                    {"codes": lambda: x, "other": lambda: quant(g, "x", 0.23, 3), "input": lambda: "x"}[source]()
                )
        return g.add("Concat", *parts, axis=axis, name="join")

    return body


CONCATS: dict[str, tuple[Callable[[GraphBuilder], str], int]] = {
    "two accumulators": (join("acc", "acc"), 8),
    "accumulator and codes": (join("acc", "codes"), 7),
    "codes of two grids": (join("codes", "other"), 6),
    "an input that is not quantised": (join("acc", "input", "other"), 10),
    "rows": (join("codes", "other", axis=2), 3),
    "columns": (join("acc", "acc", "acc", axis=-1), 4),
}


@pytest.mark.parametrize("after", ["quantiser", "batch norm"])
@pytest.mark.parametrize("name", CONCATS)
def test_concat_before_a_quantiser(name: str, after: str) -> None:
    """Each part is requantised where it is; a batch norm after a Concat is sliced to its parts."""
    body, channels = CONCATS[name]

    def graph(g: GraphBuilder) -> str:
        x = body(g)
        x = g.batch_norm(x, channels) if after == "batch norm" else x
        return last(g, quant(g, x), channels)

    check(graph, 3, 5, 7)


def test_concat_of_codes_of_one_quantiser() -> None:
    """Stays codes, and needs no quantiser of its own."""

    def graph(g: GraphBuilder) -> str:
        x = g.quantiser("x", 0.37, -4, 3)
        y = g.quantiser(conv(g, x, 3, 4), 0.37, -4, 3)
        return last(g, g.add("Concat", x, y, axis=1), 7)

    check(graph, 3, 5, 7)


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_concat_of_codes_whose_steps_are_multiples(ratio: int) -> None:
    """One grid holds both, exactly, so the convolution that reads them is low-bit."""
    step = np.float32(0.37)

    def graph(g: GraphBuilder) -> str:
        x = g.quantiser("x", step, -4, 3, zero=1.0)
        y = g.quantiser(conv(g, x, 3, 4), step * np.float32(ratio), 0, 15)
        return last(g, g.add("Concat", x, y, axis=1), 7)

    check(graph, 3, 5, 7)


def test_concat_of_two_grids_straight_into_a_convolution() -> None:
    """Declined with a reason, right in float."""

    def graph(g: GraphBuilder) -> str:
        return last(g, join("codes", "other")(g), 6)

    artifact = check(graph, 3, 5, 7, float_ops=("last",))
    (reason,) = [row.reason for row in artifact.report.rows if row.name == "last"]
    assert reason == "its input is not quantised: join brings together tensors that no one quantiser gave"


def test_concat_before_a_quantiser_per_channel() -> None:
    """Each part takes its slice of the scales."""

    def graph(g: GraphBuilder) -> str:
        x = join("acc", "codes")(g)
        return g.quantiser(x, np.linspace(0.2, 0.9, 7, dtype=np.float32).reshape(7, 1, 1), 0, 7)

    check(graph, 3, 5, 7)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("where", ["codes", "accumulator"])
def test_split(where: str, opset: int) -> None:
    """Unequal entries, each with a convolution of its own, one also with a batch norm."""

    def graph(g: GraphBuilder) -> str:
        x = g.quantiser("x", 0.37, -4, 3) if where == "codes" else first(g, 5, 5)
        sizes = {"split": [2, 3]} if opset < 13 else {}
        inputs = [x] if opset < 13 else [x, ints(g, 2, 3)]
        names = ["part_a", "part_b"]
        g.nodes.append(__import__("onnx").helper.make_node("Split", inputs, names, name="split", axis=1, **sizes))
        a, b = names if where == "codes" else (quant(g, g.batch_norm("part_a", 2)), quant(g, "part_b", 0.6, 3))
        return g.add("Add", conv(g, a, 2, 4), conv(g, b, 3, 4), name="sum")

    check(graph, 5, 5, 7, opset=opset, float_ops=("sum",))


def test_one_accumulator_read_by_two_quantisers_and_moved() -> None:
    """Also an output of the network, and one quantiser shared by three consumers."""

    def graph(g: GraphBuilder) -> str:
        x = g.add("Relu", first(g))
        a, b = quant(g, x), quant(g, x, 0.2, 4)
        left = conv(g, a, 8, 4)
        right = g.add("MatMul", g.add("Flatten", a), g.weights(8 * 35, 3, axis=1), name="head")
        g.add("Concat", quant(g, left, 0.3, 4), b, quant(g, x, 0.3, 4), axis=1, name="joined")
        g.add("Transpose", quant(g, "joined", 0.29, 4), perm=[0, 3, 2, 1], name="moved")
        return right

    graph_, model = GraphBuilder(), None
    graph_.input(3, 5, 7)
    model = graph_.model(graph(graph_), "moved", "quant2" if "quant2" in graph_.codes else next(iter(graph_.codes)))
    artifact = tvm_lowbit.build(model, target="host", batch=1, probe=True)
    assert [row.reason for row in artifact.report.rows if row.reason] == []
    x = np.random.default_rng(1).normal(size=(1, 3, 5, 7)).astype(np.float32)
    assert_like_onnx(artifact, graph_, model, x)


def test_constant_that_does_not_follow_the_channels() -> None:
    """A batch norm behind DepthToSpace: no thresholds, but codes from integers in registers."""

    def graph(g: GraphBuilder) -> str:
        x = g.add("DepthToSpace", first(g), blocksize=2)
        x = g.add("Add", x, g.constant(g.random.normal(size=(1, 2, 1, 10))), name="per_column")
        return last(g, quant(g, x), 2)

    artifact = check(graph, 3, 3, 5)
    (why,) = [row.why for row in artifact.report.in_registers]
    assert "its constant does not follow the channels" in why
