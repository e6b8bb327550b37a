"""Bad models in every spelling: a `LowbitError` with where, expected and got, or float with the reason; no crash."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import oracle
import pytest
from click.testing import CliRunner
from fuzz.seeds import SEEDS, SPELLINGS, Writer
from onnx import TensorProto, helper
from qonnx_oracle import spelled_out

import tvm_lowbit
from tvm_lowbit import LowbitError
from tvm_lowbit.cli import cli

F = np.float32
ALL = sorted(SPELLINGS)
Change = Callable[[onnx.ModelProto], Any]


def dense(spelling: str, scale: Any = 0.5, low: int = 0, high: int = 3, zero: float = 0.0) -> onnx.ModelProto:
    """A dense layer whose input quantiser is as given."""
    w = Writer(1)
    a = SPELLINGS[spelling](w, "x", scale, low, high, zero)
    y = w.add("Gemm", a, SPELLINGS[spelling](w, w.weights(4, 3), 0.5, -2, 1, 0.0))
    return w.model(y, ["N", 4])


def refused(model: Any, tmp_path: Path, *words: str) -> str:
    """The message of the error, the same in Python and on the command line, where it ends with code 2."""
    path = model
    if isinstance(model, onnx.ModelProto):
        path = tmp_path / "bad.onnx"
        path.write_bytes(model.SerializeToString())
    with pytest.raises(LowbitError) as caught:
        tvm_lowbit.build(path, "host")
    done = CliRunner(env={"COLUMNS": "500"}).invoke(cli, ["inspect", str(path)])
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit)
    assert "Traceback" not in done.output and ": expected " in done.output and ", got " in done.output
    for word in words:
        assert word in str(caught.value) and word in done.output
    return str(caught.value)


def inputs(*shape: int) -> Any:
    return (np.random.default_rng(0).integers(-12, 12, (3, *shape)) / 4).astype(F)


def stays_float(model: onnx.ModelProto, reason: str) -> None:
    """Some layer says why, and the results are ONNX Runtime's."""
    artifact = right(model)
    assert any(reason in row.reason for row in artifact.report.stays_float), artifact.report


def right(model: onnx.ModelProto) -> Any:
    """The artifact, whose results are ONNX Runtime's."""
    artifact = tvm_lowbit.build(model, "host", batch=3)
    x = inputs(*artifact.manifest.inputs[0].shape[1:])
    standard = spelled_out(model)[0] if any(node.domain for node in model.graph.node) else model
    (got,) = artifact.run(x).outputs.values()
    np.testing.assert_allclose(got, oracle.run(standard, x), rtol=1e-5, atol=1e-5)
    return artifact


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("spelling", ALL)
def test_scales_that_are_no_positive_numbers(spelling: str, scale: float, tmp_path: Path) -> None:
    refused(dense(spelling, scale), tmp_path, "scale of quantiser", "a finite number above 0", repr(scale), "hint:")


@pytest.mark.parametrize("spelling", ALL)
def test_zero_point_outside_the_range(spelling: str) -> None:
    """No code stands for 0.0, which means something all the same: low-bit, and right.

    QDQ's zero point must still be a number of its integer type, which holds more than the range after the Clip.
    """
    artifact = right(dense(spelling, zero=7.0))
    assert [row.bits for row in artifact.report.rows] == ["W2A2"]


@pytest.mark.parametrize("zero", [float("nan"), float("inf")])
@pytest.mark.parametrize("spelling", ["raw", "qonnx"])
def test_zero_point_that_is_no_number(spelling: str, zero: float, tmp_path: Path) -> None:
    refused(dense(spelling, zero=zero), tmp_path, "zero point of quantiser", "a finite number")


@pytest.mark.parametrize("bits", [0, -1, 33, 2.5])
def test_widths_that_are_none(bits: float, tmp_path: Path) -> None:
    """QONNX's bit width must be a whole number; up to 32, so that codes are exact somewhere."""
    made = dense("qonnx")
    (tensor,) = (t for t in made.graph.initializer if t.name == made.graph.node[0].input[3])
    tensor.CopyFrom(onnx.numpy_helper.from_array(F(bits), tensor.name))
    refused(made, tmp_path, "bit width of quantiser", "one whole number from 1 to 32", f"{bits:g}")


@pytest.mark.parametrize("high", [511, 2**16 - 1])
@pytest.mark.parametrize("spelling", ["raw", "qonnx"])
def test_nine_bits_and_more_stay_float(spelling: str, high: int) -> None:
    stays_float(dense(spelling, 0.25, high=high), f"takes {high.bit_length()} bits; 1 to 8 are supported")


@pytest.mark.parametrize(("low", "high"), [(0, 2.5), (-1.5, 1)])
def test_fractional_bounds_stay_float(low: float, high: float) -> None:
    """Codes would depend on the order of clip and round."""
    stays_float(dense("raw", low=low, high=high), "are no integers")  # type: ignore[arg-type] - fractions on purpose


@pytest.mark.parametrize("spelling", ["raw", "qdq"])
def test_one_code_is_no_quantiser(spelling: str) -> None:
    """A width of 0."""
    stays_float(dense(spelling, low=0, high=0), "holds fewer than two codes")


@pytest.mark.parametrize("spelling", ALL)
def test_weights_off_their_grid_stay_float(spelling: str) -> None:
    w = Writer(1)
    a = SPELLINGS[spelling](w, "x", 0.5, 0, 3, 0.0)
    weights = np.random.default_rng(7).normal(size=(8, 3))
    stays_float(w.model(w.add("MatMul", a, w.const(weights)), ["N", 8]), "they lie on no grid of at most 8 bits")


def scaled_at_run_time(spelling: str) -> onnx.ModelProto:
    """The scale of the input's quantiser is the largest input."""
    made = dense(spelling)
    first = made.graph.node[0]
    scale = first.input[1]
    made.graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["late"], "late", keepdims=0))
    for node in made.graph.node:
        node.input[:] = ["late" if name == scale else name for name in node.input]
    return made


@pytest.mark.parametrize("spelling", ["raw", "qdq"])
def test_scale_that_is_not_constant_stays_float(spelling: str) -> None:
    stays_float(scaled_at_run_time(spelling), "its scale or zero point is computed at run time")


def test_scale_that_is_not_constant_in_qonnx(tmp_path: Path) -> None:
    refused(scaled_at_run_time("qonnx"), tmp_path, "a constant scale", "one computed at run time")


def _cycle(m: onnx.ModelProto) -> None:
    m.graph.node[0].input[0] = m.graph.node[2].output[0]


def _unsorted(m: onnx.ModelProto) -> None:
    first = m.graph.node.pop(0)
    m.graph.node.append(first)


def _tensor_twice(m: onnx.ModelProto) -> None:
    m.graph.node[1].output[0] = m.graph.node[0].output[0]


def _constant_twice(m: onnx.ModelProto) -> None:
    m.graph.initializer.append(m.graph.initializer[0])


def _free_height(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "width"


def _set(path: str, value: Any) -> Change:
    """Assigns ``model.path = value``; a number in the path is an index."""

    def change(m: Any) -> None:
        *way, last = path.split(".")
        for step in way:
            m = m[int(step)] if step.isdigit() else getattr(m, step)
        if last.isdigit():
            m[int(last)] = value
        else:
            setattr(m, last, value)

    return change


GRAPHS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "cycle": (_cycle, ("a graph without cycles", "a cycle through")),
    "unsorted": (_unsorted, ("which is made behind it", "order of execution")),
    "dangling": (_set("graph.node.0.input.0", "nobody"), ("inputs that something makes", "'nobody'")),
    "tensor_twice": (_tensor_twice, ("results of new names", "which is taken")),
    "constant_twice": (_constant_twice, ("a name of its own", "2 of this name")),
    "input_twice": (lambda m: m.graph.input.append(m.graph.input[0]), ("input x", "2 of this name")),
    "no_input": (lambda m: m.graph.input.pop(), ("inputs that something makes", "'x'")),
    "no_output": (lambda m: m.graph.output.pop(), ("a graph with outputs", "none")),
    "output_from_nowhere": (_set("graph.output.0.name", "nobody"), ("nobody",)),
    "no_nodes": (lambda m: m.graph.ClearField("node"), ("a graph without nodes",)),
    "unknown_domain": (_set("graph.node.0.domain", "my.ops"), ("my.ops",)),
    "unknown_operator": (_set("graph.node.0.op_type", "Frobnicate"), ("Frobnicate",)),
    "ir_version": (_set("ir_version", 99), ("an IR version from 1", "99", "hint:")),
    "no_ir_version": (_set("ir_version", 0), ("an IR version from 1", "got 0")),
    "opset": (_set("opset_import.0.version", 99), ("an opset from 1", "99", "hint:")),
    "opset_zero": (_set("opset_import.0.version", 0), ("an opset from 1", "got 0")),
    "free_dimension": (_free_height, ("input x", "a static shape but for the batch", "width")),
    "empty_dimension": (_set("graph.input.0.type.tensor_type.shape.dim.1.dim_value", 0), ("positive dimensions",)),
    "input_of_text": (_set("graph.input.0.type.tensor_type.elem_type", TensorProto.STRING), ("STRING",)),
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("spelling", ALL)
def test_graphs_that_are_none(spelling: str, name: str, tmp_path: Path) -> None:
    made = dense(spelling)
    change, words = GRAPHS[name]
    change(made)
    refused(made, tmp_path, *words)


@pytest.mark.parametrize("spelling", ALL)
def test_nodes_of_one_name_compile(spelling: str) -> None:
    """ONNX does not ask for node names at all."""
    for name in ("same", ""):
        made = dense(spelling)
        for node in made.graph.node:
            node.name = name
        artifact = tvm_lowbit.build(made, "host")
        assert len(artifact.report.low_bit) == 1
        named = dense(spelling)  # ONNX Runtime asks for different names
        standard = spelled_out(named)[0] if spelling == "qonnx" else named
        (got,) = artifact.run(inputs(4)).outputs.values()
        np.testing.assert_allclose(got, oracle.run(standard, inputs(4)), rtol=1e-6, atol=1e-6)


LINEAR = {
    "scale_of_two_dimensions": ("scale", (2, 2), "one number, or one for each index of an axis", "shape (2, 2)"),
    "scale_of_another_length": ("scale", (3,), "zero point of node", "the scale's shape (3,)"),
    "both_of_another_length": ("both", (3,), "4 numbers, one for each index of axis 1", "3"),
    "zero_point_of_another_length": ("zero", (4,), "the scale's shape ()", "shape (4,)"),
}


@pytest.mark.parametrize("name", LINEAR)
def test_scales_that_do_not_fit_in_qdq(name: str, tmp_path: Path) -> None:
    which, shape, *words = LINEAR[name]
    made = dense("qdq")
    scale, zero = made.graph.node[0].input[1:]
    for tensor in made.graph.initializer:
        if (tensor.name == scale and which in ("scale", "both")) or (tensor.name == zero and which in ("zero", "both")):
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.resize(array, shape), tensor.name))
    refused(made, tmp_path, *words)


WINDOWS = {
    "negative padding": ("pads", [-1, 0, 0, 0]),
    "padding of one side": ("pads", [1, 1]),
    "huge padding": ("pads", [0, 0, 2**40, 0]),
    "no stride": ("strides", [0, 1]),
    "no dilation": ("dilations", [1, 0]),
    "negative group": ("group", -1),
    "kernel of one dimension": ("kernel_shape", [3]),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_that_are_none(name: str, tmp_path: Path) -> None:
    attribute, value = WINDOWS[name]
    made = SEEDS["raw_asymmetric"]()
    (conv,) = (node for node in made.graph.node if node.op_type == "Conv")
    del conv.attribute[:]
    conv.attribute.append(helper.make_attribute(attribute, value))
    refused(made, tmp_path, f"{attribute} of node {conv.name}", str(value).strip("[]"))


def test_clips_with_their_bounds_in_the_wrong_order() -> None:
    """ONNX: the result is the upper bound."""
    for spelling in ("raw", "qdq"):
        made = dense(spelling, low=3, high=1)
        artifact = tvm_lowbit.build(made, "host", batch=3)
        (got,) = artifact.run(inputs(4)).outputs.values()
        np.testing.assert_allclose(got, oracle.run(made, inputs(4)), rtol=1e-6, atol=1e-6)


def test_flags_that_are_none(tmp_path: Path) -> None:
    made = dense("qonnx")
    for name in ("narrow", "signed"):
        changed = onnx.ModelProto.FromString(made.SerializeToString())
        (flag,) = (a for a in changed.graph.node[0].attribute if a.name == name)
        flag.i = 2
        refused(changed, tmp_path, f"{name} of quantiser", "0 or 1", "got 2")


def test_an_output_declared_with_another_rank() -> None:
    """ONNX Runtime does not mind: exporters leave old shapes behind."""
    made = dense("qonnx")
    made.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 1
    (got,) = tvm_lowbit.build(made, "host", batch=3).run(inputs(4)).outputs.values()
    np.testing.assert_allclose(got, oracle.run(spelled_out(made)[0], inputs(4)), rtol=1e-5, atol=1e-6)


def test_a_type_that_onnx_does_not_have(tmp_path: Path) -> None:
    made = dense("raw")
    made.graph.input[0].type.tensor_type.elem_type = 71
    refused(made, tmp_path, "input x", "float32", "type 71")


def test_a_transposition_that_is_neither(tmp_path: Path) -> None:
    made = SEEDS["qdq"]()
    (gemm,) = (node for node in made.graph.node if node.op_type == "Gemm")
    del gemm.attribute[:]
    gemm.attribute.append(helper.make_attribute("transB", 1 << 62))
    refused(made, tmp_path, f"transB of node {gemm.name}", "0 or 1")


FILES = {
    "empty": (b"", "a graph without nodes"),
    "text": (b"these are notes, not a network\n" * 20, "bytes that do not parse"),
    "zeros": (bytes(100), "bytes that do not parse"),
    "zip": (b"PK\x03\x04" + bytes(range(200)), "bytes that do not parse"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_models(name: str, tmp_path: Path) -> None:
    content, got = FILES[name]
    path = tmp_path / f"{name}.onnx"
    path.write_bytes(content)
    refused(path, tmp_path, str(path), "an ONNX model", got)


@pytest.mark.parametrize("seed", sorted(SEEDS))
def test_truncated_files(seed: str, tmp_path: Path) -> None:
    """Cut anywhere: an error, whether or not the rest parses."""
    whole = SEEDS[seed]().SerializeToString()
    path = tmp_path / "short.onnx"
    for length in range(1, len(whole) - 1, len(whole) // 25):
        path.write_bytes(whole[:length])
        with pytest.raises(LowbitError):
            tvm_lowbit.inspect(path, "host")


def test_folders_and_nothing(tmp_path: Path) -> None:
    refused(tmp_path, tmp_path, "an ONNX file", "a folder")
    refused(tmp_path / "gone.onnx", tmp_path, "an ONNX file", "nothing there")


def external(tmp_path: Path, spelling: str, **entries: Any) -> Path:
    """A model whose first tensor lies in another file, ``data.bin`` of 64 bytes if not said otherwise."""
    made = dense(spelling)
    tensor = made.graph.initializer[-1]
    held = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "data.bin", "length": len(held)} | entries).items():
        tensor.external_data.add(key=key, value=str(value))
    (tmp_path / "data.bin").write_bytes(held + bytes(64 - len(held)))
    path = tmp_path / "split.onnx"
    path.write_bytes(made.SerializeToString())
    return path


@pytest.mark.parametrize("spelling", ALL)
def test_external_data_is_read(spelling: str, tmp_path: Path) -> None:
    """As it should be; the tests below are about what is wrong with it."""
    assert len(tvm_lowbit.inspect(external(tmp_path, spelling), "host").low_bit) == 1


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"location": "gone.bin"}, ("external data of tensor", "a file beside split.onnx", "nothing at 'gone.bin'")),
        ({"location": ""}, ("external data of tensor", "nothing at ''")),
        ({"location": "."}, ("nothing at '.'",)),
        ({"location": "/dev/zero"}, ("nothing at '/dev/zero'",)),
        ({"length": 65}, ("bytes that data.bin holds", "bytes 0 to 65 of 64", "truncated")),
        ({"offset": 61}, ("bytes that data.bin holds", "truncated")),
        ({"offset": -4}, ("a location, an offset and a length", "-4")),
        ({"length": "many"}, ("a location, an offset and a length", "many")),
    ],
)
def test_external_data_that_is_not_there(entries: dict[str, Any], words: tuple[str, ...], tmp_path: Path) -> None:
    refused(external(tmp_path, "raw", **entries), tmp_path, *words)


def test_external_data_outside_the_folder(tmp_path: Path) -> None:
    """A model must not read any file it likes."""
    (tmp_path / "model").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    refused(external(tmp_path / "model", "raw", location="../secret.bin"), tmp_path, "external data", "..")


def test_external_data_of_a_model_in_memory() -> None:
    made = dense("raw")
    tensor = made.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="data.bin")
    with pytest.raises(LowbitError, match=r"tensor c0: expected values in the model.*\n?.*pass the path"):
        tvm_lowbit.build(made, "host")


HUGE = 2**31 + 4096


def in_little_memory(path: Path) -> str:
    """What the command line says of a model in a process that may not take 2 GiB."""
    script = (
        "import resource, sys\n"
        "from tvm_lowbit.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))\n"
        "sys.argv = ['tvm-lowbit', 'inspect', sys.argv[1]]\n"
        "main()\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < max(before + 1, 1 << 20)  # in KiB
    return done.stderr


def test_file_of_two_gibibytes(tmp_path: Path) -> None:
    """Sparse, so that it takes no room; not read, so that it takes no memory."""
    path = tmp_path / "huge.onnx"
    path.write_bytes(dense("raw").SerializeToString())
    with path.open("r+b") as file:
        file.truncate(HUGE)
    said = in_little_memory(path)
    assert "at most 2 GiB" in said and "got 2.0 GiB" in said and "hint: store the weights as external data" in said


def test_external_data_of_two_gibibytes(tmp_path: Path) -> None:
    """A valid model, of which TVM's front end cannot take the weights."""
    path = external(tmp_path, "raw", length=HUGE - HUGE % 16)
    made = onnx.load(str(path), load_external_data=False)
    made.graph.initializer[-1].dims[:] = [HUGE // 4]
    path.write_bytes(made.SerializeToString())
    with (tmp_path / "data.bin").open("r+b") as file:
        file.truncate(HUGE)
    said = in_little_memory(path)
    assert "at most 2 GiB" in said and "split the network" in said
