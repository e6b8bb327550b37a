"""``MemoryPlan``: what a compiled program holds, read from the plan that TVM made of it at compile time.

Every tensor between kernels has a place in a storage whose size is a constant (`storage`), and so has the work space of
kernels (`workspaces`), but for what each thread has of its own, which comes from a pool of the runtime, and for small
buffers, which are on the stack. The program allocates and frees storages at fixed points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import relax

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
        The largest work space of a kernel on one thread that is in no storage; an upper bound, as buffers may come to
        share memory.
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
    constants: dict[tuple[str, tuple[int, ...], bytes], int] = {}
    for function in mod.functions.values():
        for value in _values(function):
            for array in _arrays(value):
                constants[str(array.dtype), array.shape, array.tobytes()] = array.nbytes
    pool = _Pool()
    _run(mod, mod["main"], {gv: one for gv, (one, _) in spaces.items()}, pool)
    return MemoryPlan(sum(constants.values()), pool.taken, *_larger(list(spaces.values())), pool.peak)


class _Pool:
    """The runtime's pool while a program runs: what was freed is given again to whoever asks for as much."""

    def __init__(self) -> None:
        self.free: Counter[int] = Counter()
        self.live: dict[int, int] = {}
        self.taken = self.peak = self.used = 0

    def take(self, size: int) -> int:
        """A storage; its number."""
        if self.free[size]:
            self.free[size] -= 1
        else:
            self.taken += size
        number = max(self.live, default=-1) + 1
        self.live[number] = size
        self.used += size
        self.seen(0)
        return number

    def give(self, number: int) -> None:
        """It is free again."""
        size = self.live.pop(number)
        self.free[size] += 1
        self.used -= size

    def seen(self, workspace: int) -> None:
        """A kernel runs."""
        self.peak = max(self.peak, self.used + workspace)


def _run(mod: Any, function: Any, spaces: Mapping[Any, int], pool: _Pool) -> list[frozenset[int]]:
    """Follow a call of a function; for each of its results, the storages that it lies in.

    A storage is free when nothing names it any more: neither itself, nor a tensor in it, nor a tuple of such.
    """
    held: dict[Any, list[frozenset[int]]] = {}
    mine: set[int] = set()

    def of(expr: Any) -> list[frozenset[int]]:
        if isinstance(expr, relax.Tuple):
            return [frozenset().union(*of(field)) for field in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            fields = of(expr.tuple_value)
            return [fields[expr.index]] if fields else []
        return held.get(expr, [])

    def sweep() -> None:
        kept = frozenset().union(*(number for places in held.values() for number in places))
        for number in mine - kept:
            pool.give(number)
            mine.remove(number)

    for var, value in _bindings(function):
        operator = op_name(value)
        if operator == "relax.memory.alloc_storage":
            number = pool.take(prod(int(extent) for extent in value.args[0].values))
            mine.add(number)
            held[var] = [frozenset([number])]
        elif operator == "relax.memory.alloc_tensor":
            held[var] = of(value.args[0])
        elif operator in _KILLS:
            held.pop(value.args[0], None)
            sweep()
        elif isinstance(value, tvm.ir.Call) and isinstance(mod.functions.get(value.op), relax.Function):
            held[var] = _run(mod, mod[value.op], spaces, pool)
            mine.update(number for places in held[var] for number in places)
        elif isinstance(value, tvm.ir.Call) and value.op in spaces:
            pool.seen(spaces[value.op])
        elif isinstance(value, tvm.ir.Call) and isinstance(var.ty, relax.TensorType):
            # A reshape, or another pointer to the same: where its operand is.
            held[var] = [frozenset().union(*(places for a in value.args for places in of(a)))]
        elif not isinstance(value, tvm.ir.Call):
            held[var] = of(value)
    results = of(function.body.body)
    held.clear()
    held[None] = results
    sweep()
    return results


_KILLS = frozenset({"relax.memory.kill_storage", "relax.memory.kill_tensor", "relax.vm.kill_object"})


def _bindings(function: Any) -> list[tuple[Any, Any]]:
    return [(b.var, b.value) for block in function.body.blocks for b in block.bindings]


def _values(function: Any) -> list[Any]:
    """What a function of the program calls."""
    if not isinstance(function, relax.Function):
        return []
    return [value for _, value in _bindings(function) if isinstance(value, tvm.ir.Call)]


def _arrays(call: Any) -> list[Any]:
    """The constant tensors among a call's arguments; types and texts are constants, too."""
    values = [argument.value for argument in call.args if isinstance(argument, tvm.ir.GenericConst)]
    return [np.ascontiguousarray(value.numpy()) for value in values if hasattr(value, "numpy")]


def _workspace(statement: Any) -> tuple[int, int]:
    """Bytes of work space at most: on one thread, and what each further thread adds in parallel loops."""
    kind = type(statement).__name__
    if kind == "SeqStmt":
        allocated = [buffer_bytes(part.buffer) for part in statement.seq if type(part).__name__ == "AllocBuffer"]
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
        return one + sum(buffer_bytes(buffer) for buffer in statement.alloc_buffers), further
    return _workspace(statement.body) if hasattr(statement, "body") else (0, 0)


def _larger(spaces: list[tuple[int, int]]) -> tuple[int, int]:
    return max((one for one, _ in spaces), default=0), max((further for _, further in spaces), default=0)


def buffer_bytes(buffer: Any) -> int:
    """Bytes of a kernel's buffer that a pool of the runtime would give; 0 for what is on the stack."""
    size = prod(int(extent) for extent in buffer.shape) * np.dtype(str(buffer.dtype)).itemsize
    return int(size) if size >= STACK_BYTES else 0
