"""``LiftWorkspaces``: the work space of kernels is planned with the tensors between them.

A kernel's large buffers would come from a pool of the runtime, beside all that tensors hold; as tensors that are needed
during its call alone they lie where others are not needed at that time.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, tirx
from tvm.s_tir import SBlock, SBlockRealize

from relay_passes.memory import buffer_bytes


def lift_workspaces(mod: Any) -> Any:
    """Apply the pass.

    Parameters
    ----------
    mod : IRModule
        Kernels are called with the tensors that they write (after ``CallTIRRewrite``). Buffers that are too large for
        the stack become arguments, unless each thread has its own.
    """
    lifted: dict[Any, tuple[Any, list[Any]]] = {}
    functions = {}
    for gv, function in mod.functions.items():
        body, buffers = _without(function.body) if isinstance(function, tirx.PrimFunc) else (None, [])
        if buffers:
            lifted[gv] = _variable(gv, buffers), buffers
            further = tirx.PrimFunc([*function.params, *buffers], body, function.ret_type, function.attrs)
            functions[lifted[gv][0]] = further
        else:
            functions[gv] = function
    if not lifted:
        return mod
    for gv, function in functions.items():
        if isinstance(function, relax.Function):
            functions[gv] = _calling(function, lifted)
    return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def _variable(gv: Any, buffers: list[Any]) -> Any:
    """A variable of the same name for a kernel with further arguments."""
    found = tvm.ir.GlobalVar(gv.name_hint)
    params = [*gv.ty.params, *map(_type, buffers)]
    relax.expr._update_type(found, relax.FuncType(params, gv.ty.ret, purity=gv.ty.purity))
    return found


def _type(buffer: Any) -> Any:
    return relax.TensorType([int(extent) for extent in buffer.shape], str(buffer.dtype))


def _without(body: Any) -> tuple[Any, list[Any]]:
    """A body without its large buffers, and these."""
    kind = type(body).__name__
    if kind == "SeqStmt":
        kept, found = [], []
        for statement in body.seq:
            if type(statement).__name__ == "AllocBuffer" and buffer_bytes(statement.buffer):
                found.append(statement.buffer)
            else:
                inner, buffers = _without(statement)
                kept.append(inner)
                found += buffers
        return (tirx.SeqStmt(kept) if len(kept) > 1 else kept[0]), found
    if kind == "For" and int(body.kind) == tirx.ForKind.SERIAL:
        inner, found = _without(body.body)
        loop = (body.loop_var, body.min, body.extent, body.kind, inner, body.thread_binding, body.annotations)
        return (tirx.For(*loop) if found else body), found
    if kind == "SBlockRealize":
        block = body.block
        found = [buffer for buffer in block.alloc_buffers if buffer_bytes(buffer)]
        small = [buffer for buffer in block.alloc_buffers if not buffer_bytes(buffer)]
        places = (block.iter_vars, block.reads, block.writes, block.name_hint, block.body, block.init)
        root = SBlock(*places, small, block.match_buffers, block.annotations)
        return (SBlockRealize(body.iter_values, body.predicate, root) if found else body), found
    return body, []


def _calling(function: Any, lifted: dict[Any, tuple[Any, list[Any]]]) -> Any:
    blocks = []
    for block in function.body.blocks:
        written: list[Any] = []
        for binding in block.bindings:
            call = binding.value
            if not isinstance(call, tvm.ir.Call) or call.op not in lifted:
                written.append(binding)
                continue
            kernel, buffers = lifted[call.op]
            spaces = [relax.Var("workspace", _type(buffer)) for buffer in buffers]
            for space in spaces:
                made = relax.op.builtin.alloc_tensor(space.ty.shape, str(space.ty.dtype), 0)
                written.append(relax.VarBinding(space, made))
            wider = tvm.ir.Call(kernel, [*call.args, *spaces], call.attrs, call.ty_args, ret_ty=call.ty)
            written.append(relax.VarBinding(binding.var, wider))
        blocks.append(type(block)(written))
    body = relax.SeqExpr(blocks, function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs, function.span)
