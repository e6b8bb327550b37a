"""``ShareColumns``: constants that repeat themselves over positions hold each column of channels once.

The reference run of an explanation is an image of few different pixels where its input is the same all over: those near
borders differ, the rest are alike. What an elementwise operator reads of it is then a table of the columns that differ,
and for each position the number of its column; fusion makes the lookup part of the kernel that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax, te

from relay_passes.ops import DIFFERENCE, call, constant, literal, op_name, register

COLUMNS = "tvm_lowbit.columns"
# What reads elements one by one.
_READERS = frozenset(
    {DIFFERENCE, *(f"relax.{name}" for name in ("add", "subtract", "multiply", "divide", "astype", "where", "equal"))}
)
# Constants below this size stay: the table of positions is not free.
SMALLEST = 8192


def _typed(call_: Any, ctx: Any) -> Any:
    table, numbers = (argument.ty for argument in call_.args)
    return relax.TensorType([1, table.shape[0], *numbers.shape], str(table.dtype))


def _legalize(bb: Any, call_: Any) -> Any:
    def compute(table: Any, numbers: Any) -> Any:
        def element(_: Any, channel: Any, *position: Any) -> Any:
            return table[channel, numbers[position].astype("int32")]

        return te.compute([1, table.shape[0], *numbers.shape], element, name="columns")

    # 2 is "injective": TVM takes every lookup for opaque, which would be a kernel of its own.
    return bb.call_te(compute, *call_.args, primfunc_name_hint="columns", primfunc_attrs={"op_pattern": 2})


register(COLUMNS, 2, _typed, _legalize)


def share_columns(mod: Any) -> Any:
    """Apply the pass.

    Parameters
    ----------
    mod : IRModule
        Before operators become kernels. Constants ``(1, C, ...)`` of which at least half are repetitions become
        ``columns(table (C, K), numbers (...))``, the same bit for bit.
    """
    for gv, function in list(mod.functions.items()):
        if isinstance(function, relax.Function):
            mod.update_func(gv, _shared(function))
    return mod


def _shared(function: Any) -> Any:
    blocks = []
    for block in function.body.blocks:
        written: list[Any] = []
        for binding in block.bindings:
            value = binding.value
            found = dict(_repeating(value)) if isinstance(binding, relax.VarBinding) else {}
            if not found:
                written.append(binding)
                continue
            args = list(value.args)
            for i, (table, numbers) in found.items():
                args[i] = _variable(block, value.args[i].ty)
                written.append(relax.VarBinding(args[i], _lookup(table, numbers, value.args[i].ty)))
            again = type(value)(value.op, args, value.attrs, value.ty_args, ret_ty=value.ty)
            written.append(relax.VarBinding(binding.var, again))
        blocks.append(type(block)(written))
    body = relax.SeqExpr(blocks, function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs, function.span)


def _variable(block: Any, ty: Any) -> Any:
    return (relax.DataflowVar if isinstance(block, relax.DataflowBlock) else relax.Var)("columns", ty)


def _lookup(table: Any, numbers: Any, ty: Any) -> Any:
    looked = call(COLUMNS, literal(table), literal(numbers))
    return type(looked)(looked.op, looked.args, looked.attrs, looked.ty_args, ret_ty=ty)


def _repeating(value: Any) -> Iterator[tuple[int, tuple[npt.NDArray[Any], npt.NDArray[Any]]]]:
    """The large constants among a call's arguments that repeat columns, as `columns_of` gives them."""
    if isinstance(value, tvm.ir.Call) and op_name(value) in _READERS:
        for i, argument in enumerate(value.args):
            array = constant(argument) if isinstance(argument.ty, relax.TensorType) else None
            if array is not None and array.nbytes >= SMALLEST and array.ndim > 2 and array.shape[0] == 1:
                table, numbers = columns_of(array)
                if 2 * table.nbytes <= array.nbytes:
                    yield i, (table, numbers)


def columns_of(array: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Different columns ``(C, K)`` of an array ``(1, C, ...)``, equal bit for bit or not, and the number of each."""
    columns = np.ascontiguousarray(array.reshape(array.shape[1], -1).T)
    bits = columns.view(f"u{array.dtype.itemsize}")
    _, first, numbers = np.unique(bits, axis=0, return_index=True, return_inverse=True)
    kind = np.uint8 if len(first) <= 256 else np.int32
    return np.ascontiguousarray(columns[first].T), numbers.reshape(array.shape[2:]).astype(kind)
