"""``FusePrologues``: what computes a kernel's operand element by element is computed where the kernel reads it.

A reverse convolution copies multipliers into padded planes. What it reads, the carried multiplier times a secant or a
derivative, has no other reader most of the time: it is computed as that copy is made, in vectors along rows, and never
stored. So it is for every kernel that marks its reads (`schedules.reads`), forward convolutions behind a ReLU included.
What several read, as at the joins of branches, stays stored: each of them would compute it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.tirx import BufferStore, For, ForKind

from relay_passes.dataflow import variables
from relay_passes.inline_chains import as_loops, moves, scalar
from relay_passes.ops import op_name
from schedules.reads import FIRST, READS

CALL = "relax.call_tir"


def fuse_prologues(mod: Any, lanes: int) -> Any:
    """Apply the pass.

    Parameters
    ----------
    mod : IRModule
        After fusion, before `inline_chains`: kernels are called by ``call_tir``.
    lanes : int
        Values of float32 that a vector of the core holds.

    Returns
    -------
    IRModule
        Functions whose calls all went into kernels are gone.
    """
    kernels = _Kernels(mod, lanes)
    for gv, function in list(mod.functions.items()):
        if isinstance(function, relax.Function):
            mod.update_func(gv, _rewritten(function, kernels))
    called = {call.args[0] for call in _calls(mod)}
    kept = {gv: f for gv, f in mod.functions.items() if gv in called or gv not in kernels.replaced}
    made = {gv: f for gv, f in kernels.made.items() if gv in called}
    return tvm.IRModule({**kept, **made}, attrs=mod.attrs, global_infos=mod.global_infos)


def _calls(mod: Any) -> list[Any]:
    functions = [f for f in mod.functions.values() if isinstance(f, relax.Function)]
    values = [b.value for f in functions for block in f.body.blocks for b in block.bindings]
    return [value for value in values if op_name(value) == CALL]


def _rewritten(function: Any, kernels: _Kernels) -> Any:
    """A Relax function whose calls have their operands' calls in them."""
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    readers = Counter(v for e in (*(b.value for b in bindings), function.body.body) for v in variables(e))
    blocks = []
    for block in function.body.blocks:
        calls = {b.var: b.value for b in block.bindings if op_name(b.value) == CALL and readers[b.var] == 1}
        merged: dict[Any, Any] = {}
        gone: set[Any] = set()
        for binding in block.bindings:
            if op_name(binding.value) == CALL:
                call, inside = kernels.reading(binding.value, calls)
                merged[binding.var] = call
                gone |= inside
        written = [
            relax.VarBinding(b.var, merged[b.var]) if b.var in merged else b
            for b in block.bindings
            if b.var not in gone
        ]
        blocks.append(type(block)(written))
    body = relax.SeqExpr(blocks, function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs, function.span)


@dataclass(frozen=True)
class _Formula:
    """An elementwise function: ``value`` at ``places`` of its result, from ``operands``; whether it makes vectors."""

    operands: tuple[Any, ...]
    places: tuple[Any, ...]
    value: Any
    vectors: bool

    def at(self, indices: Sequence[Any]) -> Any:
        """The value elsewhere."""
        found = [tirx.Cast(str(p.ty.dtype), i) for p, i in zip(self.places, indices, strict=True)]
        return _with(self.value, dict(zip(self.places, found, strict=True)))


class _Kernels:
    """The functions of a module, and what is made of them."""

    def __init__(self, mod: Any, lanes: int) -> None:
        self.mod, self.lanes = mod, lanes
        self.made: dict[Any, Any] = {}
        self.replaced: set[Any] = set()
        self.known: dict[Any, Any] = {}

    def reading(self, call: Any, producers: Mapping[Any, Any]) -> tuple[Any, set[Any]]:
        """A call that computes what it can of its operands itself, and which these are."""
        kernel, given, *rest = call.args
        operands = list(given.fields) if isinstance(given, relax.Tuple) else [given]
        formulas = {
            i: (operand, producers[operand])
            for i, operand in enumerate(operands)
            if i in self._readable(kernel) and operand in producers and self._formula(producers[operand].args[0])
        }
        if not formulas:
            return call, set()
        wider = self._kernel(kernel, {i: producer.args[0] for i, (_, producer) in formulas.items()})
        fields = [
            field
            for i, operand in enumerate(operands)
            for field in (formulas[i][1].args[1].fields if i in formulas else [operand])
        ]
        found = tvm.ir.Call(call.op, [wider, relax.Tuple(fields), *rest], call.attrs, call.ty_args, ret_ty=call.ty)
        return found, {operand for operand, _ in formulas.values()}

    def _readable(self, kernel: Any) -> frozenset[int]:
        """Which operands a kernel may compute as it reads them."""
        if kernel not in self.known:
            function = self.mod[kernel]
            self.known[kernel] = frozenset(_readable(function)) if isinstance(function, tirx.PrimFunc) else frozenset()
        return self.known[kernel]

    def _formula(self, producer: Any) -> _Formula | None:
        key = ("formula", producer)
        if key not in self.known:
            self.known[key] = _formula(self.mod[producer])
        return self.known[key]

    def _kernel(self, kernel: Any, producers: Mapping[int, Any]) -> Any:
        """A kernel with its operands' functions in it; one for all calls that have the same."""
        key = (kernel, *producers.items())
        if key not in self.known:
            found = ((i, self._formula(gv)) for i, gv in producers.items())
            formulas = {i: formula for i, formula in found if formula is not None}
            function = with_prologues(self.mod[kernel], formulas, self.lanes)
            names = {gv.name_hint for gv in (*self.mod.functions, *self.made)}
            stem = f"{kernel.name_hint}_prologue"
            name = next(n for n in (f"{stem}{i or ''}" for i in range(len(names) + 1)) if n not in names)
            made = tvm.ir.GlobalVar(name)
            params = [relax.TensorType([int(e) for e in p.shape], str(p.dtype)) for p in function.params]
            relax.expr._update_type(made, relax.FuncType(params, kernel.ty.ret, purity=kernel.ty.purity))
            self.made[made] = function
            self.replaced |= {kernel, *producers.values()}
            self.known[key] = made
        return self.known[key]


def with_prologues(kernel: Any, formulas: Mapping[int, _Formula], lanes: int) -> Any:
    """A PrimFunc that computes some of its operands where it reads them.

    Parameters
    ----------
    kernel : PrimFunc
        Its reads of these operands are marked.
    formulas : mapping
        By position; what they are computed from takes the operand's place among the parameters.
    lanes : int
        Values of float32 in a vector.
    """
    body, params = kernel.body, []
    first = [int(i) for i in (kernel.attrs or {}).get(FIRST, ())]
    for i, param in enumerate(kernel.params):
        if i not in formulas:
            params.append(param)
            continue
        own = [tirx.Var(b.name, b.ty) for b in formulas[i].operands]
        found = formulas[i]
        value = _with(found.value, dict(zip(found.operands, own, strict=True)))
        if i in first:
            body = _copied_first(param, body)
        body = _computed(body, param, _Formula(tuple(own), found.places, value, found.vectors), lanes)
        params += own
    return tirx.PrimFunc(params, body, kernel.ret_type, kernel.attrs)


def _readable(kernel: Any) -> list[int]:
    loops: list[Any] = []
    tvm_ffi.structural_walk(kernel.body, (For, loops.append))
    read = [loop.body.value.source for loop in loops if READS in loop.annotations]
    first = [int(i) for i in (kernel.attrs or {}).get(FIRST, ())]
    return [*first, *(i for i, param in enumerate(kernel.params) if any(param.same_as(source) for source in read))]


def _formula(function: Any) -> _Formula | None:
    """What a function computes of each element; None if it is no single loop, or only moves elements.

    A reshape is no kernel at all; other moves take longer row by row, as what they read is apart.
    """
    found = as_loops(function)
    if found is None or len(found[1]) != 1:
        return None
    sch, (block,) = found
    statement = sch.get(block)
    *operands, result = sch.mod["main"].params
    store, places = statement.body, [iv.var for iv in statement.iter_vars]
    if not isinstance(store, BufferStore) or moves(store) or not store.buffer.same_as(result):
        return None
    if not all(i.same_as(p) for i, p in zip(store.indices, places, strict=True)):
        return None
    return _Formula(tuple(operands), tuple(places), store.value, not scalar(store))


def _copied_first(operand: Any, body: Any) -> Any:
    """A body that reads an operand from a scratch buffer, behind marked loops that copy it there."""
    scratch = tirx.decl_buffer(operand.shape, str(operand.dtype), "first")
    places = [tirx.Var(f"i{axis}", "int32") for axis in range(len(operand.shape))]
    copy: Any = BufferStore(scratch, tirx.BufferLoad(operand, places), places)
    for axis, place in reversed(list(enumerate(places))):
        marks = {READS: True} if axis == len(places) - 1 else {}
        extent = int(operand.shape[axis])
        copy = For(place, tirx.const(0, "int32"), tirx.const(extent, "int32"), ForKind.SERIAL, copy, annotations=marks)
    return tirx.SeqStmt([tirx.AllocBuffer(scratch), copy, _with(body, {operand: scratch})])


def _computed(body: Any, operand: Any, formula: _Formula, lanes: int) -> Any:
    """A body whose marked reads of an operand compute it."""

    def row(loop: Any) -> Any:
        if READS not in loop.annotations or not loop.body.value.source.same_as(operand):
            return loop
        store = loop.body
        value = BufferStore(store.buffer, formula.at(store.value.indices), store.indices)
        return _vectors(value, loop.loop_var, int(loop.extent), lanes if formula.vectors else 1)

    return tvm_ffi.structural_map(body, (For, row))


def _vectors(store: Any, index: Any, extent: int, lanes: int) -> Any:
    """A loop in vectors; the last one ends with the row, and computes again what the one before it did of that."""
    while lanes > extent:
        lanes //= 2
    whole = extent // lanes

    def piece(start: Any) -> Any:
        lane = tirx.Var("lane", "int32")
        body = _with(store, {index: start + lane})
        return For(lane, tirx.const(0, "int32"), tirx.const(lanes, "int32"), ForKind.VECTORIZED, body)

    step = tirx.Var("step", "int32")
    many = For(step, tirx.const(0, "int32"), tirx.const(whole, "int32"), ForKind.SERIAL, piece(step * lanes))
    return tirx.SeqStmt([many, piece(tirx.const(extent - lanes, "int32"))]) if extent % lanes else many


def _with(node: Any, others: Mapping[Any, Any]) -> Any:
    """An expression or statement with other variables in the place of some."""
    return tvm_ffi.structural_map(node, (tirx.Var, lambda var: others.get(var, var)))
