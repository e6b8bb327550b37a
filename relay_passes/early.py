"""``CallEarly``: kernels that only make something smaller run as soon as they can, so that what they read may go.

Fusion leaves a kernel where its result is read first. One that carries the attribute `EARLY` runs right behind what
gives its operand instead.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from relay_passes.dataflow import variables
from relay_passes.ops import op_name

EARLY = "tvm_lowbit.early"


def call_early(mod: Any) -> Any:
    """Apply the pass.

    Parameters
    ----------
    mod : IRModule
        After fusion: kernels are called by ``call_tir``.
    """
    early = {gv for gv, f in mod.functions.items() if isinstance(f, tvm.tirx.PrimFunc) and f.attrs and EARLY in f.attrs}
    for gv, function in list(mod.functions.items()):
        if isinstance(function, relax.Function) and early:
            mod.update_func(gv, _ordered(function, early))
    return mod


def _ordered(function: Any, early: set[Any]) -> Any:
    blocks = []
    for block in function.body.blocks:
        order = {b.var: i for i, b in enumerate(block.bindings)}
        behind: dict[Any, list[Any]] = {}
        for binding in block.bindings:
            value = binding.value
            if op_name(value) == "relax.call_tir" and value.args[0] in early:
                # What other blocks give is there from the start.
                last = max((v for v in variables(value) if v in order), key=lambda v: order[v], default=None)
                behind.setdefault(last, []).append(binding)
        moved = {binding.var for bindings in behind.values() for binding in bindings}
        written: list[Any] = []
        waiting = [*reversed([b for b in block.bindings if b.var not in moved]), *reversed(behind.get(None, []))]
        while waiting:
            written.append(waiting.pop())
            waiting += reversed(behind.get(written[-1].var, []))
        blocks.append(type(block)(written))
    body = relax.SeqExpr(blocks, function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs, function.span)
