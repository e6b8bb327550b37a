"""The memory plan against what a run allocates."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from relax_models import const, module, quantised, spec
from tvm import relax
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from relay_passes.compile import compile_module
from relay_passes.lower import lower_lowbit
from relay_passes.memory import MemoryPlan, plan_of
from relay_passes.ops import fake_quant
from relay_passes.rewrite import rewrite_lowbit
from schedules.cores import host_core

SHAPE = (1, 16, 12, 12)
WEIGHTS = np.random.default_rng(0).normal(size=(16, 16, 3, 3)).astype(np.float32)


def network(emit: Any, x: Any) -> Any:
    """Three convolutions with a residual: storages are used again."""
    q = quantised(emit, x, "q0")
    for i in range(3):
        w = emit(fake_quant(const(WEIGHTS + 0.1 * i), spec(0.5, -2, 1)), f"w{i}")
        conv = emit(relax.op.nn.conv2d(q, w, padding=1), f"conv{i}")
        q = quantised(emit, emit(relax.op.add(conv, q), f"add{i}"), f"q{i + 1}", scale=2.0)
    return emit(relax.op.negative(q), "end")


def test_storages_are_those_that_a_run_allocates() -> None:
    """Every allocation of a call is seen by the virtual machine's instrument; sizes and their sum are the plan's."""
    lowered = lower_lowbit(rewrite_lowbit(module(network, SHAPE)), host_core())
    plans: list[MemoryPlan] = []
    executable = compile_module(lowered, tvm.target.Target("llvm"), planned=plans.append)
    (plan,) = plans
    machine, sizes, before = relax.VirtualMachine(executable, tvm.cpu()), [], []

    def look(_function: Any, name: str, first: bool, _result: Any, *arguments: Any) -> int:
        if first:
            before.append(name)
            if name == "vm.builtin.alloc_storage":
                sizes.append(int(np.prod([int(d) for d in arguments[1]])))
        return int(relax.VMInstrumentReturnKind.NO_OP)

    machine.set_instrument(look)
    machine["main"](tvm.runtime.tensor(np.zeros(SHAPE, np.float32)))
    assert sum(name.startswith(("bit_serial", "smlal", "winograd", "portable")) for name in before) == 3
    assert sum(sizes) == plan.activations
    codes = int(np.prod(SHAPE))
    alone = plan_of(lowered)
    assert (plan.workspaces, alone.activations) == (0, 0), "work space is planned with the tensors"
    assert 2 * codes <= plan.activations < 10 * codes + alone.workspaces, "three layers share storages"
    assert plan.peak == plan.activations
    assert plan.weights >= 3 * WEIGHTS.size // 4, "2 bits a weight"


def test_work_space_is_what_lives_at_once() -> None:
    """Buffers of loops that follow each other share it; small ones are on the stack; threads have their own."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("main")
        out = T.arg("out", T.buffer((8,), "uint8"))

        def use(size: int) -> None:
            T.buffer_store(T.alloc_buffer((size,), "uint8"), out[0], [0])

        whole = T.alloc_buffer((1000,), "int32")
        with T.serial(0, 4) as i:
            use(3000)
            T.buffer_store(whole, 1, [i])
        with T.serial(0, 4):
            use(2000)
            use(1023)
        with T.parallel(0, 4), T.serial(0, 2):
            use(5000)
            use(1024)
    mod = tvm.IRModule(
        {"kernel": builder.get(), "main": module(lambda emit, x: emit(relax.op.negative(x)), (1, 2))["main"]}
    )
    plan = plan_of(mod)
    assert plan.workspaces == 4000 + max(3000, 5000 + 1024) == 4000 + 6024
    assert plan.each_thread == 6024
