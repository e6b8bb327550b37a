"""Large buffers of kernels become arguments; those of threads and those on the stack stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from relax_models import const, module
from tvm import relax
from tvm.script.ir_builder import tirx as T

from relay_passes.compile import compile_module
from relay_passes.forms import call_kernel
from relay_passes.memory import MemoryPlan
from relay_passes.workspaces import lift_workspaces
from schedules.float_block import frame

SIZE = 512


def kernel() -> Any:
    """``out = factor x + x`` by way of four buffers."""

    def body(x: Any, factor: Any, out: Any) -> None:
        first = T.alloc_buffer((SIZE,), "float32")
        with T.serial(0, SIZE) as i:
            T.buffer_store(first, x[0, i] * factor[0], [i])
        with T.serial(0, 2) as half:
            second, small = T.alloc_buffer((SIZE // 2,), "float32"), T.alloc_buffer((4,), "float32")
            with T.serial(0, SIZE // 2) as i:
                T.buffer_store(second, first[half * (SIZE // 2) + i], [i])
                T.buffer_store(small, second[i], [0])
                T.buffer_store(first, small[0], [half * (SIZE // 2) + i])
        with T.parallel(0, 2) as half:
            third = T.alloc_buffer((SIZE,), "float32")
            with T.serial(0, SIZE // 2) as i:
                T.buffer_store(third, first[half * (SIZE // 2) + i], [i])
                T.buffer_store(out, third[i] + x[0, half * (SIZE // 2) + i], [0, half * (SIZE // 2) + i])

    return frame([("x", (1, SIZE)), ("factor", (1,)), ("out", (1, SIZE))], body)


def network(emit: Any, x: Any) -> Any:
    """The kernel twice."""
    return emit(relax.op.negative(x), "unused")


def test_what_is_planned_and_what_is_left() -> None:
    """Two of four are planned, and used again by the second call; results are as before."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([1, SIZE], "float32"))

    class _Scope:
        """What `call_kernel` writes to."""

        def __init__(self) -> None:
            self.builder = builder

        def emit(self, value: Any, name: str) -> Any:
            return builder.emit(value, name)

    with builder.function("main", [x]):
        with builder.dataflow():
            once = call_kernel(_Scope(), kernel(), "triple", [x, const([2])], (1, SIZE), "float32", "once")
            twice = call_kernel(_Scope(), kernel(), "triple", [once, const([2])], (1, SIZE), "float32", "twice")
            result = builder.emit_output(twice)
        builder.emit_func_output(result)
    plans: list[MemoryPlan] = []
    mod = builder.get()
    for _ in range(2):  # the module given stays as it is
        executable = compile_module(mod, tvm.target.Target("llvm"), planned=plans.append)
    assert plans[0] == plans[1]
    given = np.random.default_rng(0).normal(size=(1, SIZE)).astype(np.float32)
    got = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(given)).numpy()
    want = given * np.float32(2) + given
    np.testing.assert_array_equal(got, want * np.float32(2) + want)
    whole, half = 4 * SIZE, 2 * SIZE
    assert plans[0].workspaces == plans[0].each_thread == whole, "the third"
    # The result; what the first call gives; the first two buffers, whose place both calls use.
    assert plans[0].activations == whole + whole + whole + half


def test_modules_without_large_buffers_stay() -> None:
    """Nothing is renamed."""
    mod = module(network, (1, 4))
    assert lift_workspaces(mod).same_as(mod)
