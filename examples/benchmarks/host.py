"""``pair_layers``: each low-bit layer of a network timed on this machine against plain TVM's fp32 kernel of it.

Both networks are compiled for the same target and run once; the calls of their kernels are then repeated alone, on one
thread, in turns: ours, theirs, ours, theirs. Each turn gives one ratio, so what else the machine does falls on both.
A layer is its kernel with all that is fused into it, on either side; the last row is the whole network, with the
packing and quantising that lies between its layers.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import numpy_helper
from tvm import relax

import tvm_lowbit
from benchmarks.plain import compile_fused, fused_module
from schedules.cores import host_core
from tvm_lowbit.manifest import KernelRow
from tvm_lowbit.quiet import without_scope_warnings

PAIRS = 11
# A turn repeats its kernel for so many seconds, or for one call of the slower.
TURN = 0.02
NETWORK = "whole network"


@dataclass(frozen=True)
class Kernel:
    """A call of a kernel that can be repeated."""

    symbol: str
    function: Any
    arguments: tuple[Any, ...]

    def __call__(self) -> None:
        """Repeat it."""
        self.function(*self.arguments)


class Recorded:
    """A library that ran once, with each call of its kernels.

    Parameters
    ----------
    library : Path
        Compiled for this machine.
    inputs : array
        What ``main`` takes.
    """

    def __init__(self, library: Path, inputs: Any) -> None:
        with without_scope_warnings():
            self.machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
        self.inputs = tvm.runtime.tensor(inputs)
        self.calls: list[Kernel] = []
        self.machine.set_instrument(self._note)
        self.machine["main"](self.inputs)
        with without_scope_warnings():
            fresh = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
        self.main = fresh["main"]

    def _note(self, function: Any, symbol: str, before: bool, result: Any, *arguments: Any) -> int:
        if before:
            self.calls.append(Kernel(str(symbol), function, arguments))
        return 0

    def __call__(self) -> None:
        """Run the whole network again."""
        self.main(self.inputs)


def pair_layers(quantised: Path, plain: Path, inputs: Any, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Time layers in pairs.

    Parameters
    ----------
    quantised, plain : Path
        The network with and without its quantisers, as ONNX files whose nodes have the same names.
    inputs : array
        One batch.
    tell : callable
        Told each layer.

    Returns
    -------
    list of dict
        For each layer: name, bits, technique, milliseconds of both, and the quartiles of theirs over ours.
    """
    os.environ["TVM_NUM_THREADS"] = "1"  # read when TVM starts its threads, at the first kernel that asks for some
    artifact = tvm_lowbit.build(quantised, "host")
    ours = Recorded(artifact.library(), inputs)
    with tempfile.TemporaryDirectory() as folder:
        library = compile_fused(fused_module(plain, host_core()), host_core(), Path(folder) / "plain.so")
        theirs = Recorded(library, inputs)
        theirs_by_layer = _by_weights(theirs.calls, onnx.load(plain))
        rows = []
        for row, call in _by_turn(ours.calls, artifact.manifest.kernels):
            tell(row.layer)
            names = {"layer": row.layer, "bits": row.bits, "technique": row.technique}
            rows.append(names | _ratio(call, theirs_by_layer[_plain_name(row.layer)]))
        tell(NETWORK)
        rows.append({"layer": NETWORK, "bits": "", "technique": ""} | _ratio(ours, theirs))
    return rows


def _plain_name(layer: str) -> str:
    """A layer's name without the operator at its end, which exporters choose (Gemm, MatMul)."""
    return layer.rpartition("/")[0]


def _by_turn(calls: Iterable[Kernel], rows: Iterable[KernelRow]) -> Iterable[tuple[KernelRow, Kernel]]:
    turns: dict[str, list[KernelRow]] = {}
    for row in rows:
        turns.setdefault(row.symbol, []).append(row)
    for call in calls:
        if turns.get(call.symbol):
            yield turns[call.symbol].pop(0), call


def _by_weights(calls: Iterable[Kernel], model: onnx.ModelProto) -> Mapping[str, Kernel]:
    """The call of each layer, which has the layer's weights among its arguments; its place would not tell."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = {
        _weights(stored[node.input[1]]): _plain_name(node.name)
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
    }
    found = {}
    for call in calls:
        for argument in call.arguments:
            if hasattr(argument, "numpy") and (name := layers.get(_weights(argument.numpy()))) is not None:
                found[name] = call
    return found


def _weights(array: Any) -> bytes:
    """Weights as bytes, the same when transposed."""
    return np.sort(array, axis=None).tobytes()


def _ratio(ours: Callable[[], None], theirs: Callable[[], None]) -> dict[str, Any]:
    for call in (ours, theirs):
        call()
    once = [_seconds(call, 1) for call in (ours, theirs)]
    # Both turns last as long, so that neither slips through between what else the machine does.
    counts = [max(1, round(max(TURN, *once) / seconds)) for seconds in once]
    times = np.array([[_seconds(ours, counts[0]), _seconds(theirs, counts[1])] for _ in range(PAIRS)])
    low, middle, high = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.5, 0.75))
    milliseconds = np.median(times, axis=0) * 1e3
    return {
        "ours_ms": float(milliseconds[0]),
        "theirs_ms": float(milliseconds[1]),
        "ratio": float(middle),
        "quartiles": [float(low), float(high)],
        "pairs": PAIRS,
    }


def _seconds(call: Callable[[], None], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count
