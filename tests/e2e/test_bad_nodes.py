"""Nodes that do not fit their inputs: which one, what was expected, and nothing of TVM's internals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import oracle
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import tvm_lowbit
from tvm_lowbit import LowbitError
from tvm_lowbit.cli import cli

F = np.float32
INTERNALS = ("ir.Op", "span=", "T.int64", "R.shape", "R.Tensor", "Check failed", "Traceback", "(unnamed)")


def graph(
    op: str, shape: tuple[int, ...], *constants: Any, name: str = "", domain: str = "", **attributes: Any
) -> onnx.ModelProto:
    """One node of ``x`` and constants, behind a Relu; its output has the input's rank."""
    names = [f"c{i}" for i in range(len(constants))]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "act"),
        helper.make_node(op, ["r", *names], ["y"], name, domain=domain, **attributes),
    ]
    tensors = [numpy_helper.from_array(np.asarray(c), n) for c, n in zip(constants, names, strict=True)]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", [None] * len(shape)))
    ]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


def refused(model: onnx.ModelProto, *words: str) -> LowbitError:
    """The error, which `build` and `inspect` share."""
    errors = []
    for call in (tvm_lowbit.build, tvm_lowbit.inspect):
        with pytest.raises(LowbitError) as caught:
            call(model, "host")
        errors.append(caught.value)
    said = str(errors[0])
    assert said == str(errors[1])
    for word in words:
        assert word in said, said
    assert not [word for word in INTERNALS if word in said], said
    return errors[0]


def weights(*shape: int) -> Any:
    return np.ones(shape, F)


PICTURE = (1, 4, 6, 6)
# Each is refused by ONNX Runtime as well.
WINDOWS: dict[str, tuple[onnx.ModelProto, tuple[str, ...]]] = {
    "kernel of another size": (
        graph("Conv", PICTURE, weights(2, 4, 3, 3), name="first", kernel_shape=[5, 5]),
        ("kernel_shape of node first", "expected [3, 3]", "weights of shape (2, 4, 3, 3)", "got [5, 5]"),
    ),
    "kernel of a transposed one": (
        graph("ConvTranspose", PICTURE, weights(4, 2, 3, 3), kernel_shape=[3, 2]),
        ("kernel_shape of ConvTranspose that makes y", "expected [3, 3]", "got [3, 2]"),
    ),
    "weights of another rank": (
        graph("Conv", PICTURE, weights(2, 4, 3)),
        ("weights of Conv that makes y", "4 dimensions", "(2, 4, 3)"),
    ),
    "groups that do not fit the input": (
        graph("Conv", PICTURE, weights(2, 4, 3, 3), group=2),
        ("input of Conv that makes y", "8 channels", "2 groups", "got 4"),
    ),
    "groups that do not divide the output": (
        graph("Conv", PICTURE, weights(3, 2, 3, 3), group=2),
        ("group of Conv that makes y", "a divisor of the weights' 3 channels", "got 2"),
    ),
    "channels of a transposed one": (
        graph("ConvTranspose", PICTURE, weights(3, 2, 3, 3)),
        ("input of ConvTranspose that makes y", "3 channels", "got 4"),
    ),
    "bias": (
        graph("Conv", PICTURE, weights(2, 4, 3, 3), weights(3)),
        ("bias of Conv that makes y", "shape (2,)", "got (3,)"),
    ),
    "strides of one dimension": (
        graph("MaxPool", PICTURE, kernel_shape=[2, 2], strides=[2]),
        ("strides of MaxPool that makes y", "2 numbers", "got [2]"),
    ),
    "padding of a pool as large as its window": (
        graph("AveragePool", PICTURE, kernel_shape=[2, 2], pads=[2, 2, 2, 2]),
        ("pads of AveragePool that makes y", "less than", "got [2, 2, 2, 2]"),
    ),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_that_contradict_the_weights(name: str) -> None:
    model, words = WINDOWS[name]
    refused(model, *words)
    with pytest.raises(Exception, match=r"ONNXRuntimeError|ShapeInferenceError|ORT"):
        oracle.run(model, np.ones(PICTURE, F))


def test_a_kernel_that_fits_is_taken() -> None:
    """Said twice, and groups that divide both sides: computed as ONNX Runtime does."""
    x = np.random.default_rng(0).normal(size=PICTURE).astype(F)
    w = np.random.default_rng(1).normal(size=(6, 2, 3, 3)).astype(F)
    for op, shape in (("Conv", (6, 2, 3, 3)), ("ConvTranspose", (4, 3, 3, 3))):
        model = graph(op, PICTURE, np.resize(w, shape), np.arange(6, dtype=F), kernel_shape=[3, 3], group=2)
        (got,) = tvm_lowbit.build(model, "host").run(x).outputs.values()
        np.testing.assert_allclose(got, oracle.run(model, x), rtol=1e-5, atol=1e-5)


NODES: dict[str, tuple[onnx.ModelProto, tuple[str, ...]]] = {
    "permutation": (
        graph("Transpose", (1, 4), name="turn", perm=[0, 0]),
        ("node turn (Transpose)", "a Transpose that fits its inputs", "repeated value: 0", "hint: "),
    ),
    "axis": (
        graph("Concat", (1, 4), weights(1, 4), axis=7),
        ("Concat that makes y", "a Concat that fits its inputs", "axis must be in", "hint: "),
    ),
    "sizes": (graph("Reshape", (1, 4), np.int64([3, 3])), ("Reshape that makes y", "9", "hint: ")),
    "indices": (graph("Gather", (1, 4), np.int64([9]), axis=1), ("indices of Gather that makes y", "-4 to 3", "got 9")),
    "resize": (
        graph("Resize", PICTURE, np.float32([]), np.float32([1, 1, 0.1, 2]), mode="nearest"),
        ("Resize that makes y", "sizes of at least 1", "[1, 4, 0, 12]"),
    ),
    "product": (graph("MatMul", (1, 4), weights(3, 2)), ("MatMul that makes y", "a MatMul that fits its inputs")),
    "sum": (graph("Add", (1, 4), weights(1, 3)), ("Add that makes y", "an Add that fits its inputs")),
    "recurrent": (
        graph("LSTM", (2, 1, 3), weights(1, 8, 3), weights(1, 8, 2), hidden_size=2),
        ("LSTM that makes y", "an operator that can be imported", "got LSTM", "MatMul", "`tvm-lowbit spellings`"),
    ),
    "unknown": (
        graph("Foo", (1, 4), domain="weird"),
        ("Foo that makes y", "got weird::Foo", "`tvm-lowbit spellings` lists the operators"),
    ),
    "width": (
        graph("Quant", (1, 4), F(0.5), F(0), F(4.5), name="q", domain="qonnx.custom_op.general"),
        ("bit width of quantiser q", "4.5"),
    ),
}


@pytest.mark.parametrize("name", NODES)
def test_nodes_that_cannot_be_imported(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is written beside the error, neither at once nor when what it holds is let go."""
    model, words = NODES[name]
    error = refused(model, *words)
    del error
    assert capfd.readouterr().err == ""


def test_control_flow_is_no_operator() -> None:
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["b"])],
        "b",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 4])],
    )
    model = graph("If", (1, 4), then_branch=branch, else_branch=branch)
    node = model.graph.node[1]
    node.input[:] = ["c"]
    model.graph.initializer.append(numpy_helper.from_array(np.bool_(True), "c"))
    refused(model, "If that makes y", "got If", "export it without control flow")


def _none(m: onnx.ModelProto) -> None:
    del m.graph.input[:]
    m.graph.initializer.append(numpy_helper.from_array(weights(1, 4), "x"))


def _scalar(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.ClearField("shape")
    m.graph.input[0].type.tensor_type.shape.SetInParent()
    del m.graph.output[0].type.tensor_type.shape.dim[:]


def _two_batches(m: onnx.ModelProto) -> None:
    m.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 4]))
    m.graph.node[1].op_type = "Add"
    m.graph.node[1].input.append("z")


def _number(m: onnx.ModelProto) -> None:
    m.graph.node[1].op_type = "ReduceSum"
    m.graph.node[1].attribute.append(helper.make_attribute("keepdims", 0))
    del m.graph.output[0].type.tensor_type.shape.dim[:]


ENDS: dict[str, tuple[Callable[[onnx.ModelProto], None], tuple[str, ...]]] = {
    "none": (_none, ("inputs", "at least one", "got none")),
    "scalar": (_scalar, ("inputs", "one batch size, first in every shape", "got ()")),
    "two batches": (_two_batches, ("one batch size, first in every shape", "got (1, 4), (2, 4)")),
    "a number": (_number, ("output y", "a tensor whose first dimension is the batch", "a single number")),
}


@pytest.mark.parametrize("name", ENDS)
def test_inspect_refuses_what_build_does(name: str, tmp_path: Path) -> None:
    model = graph("Neg", (1, 4))
    change, words = ENDS[name]
    change(model)
    refused(model, *words)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    for more in ((), ("--dump",)):
        done = CliRunner(env={"COLUMNS": "500"}).invoke(cli, ["inspect", str(path), *more])
        assert done.exit_code == 2 and words[1] in done.output


def _type_of(name: str, kind: Any) -> Callable[[onnx.ModelProto], None]:
    def change(m: onnx.ModelProto) -> None:
        for tensor in m.graph.initializer:
            if tensor.name == name:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(kind), name))

    return change


def _integer_output(m: onnx.ModelProto) -> None:
    m.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8


TYPES: dict[str, tuple[onnx.ModelProto, Callable[[onnx.ModelProto], None], tuple[str, ...]]] = {
    "mixed": (graph("Add", (1, 4), F(1)), _type_of("c0", np.int8), ("input c0 of Add", "expected float", "got int8")),
    "none of the operator's": (
        graph("Resize", PICTURE, F([]), F([1, 1, 2, 2])),
        _type_of("c1", np.float64),
        ("input c1 of Resize that makes y", "expected float", "got double"),
    ),
    "output": (graph("Neg", (1, 4)), _integer_output, ("output y", "expected int8, as declared", "got float")),
    "bound of several numbers": (
        graph("Clip", (1, 4), F([0, 1, 2, 3])),
        lambda m: None,
        ("minimum of Clip that makes y", "one number", "got shape (4,)"),
    ),
}


@pytest.mark.parametrize("name", TYPES)
def test_types_that_do_not_fit(name: str) -> None:
    """ONNX's checker takes them; ONNX Runtime does not."""
    model, change, words = TYPES[name]
    made = onnx.ModelProto.FromString(model.SerializeToString())
    change(made)
    onnx.checker.check_model(made)
    refused(made, *words)
    with pytest.raises(Exception, match=r"Type|scalar"):
        oracle.run(made, np.ones([d.dim_value for d in made.graph.input[0].type.tensor_type.shape.dim], F))
