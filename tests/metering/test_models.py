"""Whole models metered under emulation: whose each step is, and that the steps are the whole."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest
from emulator import require
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import tvm_lowbit
from schedules.errors import LowbitError
from tvm_lowbit.metering import tools
from tvm_lowbit.metering.models import meter_model
from tvm_lowbit.metering.report import BenchReport

CHANNELS, SIZE = 16, 6
LAYERS = ("first", "second", "third")
MACS = CHANNELS * CHANNELS * 9 * SIZE * SIZE


def triplets() -> onnx.ModelProto:
    """Three 3x3 convolutions, then a mean. The first two differ only in their weights, and so share a kernel.

    The last writes its codes as the mean wants them.
    """
    random, stored, nodes, last = np.random.default_rng(0), [], [], "x"

    def quantised(source: str, name: str, low: int, high: int) -> str:
        for part, value in (("s", 0.5), ("lo", low), ("hi", high)):
            stored.append(numpy_helper.from_array(np.float32(value), f"{name}.{part}"))
        steps = (("Div", "s", "d"), ("Clip", "lo", "c"), ("Round", "", "r"), ("Mul", "s", "q"))
        for op, constant, result in steps:
            more = [f"{name}.lo", f"{name}.hi"] if op == "Clip" else [f"{name}.{constant}"] if constant else []
            nodes.append(helper.make_node(op, [source, *more], [f"{name}.{result}"]))
            source = f"{name}.{result}"
        return source

    for layer in LAYERS:
        values = random.integers(-2, 2, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32) * np.float32(0.5)
        stored.append(numpy_helper.from_array(values, f"{layer}.w"))
        inputs = [quantised(last, f"{layer}.a", 0, 3), quantised(f"{layer}.w", f"{layer}.k", -2, 1)]
        nodes.append(helper.make_node("Conv", inputs, [f"{layer}.y"], name=layer, pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"{layer}.y"], [f"{layer}.z"]))
        last = f"{layer}.z"
    nodes.append(helper.make_node("GlobalAveragePool", [quantised(last, "end", 0, 3)], ["y"]))
    shapes = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CHANNELS, 1, 1]),
    ]
    graph = helper.make_graph(nodes, "triplets", shapes[:1], shapes[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def artifact():
    require(tools.missing())
    return tvm_lowbit.build(triplets(), "rpi4", technique="bit_serial")


@pytest.fixture(scope="module")
def result(artifact):
    return meter_model(artifact, caches=tools.find_plugin() is not None)


def test_layers_that_share_a_kernel_are_told_apart(result):
    low = [step for step in result.steps if step.bits]
    assert tuple(step.name for step in low) == LAYERS
    assert low[0].symbol == low[1].symbol != low[2].symbol
    assert all(step.macs == MACS and step.bits == "W2A2" for step in low)
    for step in low:
        assert step.technique == "bit_serial" and 0 < step.share < 1
        # 16 multiply-accumulates a cycle at W2A2 on Cortex-A72, were there nothing but them.
        assert step.limit == pytest.approx(MACS / 16)
        assert step.macs_per_cycle == pytest.approx(16 * step.share)


def test_steps_are_the_whole_call(result):
    total, steps = result.total, [step.estimate for step in result.steps]
    for name in ("cycles", "throughput", "instructions", "loaded", "stored"):
        assert getattr(total, name) == pytest.approx(sum(getattr(step, name) for step in steps))
    assert result.steps[-1].name == "outside of kernels" and steps[-1].cycles > 0
    assert sum(total.functions.values()) == pytest.approx(total.cycles)
    if total.traffic is not None:
        kernels = [step.estimate.traffic.lines for step in result.steps if step.symbol]
        # Each layer's input is the one before's output: the network touches fewer lines than its steps one by one.
        assert max(kernels) < total.traffic.lines < sum(kernels) + steps[-1].traffic.lines
        # Two ways to the same figure: what instructions are decoded to move, and the accesses that QEMU saw.
        for part in (total, *steps):
            assert (part.traffic.loaded, part.traffic.stored) == (part.loaded, part.stored)
    # Weights and the arrays between layers are on the heap.
    assert result.memory > 2 * CHANNELS * CHANNELS * 9 * 2 / 8 and result.library > 10_000


def test_two_runs_give_the_same(artifact, result):
    again = meter_model(artifact, caches=result.total.traffic is not None)
    assert again == result


def test_the_values_of_inputs_are_the_callers(artifact):
    shape = (1, CHANNELS, SIZE, SIZE)
    given = meter_model(artifact, {"x": np.zeros(shape, np.float32)}, caches=False)
    assert given.total.instructions > 0 and given.total.traffic is None
    for wrong in ({}, {"x": np.zeros(shape)}, {"x": np.zeros((1, 2), np.float32)}):
        with pytest.raises(LowbitError, match="input x"):
            meter_model(artifact, wrong)


def test_a_library_of_this_machine_is_refused():
    host = tvm_lowbit.build(triplets(), "host")
    if host.is_host and not host.manifest.mtriple.startswith("aarch64"):
        with pytest.raises(LowbitError, match="a library for aarch64"):
            meter_model(host)


def test_report_says_that_it_is_an_estimate(result, tmp_path):
    report = BenchReport("triplets", "rpi4", 1.8e9, result)
    figures, picture = report.write(tmp_path / "bench")
    written = json.loads(figures.read_text())
    assert written["label"] == "estimate" and "no board was measured" in written["how"]
    assert written["estimated_cycles"] == result.total.cycles
    assert written["estimated_milliseconds"] == pytest.approx(result.total.cycles / 1.8e6)
    assert [step["layer"] for step in written["steps"]] == [step.name for step in result.steps]
    with Image.open(picture) as image:
        assert image.width > 500 and len(image.getcolors(1 << 20)) > 10
    if result.total.traffic is not None:
        misses = result.total.traffic.l1_misses
        assert written["estimated_cycles_with_misses"] == result.total.cycles + 16 * misses > result.total.cycles
        assert "estimate, weak" in report.summary() and "fitted" in report.summary()
    assert all("estimate" in line for line in report.summary().splitlines() if "cycles" in line)
    unknown = dataclasses.replace(report, clock=None)
    assert unknown.milliseconds is None and " ms " not in unknown.summary()


def test_planned_memory_is_what_the_heap_holds(artifact, result):
    """Beside weights, storages, work space and the input only the runtime's own structures."""
    plan = artifact.manifest.memory
    planned = plan.weights + plan.activations + plan.workspaces + 4 * CHANNELS * SIZE * SIZE
    assert 0.98 * planned < result.memory < planned + (64 << 10)
