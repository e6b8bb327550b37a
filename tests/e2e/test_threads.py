"""Kernels are split over the runtime's threads, and results do not depend on how many there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvm_lowbit
from schedules.techniques.base import PARALLEL_MACS

SIDE = 28
SHAPE = (1, 32, SIDE, SIDE)
RUN = """
import os, sys
import numpy as np
import tvm_lowbit
module = tvm_lowbit.load(sys.argv[1])
outputs = module.run(np.load(sys.argv[2])).outputs
np.save(sys.argv[3], outputs["y"])
print(len(os.listdir("/proc/self/task")))
"""


def model(side: int = SIDE) -> onnx.ModelProto:
    """A quantiser and a 3x3 convolution of 2 bits, large enough to be split."""
    random = np.random.default_rng(0)
    weights = random.integers(-2, 2, (32, 32, 3, 3)).astype(np.float32)
    constants = {"scale": np.float32(0.25), "low": np.float32(0), "high": np.float32(3), "w": weights}
    nodes = [
        helper.make_node("Div", ["x", "scale"], ["divided"]),
        helper.make_node("Clip", ["divided", "low", "high"], ["clipped"]),
        helper.make_node("Round", ["clipped"], ["rounded"]),
        helper.make_node("Mul", ["rounded", "scale"], ["q"]),
        helper.make_node("Conv", ["q", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "threads",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 32, side, side))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 32, side, side))],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_one_two_and_four_threads_agree(tmp_path: Path) -> None:
    """In processes of their own, as the runtime's pool is made once; four threads are really there."""
    artifact = tvm_lowbit.build(model(), "host")
    (kernel,) = artifact.manifest.kernels
    assert kernel.macs >= PARALLEL_MACS
    assert kernel.parallel
    assert "threads: 1 of 1 low-bit kernels" in str(artifact.report)
    bundle, inputs = artifact.save(tmp_path / "bundle"), tmp_path / "x.npy"
    np.save(inputs, np.random.default_rng(1).random(SHAPE, np.float32))
    results, tasks = [], []
    for threads in (1, 2, 4):
        # BLAS would start threads of its own.
        environment = os.environ | {
            "TVM_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        path = tmp_path / f"y{threads}.npy"
        command = [sys.executable, "-c", RUN, str(bundle), str(inputs), str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        results.append(np.load(path))
        tasks.append(int(done.stdout))
    assert len(np.unique(results[0])) > 10
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    assert [count - tasks[0] for count in tasks] == [0, 1, 3]


@pytest.mark.parametrize("target", ["arm_cpu", "rpi3", "rpi4", "rpi5"])
def test_deployed_libraries_ask_for_the_pool(target: str) -> None:
    """The library calls the runtime's parallel launch; one without a large layer does not."""
    artifact, small = tvm_lowbit.build(model(), target), tvm_lowbit.build(model(side=4), target)
    for library, split in ((artifact, True), (small, False)):
        assert library.manifest.kernels[0].parallel == split
        assert (b"TVMBackendParallelLaunch" in library.library().read_bytes()) == split
