"""``PlanStorage``: all tensors between kernels lie in one storage, those that are needed at the same time side by side.

TVM's plan shares whole storages, each as large as the largest tensor in it, which a small tensor may hold for the rest
of the program. Here every tensor gets an offset, those that are large or needed long first, each where it leaves the
least room unused among those that are needed while it is (Pisarchyk and Lee 2020, 2001.03288).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.dataflow import name_of, variables
from relay_passes.ops import op_name

ALLOCATED = "relax.builtin.alloc_tensor"
# Gives a tensor at an offset a pointer of its own, as kernels take none else: without a copy, from such offsets.
MOVED_POINTER, ALIGNMENT = "vm.builtin.ensure_zero_offset", 64


@dataclass(frozen=True)
class Tensor:
    """A tensor between kernels: its bytes, and the positions of the first and the last binding that need it."""

    var: Any
    size: int
    first: int
    last: int

    def meets(self, other: Tensor) -> bool:
        """Whether both are needed at the same time."""
        return self.first <= other.last and other.first <= self.last


def plan_storage(mod: Any) -> Any:
    """Apply the pass.

    Parameters
    ----------
    mod : IRModule
        Kernels are called with the tensors that they write (after ``CallTIRRewrite``). What a function returns gets a
        storage of its own; so does every tensor of a function with branches.
    """
    for gv, function in list(mod.functions.items()):
        if isinstance(function, relax.Function):
            mod.update_func(gv, _planned(function))
    return mod


def _planned(function: Any) -> Any:
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    if not all(isinstance(b, relax.VarBinding) and not isinstance(b.value, relax.If) for b in bindings):
        return function
    tensors = _tensors(bindings, function.body.body)
    places = offsets(tensors)
    storage = relax.Var("storage", relax.ObjectType())
    size = max((places[t.var] + t.size for t in tensors), default=0)
    written: list[Any] = []
    for binding in bindings:
        if binding.var not in places:
            written.append(binding)
            continue
        shape = relax.ShapeExpr([int(extent) for extent in binding.var.ty.shape])
        value = relax.op.memory.alloc_tensor(storage, places[binding.var], shape, str(binding.var.ty.dtype))
        if places[binding.var]:
            there = relax.Var(f"{name_of(binding.var)}_there", binding.var.ty)
            written.append(relax.VarBinding(there, value))
            value = relax.Call(relax.ExternFunc(MOVED_POINTER), [there], ty_args=[binding.var.ty])
        written.append(relax.VarBinding(binding.var, value))
    if places:
        alloc = relax.op.memory.alloc_storage(relax.ShapeExpr([size]), 0, "global", "uint8")
        written.insert(0, relax.VarBinding(storage, alloc))
    body = relax.SeqExpr([relax.BindingBlock(written)], function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs, function.span)


def _tensors(bindings: list[Any], result: Any) -> list[Tensor]:
    """The tensors that live inside a function only, in the order they are written."""
    # What a variable's value may lie in: itself if it was allocated, what it was made from otherwise (a reshape).
    within: dict[Any, frozenset[Any]] = {}
    first: dict[Any, int] = {}
    last: dict[Any, int] = {}
    for position, binding in enumerate(bindings):
        read: frozenset[Any] = frozenset().union(*(within.get(v, frozenset()) for v in variables(binding.value)))
        for var in read:
            last[var] = position
            first.setdefault(var, position)
        within[binding.var] = read
        if op_name(binding.value) == ALLOCATED:
            within[binding.var] = frozenset([binding.var])
    kept: frozenset[Any] = frozenset().union(*(within.get(v, frozenset()) for v in variables(result)))
    return [Tensor(v, _bytes(v.ty), start, last[v]) for v, start in first.items() if v not in kept]


def offsets(tensors: list[Tensor]) -> dict[Any, int]:
    """Where each begins, by variable."""
    # What is best differs from program to program; all are quick.
    orders: list[Callable[[Tensor], Any]] = [
        lambda t: (-t.size, t.first),
        lambda t: (-t.size * (t.last - t.first + 1), t.first),
        lambda t: (t.first - t.last, -t.size),
    ]
    found = [_placed(sorted(tensors, key=order)) for order in orders]
    return min(found, key=lambda places: max((places[t.var] + t.size for t in tensors), default=0))


def _placed(tensors: list[Tensor]) -> dict[Any, int]:
    """One after another, each where it leaves the least room unused."""
    placed: list[tuple[int, Tensor]] = []
    for tensor in tensors:
        taken = sorted((at, at + other.size) for at, other in placed if other.meets(tensor))
        end, best, room = 0, None, 0
        for low, high in taken:
            if low - end >= tensor.size and (best is None or low - end < room):
                best, room = end, low - end
            end = max(end, high)
        placed.append((end if best is None else best, tensor))
    return {tensor.var: at for at, tensor in placed}


def _bytes(ty: Any) -> int:
    size = prod(int(extent) for extent in ty.shape) * np.dtype(str(ty.dtype)).itemsize
    return max(1, -(-size // ALIGNMENT)) * ALIGNMENT
