"""``python -m benchmarks``: plain TVM's kernels metered, searched and timed; runs that go on; tables."""

from __future__ import annotations

import json
from pathlib import Path

import benchmarks.__main__ as command
import numpy as np
import onnx
import pytest
from benchmarks.host import NETWORK, pair_layers
from benchmarks.plain import compile_fused, float_convolutions, fused_module
from benchmarks.tables import markdown
from benchmarks.tuned import Schedules, key_of, tune
from click.testing import CliRunner
from emulator import require
from onnx import TensorProto, helper, numpy_helper

from schedules.cores import CORES
from tvm_lowbit.metering import tools
from tvm_lowbit.metering.models import meter_library

CHANNELS, SIZE = 8, 6
MACS = CHANNELS * CHANNELS * 9 * SIZE * SIZE
A72 = CORES["cortex-a72"]
FIGURES = {
    **{"seconds": 1.0, "memory_bytes": 1e6, "library_bytes": 1e6, "bytes_loaded": 3, "bytes_stored": 4},
    **{"two_bit_bytes": 1e5, "two_bit_float_bytes": 15e5, "kernels": 1, "trials": 8, "failed": 0, "wrong": 0},
}


def network(bits: int = 0, layers: tuple[str, ...] = ("/a/Conv",)) -> onnx.ModelProto:
    """3x3 convolutions with ReLU; with ``bits``, operands on grids."""
    random, stored, nodes, last = np.random.default_rng(0), [], [], "x"

    def grid(source: str, name: str, low: int, high: int) -> str:
        for part, value in (("s", 0.5), ("lo", low), ("hi", high)):
            stored.append(numpy_helper.from_array(np.float32(value), f"{name}.{part}"))
        for op, inputs, result in (
            ("Div", [source, f"{name}.s"], "d"),
            ("Clip", [f"{name}.d", f"{name}.lo", f"{name}.hi"], "c"),
            ("Round", [f"{name}.c"], "r"),
            ("Mul", [f"{name}.r", f"{name}.s"], "q"),
        ):
            nodes.append(helper.make_node(op, inputs, [f"{name}.{result}"]))
        return f"{name}.q"

    for layer in layers:
        weights = random.integers(-2, 2, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32) * np.float32(0.5)
        stored.append(numpy_helper.from_array(weights, f"{layer}.w"))
        inputs = [last, f"{layer}.w"]
        if bits:
            inputs = [grid(last, f"{layer}.a", 0, 3), grid(f"{layer}.w", f"{layer}.k", -2, 1)]
        nodes.append(helper.make_node("Conv", inputs, [f"{layer}.y"], name=layer, pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"{layer}.y"], [f"{layer}.z"]))
        last = f"{layer}.z"
    shape = [1, CHANNELS, SIZE, SIZE]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", last)]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "plain.onnx"
    onnx.save(network(), path)
    return fused_module(path, A72)


def inputs():
    return np.random.default_rng(1).random((1, CHANNELS, SIZE, SIZE), np.float32)


def test_plain_tvm_is_metered_whole(plain, tmp_path):
    require(tools.missing())
    library = compile_fused(plain, A72, tmp_path / "plain.so")
    first, warm = (meter_library(library, [inputs()], A72, caches=False, warm=warm) for warm in (False, True))
    # Each product at least loads an operand, multiplies and adds, and no schedule spares it.
    assert first.total.instructions > MACS / 4 and first.total.cycles > MACS / 8
    (kernel,), (again,) = ([step for step in found.steps if step.symbol] for found in (first, warm))
    assert "conv2d" in kernel.symbol == again.symbol
    # A first call fetches its work space from the system, whatever the kernel's size.
    assert 0 <= kernel.estimate.instructions - again.estimate.instructions < 10_000
    assert float_convolutions(plain) == (1, 0)


def test_a_searched_schedule_is_right_faster_and_kept(plain, tmp_path):
    require(tools.missing())
    (kernel,) = [function for name, function in plain.functions.items() if "conv2d" in name.name_hint]
    told, path = [], tmp_path / "schedules.jsonl"
    row = tune(kernel, A72, 4, 1, 60.0, told.append)
    assert row["trace"] is not None and row["wrong"] == 0 and told
    Schedules(path).add(row)
    path.write_text(path.read_text() + '{"key": "half a')  # ended while it wrote
    kept = Schedules(path)
    assert kept.holds(key_of(kernel), 4) and not kept.holds(key_of(kernel), 5)
    library = compile_fused(plain, A72, tmp_path / "plain.so")
    before = meter_library(library, [inputs()], A72, caches=False).total.cycles
    compile_fused(plain, A72, library, kept.scheduled)
    assert meter_library(library, [inputs()], A72, caches=False).total.cycles < before


def test_layers_are_paired_by_their_weights(tmp_path):
    layers = ("/a/Conv", "/b/Conv")
    for name, bits in (("quantised", 2), ("plain", 0)):
        onnx.save(network(bits, layers), tmp_path / name)
    rows = pair_layers(tmp_path / "quantised", tmp_path / "plain", inputs(), lambda text: None)
    assert [row["layer"] for row in rows] == [*layers, NETWORK]
    for row in rows:
        low, high = row["quartiles"]
        assert 0 < low <= row["ratio"] <= high and row["ours_ms"] > 0 < row["theirs_ms"]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The command with measurements made up; what it measured, by arguments."""
    done, troubles = [], iter([True])

    def measure(arguments, folder, tell):
        done.append(arguments[:3])
        if arguments[:3] == ("meter", "yolov5", "w2a2") and next(troubles, None):
            return {"error": "no memory"}
        return FIGURES | {"estimated_cycles": 2e6 if "w2a2" in arguments else 9e6}

    monkeypatch.setattr(command, "run", measure)

    def call(*arguments):
        done.clear()
        ended = CliRunner().invoke(command.main, ["--out", str(tmp_path), "--core", "cortex-a72", *arguments])
        return ended.exit_code, list(done), (tmp_path / "benchmarks.md").read_text()

    return call


def test_a_run_goes_on_where_it_was(run, tmp_path):
    asked = ("--network", "yolov5", "--what", "w2a2", "--what", "tuned")
    code, done, text = run(*asked)
    assert code == 1 and len(done) == 3 and "yolov5/cortex-a72/w2a2: no memory" in text
    assert run("--network", "resnet18", "--what", "w2a2")[1] == [("meter", "resnet18", "w2a2")]
    assert json.loads((tmp_path / "results.json").read_text())["rows"].keys() >= {"resnet18/cortex-a72/w2a2"}
    # What failed is measured again, and nothing else; with more trials what depends on them is.
    assert run(*asked)[1] == [("meter", "yolov5", "w2a2")]
    assert run(*asked)[1] == []
    assert [row[0] for row in run(*asked, "--trials", "9")[1]] == ["search", "meter"]


def test_tables_compare_and_say_what_is_missing(run):
    _, _, text = run("--network", "resnet18", "--what", "w2a2", "--what", "fp32")
    assert "| resnet18 | 224 | cortex-a72 (rpi4) | 2.0 | 1.1 | 9.0 |  | 4.5 |  |  |" in text
    assert "| 0.10 | 1.50 | 15.0 |" in text
    assert "cortex-a72, plain TVM, fp32: resnet50" in text and "cortex-a53, W2A2" in text
    # What is in the repository was written by this code, from the results beside it.
    docs = Path(__file__).parents[2] / "docs"
    assert (docs / "benchmarks.md").read_text() == markdown(json.loads((docs / "benchmarks.json").read_text()))
    slow = {"layer": "/a/Conv", "bits": "W2A2", "technique": "t", "ours_ms": 2.0, "theirs_ms": 1.0}
    layers = [slow | {"ratio": 0.5, "quartiles": [0.4, 0.6]}, slow | {"ratio": 3.0, "quartiles": [2.0, 4.0]}]
    whole = slow | {"layer": "whole network", "ratio": 1.5, "quartiles": [1.4, 1.6]}
    row = {"layers": [*layers, whole], "load": 0.5, "cores": 2}
    said = markdown({"seed": 1, "versions": {}, "rows": {"resnet18/host": row}})
    # Two layers, of which one is slower, then the network; and each layer by itself.
    assert "| resnet18 | 2 | 1 | 0.5 | 1.8 | 3.0 | 2.0 | 1.0 | 1.5 |" in said and "0.4 to 0.6" in said
