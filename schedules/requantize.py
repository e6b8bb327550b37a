"""Threshold counting on its own, for accumulators that no low-bit kernel made (pooling sums, residual codes)."""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from schedules.counting import count_reached, declare_tables
from schedules.dot_problem import Thresholds
from schedules.intrinsics import const


def requantize_kernel(shape: tuple[int, ...], dtype: str, axis: int, spec: Thresholds, threshold_dtype: str) -> Any:
    """A PrimFunc of (accumulators, thresholds, flip, falls if any, side codes if any, out).

    All but the tables are of ``shape``.
    """
    with IRBuilder() as builder, T.prim_func():
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True, "op_pattern": 8, "tirx.is_scheduled": True})
        accumulators = T.arg("accumulators", T.buffer(shape, dtype))
        tables = declare_tables(spec, shape[axis], threshold_dtype)
        side = T.arg("side", T.buffer(shape, "uint8")) if spec.side_bits else None
        out = T.arg("out", T.buffer(shape, "uint8"))
        with T.grid(*shape) as index:
            at = list(index) if len(shape) > 1 else [index]
            row: Any = const(0) if side is None else side[tuple(at)].astype("int32")
            value = accumulators[tuple(at)].astype("int32")
            count_reached(spec, tables, value, row, at[axis], out, at)
    return builder.get()
