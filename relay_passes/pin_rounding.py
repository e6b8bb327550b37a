"""``PinRounding``: elementwise float kernels round every product, on every machine alike.

LLVM fuses ``a * b + c`` into one rounding where the core has FMA (AArch64) and not where it lacks it (plain x86-64), so
a float that feeds a quantiser, or an explanation's difference to a folded reference run, could differ in its last bit
between the host and a board. A fence around every product forbids that. Kernels with reductions keep their FMAs.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import s_tir, tirx

from schedules.intrinsics import arithmetic_fence


def pin_rounding(mod: Any) -> Any:
    """Apply the pass to every PrimFunc of a module."""
    for gv, function in list(mod.functions.items()):
        if isinstance(function, tirx.PrimFunc) and not reduces(function.body):
            mod.update_func(gv, function.with_body(tvm_ffi.structural_map(function.body, (tirx.Mul, _fenced))))
    return mod


def reduces(body: Any) -> bool:
    """Whether a PrimFunc's body has a reduction."""
    found: list[bool] = []

    def visit(block: Any) -> None:
        found.append(any(int(iv.iter_type) == tirx.IterVar.CommReduce for iv in block.iter_vars))

    tvm_ffi.structural_walk(body, (s_tir.SBlock, visit))
    return any(found)


def _fenced(product: Any) -> Any:
    return arithmetic_fence(product) if str(product.ty.dtype) in ("float32", "float64") else product
