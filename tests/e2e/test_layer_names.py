"""Layers have the names of the model's nodes, dots and slashes included, wherever a user reads or writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from fuzz.seeds import SPELLINGS, Writer

import tvm_lowbit
from relay_passes import dataflow
from tvm_lowbit import DeepLift, LowbitError
from tvm_lowbit.frontend import import_model

LAYERS = ("/features/features.0/Conv", "layer1.0.conv1", "head.fc")


def network(spelling: str = "raw") -> onnx.ModelProto:
    """Two convolutions, the first with a bias, and a Gemm with one, named as torch's exporters name them."""
    w = Writer(3)
    quantise = SPELLINGS[spelling]
    a = quantise(w, "x", 0.5, -2, 1, 0.0)
    c = w.add("Conv", a, quantise(w, w.weights(4, 2, 3, 3), 0.5, -2, 1, 0.0), w.const(np.arange(4) / 4))
    a = quantise(w, c, 0.5, 0, 3, 0.0)
    c = w.add("Conv", a, quantise(w, w.weights(4, 4, 1, 1), 0.5, -2, 1, 0.0))
    a = w.add("Flatten", quantise(w, c, 0.5, -2, 1, 0.0))
    y = w.add("Gemm", a, quantise(w, w.weights(16, 3), 0.5, -2, 1, 0.0), w.const([1, 2, 3]))
    made = w.model(y, ["N", 2, 4, 4])
    names = iter(LAYERS)
    for node in made.graph.node:
        node.name = next(names) if node.op_type in ("Conv", "Gemm") else f"/{node.name}/a.b.{node.op_type}"
    return made


def batch() -> Any:
    return np.random.default_rng(0).normal(size=(2, 2, 4, 4)).astype(np.float32)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_reports_and_codes_have_the_names_of_nodes(spelling: str) -> None:
    made = network(spelling)
    artifact = tvm_lowbit.build(made, "host", probe=True)
    assert [row.name for row in artifact.report.low_bit] == list(LAYERS)
    nodes = {node.name for node in made.graph.node}
    codes = artifact.run(batch()).codes
    assert len(codes) == 3 and set(codes) <= nodes


def test_what_reads_an_entry_of_a_split_keeps_its_name() -> None:
    w = Writer(3)
    quantise = SPELLINGS["raw"]
    w.add("Split", quantise(w, "x", 0.5, -2, 1, 0.0), w.const([1, 1], np.int64), axis=1)
    split = w.nodes[-1]
    split.output[:] = ["first", "second"]
    y = w.add("Conv", "second", quantise(w, w.weights(4, 1, 3, 3), 0.5, -2, 1, 0.0))
    assert [row.name for row in tvm_lowbit.build(w.model(y, ["N", 2, 4, 4], 4), "host").report.low_bit] == [y]


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_excluded_by_their_names(name: str) -> None:
    report = tvm_lowbit.inspect(network(), "host", exclude=[name])
    assert [(row.name, row.reason) for row in report.stays_float] == [(name, "excluded by the user")]
    assert [row.name for row in report.low_bit] == [layer for layer in LAYERS if layer != name]


def test_names_that_are_near_are_named_so() -> None:
    with pytest.raises(LowbitError, match=r"near names: layer1\.0\.conv1"):
        tvm_lowbit.inspect(network(), "host", exclude=["layer1.0.conv2"])


def test_errors_and_explanations_speak_of_nodes() -> None:
    """A quantiser whose scale is senseless; an operator without a rule of attribution; explanations run."""
    bad = network()
    (scale,) = (t for t in bad.graph.initializer if t.name == bad.graph.node[0].input[1])
    scale.CopyFrom(onnx.numpy_helper.from_array(np.float32(-1), scale.name))
    last = next(node.name for node in bad.graph.node if node.op_type == "Mul")
    with pytest.raises(LowbitError, match=rf"scale of quantiser {last}: "):
        tvm_lowbit.inspect(bad, "host")
    odd = network()
    odd.opset_import[0].version = 14  # the first with Trilu
    odd.graph.node.append(onnx.helper.make_node("Trilu", [odd.graph.output[0].name], ["part"], "head.0/trilu.1"))
    odd.graph.output[0].name = "part"
    with pytest.raises(LowbitError, match=r"layer head\.0/trilu\.1: expected an operator with an attribution rule"):
        tvm_lowbit.build(odd, "host", explain=[DeepLift()])
    (explanation,) = tvm_lowbit.build(network(), "host", explain=[DeepLift()]).run(batch()).explanations.values()
    assert float(np.abs(explanation.gap).max()) < 1e-4


def test_a_reason_names_the_quantiser_it_is_about() -> None:
    """Of an operand, in the row of its layer."""
    made = network("qonnx")
    (bits,) = (t for t in made.graph.initializer if t.name == made.graph.node[0].input[3])
    bits.CopyFrom(onnx.numpy_helper.from_array(np.float32(12), bits.name))
    reasons = {row.name: row.reason for row in tvm_lowbit.inspect(made, "host").stays_float}
    assert f"its input is not quantised: {made.graph.node[0].name} " in reasons[LAYERS[0]]


def test_names_of_bound_variables() -> None:
    """What a program's variables are called, and what the builder is given for it."""
    names = [dataflow.name_of(b.var) for b in dataflow.bindings(import_model(network())["main"])]
    assert set(LAYERS) < set(names) and {f"{LAYERS[0]}/add", "head.fc/add"} < set(names)
    assert "." not in dataflow.hint("a.b")
