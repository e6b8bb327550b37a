"""``MemoryPlan``: what a compiled program holds, read from the plan that TVM made of it at compile time.

TVM gives every tensor between kernels a place in a few storages whose sizes are constants (StaticPlanBlockMemory); the
program allocates and frees them at fixed points. Kernels take their larger buffers from a pool of the runtime, smaller
ones from the stack.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import tvm

from relay_passes.ops import op_name

# TVM's codegen leaves smaller buffers on the stack (kMaxStackAlloca).
STACK_BYTES = 1024


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes.

    Attributes
    ----------
    weights : int
        Constants: packed weights, corrections, thresholds.
    activations : int
        All storages together, which is what the runtime's pool keeps once a call has run.
    workspaces : int
        The largest work space of a kernel on one thread; an upper bound, as buffers may come to share memory.
    each_thread : int
        What every further thread adds to it at most.
    peak : int
        The largest sum, at any time of a call on one thread, of storages that are in use and the running kernel's work
        space; weights, inputs and results aside.
    """

    weights: int
    activations: int
    workspaces: int
    each_thread: int
    peak: int


def plan_of(mod: Any) -> MemoryPlan:
    """Read the plan of a module whose storages have been allocated and freed (after ``KillAfterLastUse``)."""
    spaces = {gv: _workspace(f.body) for gv, f in mod.functions.items() if isinstance(f, tvm.tirx.PrimFunc)}
    live: dict[Any, int] = {}
    constants: dict[tuple[str, tuple[int, ...], bytes], int] = {}
    total = peak = 0
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if op_name(value) == "relax.memory.alloc_storage":
                size = prod(int(extent) for extent in value.args[0].values)
                live[binding.var] = size
                total += size
                peak = max(peak, sum(live.values()))
            elif op_name(value) == "relax.memory.kill_storage":
                live.pop(value.args[0], None)
            elif isinstance(value, tvm.ir.Call):
                peak = max(peak, sum(live.values()) + spaces.get(value.op, (0, 0))[0])
                for array in _arrays(value):
                    constants[str(array.dtype), array.shape, array.tobytes()] = array.nbytes
    return MemoryPlan(sum(constants.values()), total, *_larger(list(spaces.values())), peak)


def _arrays(call: Any) -> list[Any]:
    """The constant tensors among a call's arguments; types and texts are constants, too."""
    values = [argument.value for argument in call.args if isinstance(argument, tvm.ir.GenericConst)]
    return [np.ascontiguousarray(value.numpy()) for value in values if hasattr(value, "numpy")]


def _workspace(statement: Any) -> tuple[int, int]:
    """Bytes of work space at most: on one thread, and what each further thread adds in parallel loops."""
    kind = type(statement).__name__
    if kind == "SeqStmt":
        allocated = [_heap(part.buffer) for part in statement.seq if type(part).__name__ == "AllocBuffer"]
        one, further = _larger([_workspace(part) for part in statement.seq])
        return sum(allocated) + one, further
    if kind == "For":
        one, further = _workspace(statement.body)
        return one, one if int(statement.kind) == tvm.tirx.ForKind.PARALLEL else further
    if kind == "IfThenElse":
        return _larger([_workspace(part) for part in (statement.then_case, statement.else_case) if part is not None])
    if kind == "SBlockRealize":
        return _workspace(statement.block)
    if kind == "SBlock":
        one, further = _workspace(statement.body)
        return one + sum(_heap(buffer) for buffer in statement.alloc_buffers), further
    return _workspace(statement.body) if hasattr(statement, "body") else (0, 0)


def _larger(spaces: list[tuple[int, int]]) -> tuple[int, int]:
    return max((one for one, _ in spaces), default=0), max((further for _, further in spaces), default=0)


def _heap(buffer: Any) -> int:
    """Bytes of a buffer that the runtime's pool gives; 0 for what is on the stack."""
    size = prod(int(extent) for extent in buffer.shape) * np.dtype(str(buffer.dtype)).itemsize
    return int(size) if size >= STACK_BYTES else 0
