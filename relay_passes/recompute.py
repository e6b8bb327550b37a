"""``Recompute``: what is cheap to compute again from what is there anyway is not kept for those who read it much later.

An explanation reads, on its way back, values of the prediction: a convolution's result and what a ReLU made of it, or
codes that were kept packed. The ReLU, or the unpacking, becomes part of the kernel that reads it.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import relax

from relay_passes.dataflow import variables
from relay_passes.ops import op_name

# TVM's patterns up to this one compute each element from single elements of the operands.
INJECTIVE = 2
# How many kernels that are none of these lie at least between a value and who reads it much later.
FAR = 2
# How many operators are computed again at most, one behind another.
DEEPEST = 24


def recompute(mod: Any) -> Any:
    """Apply the pass.

    Parameters
    ----------
    mod : IRModule
        Before fusion, after ``AnnotateTIROpPattern``.
    """
    cheap = {
        gv
        for gv, f in mod.functions.items()
        if isinstance(f, tvm.tirx.PrimFunc) and int((f.attrs or {}).get("op_pattern", INJECTIVE + 1)) <= INJECTIVE
    }
    for gv, function in list(mod.functions.items()):
        if isinstance(function, relax.Function):
            blocks = [_Block(block, cheap, function.body.body).written() for block in function.body.blocks]
            body = relax.SeqExpr(blocks, function.body.body)
            parts = (function.ret_ty, function.is_pure, function.attrs, function.span)
            mod.update_func(gv, relax.Function(function.params, body, *parts))
    return mod


class _Block:
    """One block's bindings; times count the kernels before a binding that are not cheap."""

    def __init__(self, block: Any, cheap: set[Any], result: Any) -> None:
        self.block, self.values, self.cheap = block, {b.var: b.value for b in block.bindings}, cheap
        self.made: dict[Any, int] = {}
        self.last: dict[Any, int] = {}
        time = 0
        for binding in block.bindings:
            time += not self._cheap(binding.var)
            self.made[binding.var] = time
            self.last |= dict.fromkeys(variables(binding.value), time)
        self.last |= dict.fromkeys(variables(result), time + 1)
        self.bindings: list[Any] = []
        self.known: dict[Any, bool] = {}

    def written(self) -> Any:
        """The block anew."""
        for binding in self.block.bindings:
            now, value = self.made[binding.var], binding.value
            if op_name(value) == "relax.call_tir":
                far = dict.fromkeys(v for v in variables(value) if self._far(v, now) and self._can(v, now, DEEPEST))
                # What one reader reads twice is made once.
                done: dict[Any, Any] = {}
                value = self._reading(value, {v: self._again(v, now, DEEPEST, done) for v in far})
            self.bindings.append(binding if value is binding.value else relax.VarBinding(binding.var, value))
        return type(self.block)(self.bindings)

    def _cheap(self, var: Any) -> bool:
        value: Any = self.values.get(var)
        return op_name(value) == "relax.call_tir" and value.args[0] in self.cheap

    def _far(self, var: Any, now: int) -> bool:
        return var in self.made and now - self.made[var] >= FAR

    def _can(self, var: Any, now: int, depth: int) -> bool:
        """Whether all that a value is made from is there at a time, or takes much less room, or can be made again."""
        key = (var, now, depth)
        if key not in self.known:
            operands = variables(self.values[var]) if self._cheap(var) else []
            self.known[key] = bool(operands and depth) and all(
                self._can(v, now, depth - 1) or self._there(v, now) or 2 * _bytes(v) <= _bytes(var) for v in operands
            )
        return self.known[key]

    def _there(self, var: Any, now: int) -> bool:
        return var not in self.made or self.last[var] >= now

    def _again(self, var: Any, now: int, depth: int, done: dict[Any, Any]) -> Any:
        """Emit a value again."""
        if var in done:
            return done[var]
        operands = dict.fromkeys(v for v in variables(self.values[var]) if self._can(v, now, depth - 1))
        value = self._reading(self.values[var], {v: self._again(v, now, depth - 1, done) for v in operands})
        found = (relax.DataflowVar if isinstance(self.block, relax.DataflowBlock) else relax.Var)("again", var.ty)
        self.bindings.append(relax.VarBinding(found, value))
        done[var] = found
        return found

    def _reading(self, call: Any, others: dict[Any, Any]) -> Any:
        """A call with other variables in the place of some."""
        if not others:
            return call
        kernel, given, *rest = call.args
        fields = relax.Tuple([others.get(field, field) for field in given.fields])
        return tvm.ir.Call(call.op, [kernel, fields, *rest], call.attrs, call.ty_args, ret_ty=call.ty)


def _bytes(var: Any) -> int:
    if not isinstance(var.ty, relax.TensorType):
        return 0
    return int(prod(int(extent) for extent in var.ty.shape) * np.dtype(str(var.ty.dtype)).itemsize)
