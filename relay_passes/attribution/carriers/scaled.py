"""Powers of two that keep what a deep network multiplies up within float32.

A path's weight is a product over all layers, and a sum of them grows with their number; both soon leave float32. So
behind every layer the numbers are divided by the power of two next to the largest of the batch, which rounds nothing;
where branches meet, the larger exponent counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from relay_passes.attribution.rules.base import Context
from relay_passes.ops import call, literal, register

EXPONENT = "tvm_lowbit.largest_exponent"
POWER = "tvm_lowbit.power_of_two"
# Exponents of float32 and float64 whose powers of two are normal numbers, of both signs.
_RANGE = {"float32": 126, "float64": 1022}
_MANTISSA = {"float32": 23, "float64": 52}


def exponent(context: Context, *exprs: Any) -> Any:
    """The exponent, int32 (1,), of the largest finite number in tensors; the least if none is above 0."""
    top, *others = [context.emit(call(EXPONENT, expr), "exponent") for expr in exprs]
    for other in others:
        top = context.emit(relax.op.maximum(top, other), "exponent")
    return top


def power(context: Context, exponent_: Any, dtype: str = "float32") -> Any:
    """``2 ** exponent`` (1,), the exponent clipped to those of normal numbers."""
    return context.emit(call(POWER, exponent_, dtype=dtype), "power")


def sum_of(context: Context, a: Any, b: Any) -> Any:
    """The sum of two exponents, either of which may be None for 0."""
    return b if a is None else a if b is None else context.emit(relax.op.add(a, b), "exponent")


def aligned(context: Context, exponents: Sequence[Any]) -> tuple[Any, list[Any]]:
    """The largest of exponents, and what numbers of each are multiplied by to be of that one; None for 1."""
    if all(e is exponents[0] for e in exponents):
        return exponents[0], [None] * len(exponents)
    known = [literal(np.zeros(1, np.int32)) if e is None else e for e in exponents]
    top = known[0]
    for other in known[1:]:
        top = context.emit(relax.op.maximum(top, other), "exponent")
    return top, [power(context, context.emit(relax.op.subtract(e, top), "exponent")) for e in known]


def _legalize_exponent(bb: Any, call_: Any) -> Any:
    def compute(x: Any) -> Any:
        axes = [te.reduce_axis((0, int(extent)), f"r{i}") for i, extent in enumerate(x.shape)]
        zero, huge = tirx.const(0, "float32"), tirx.max_value("float32")

        def element(_: Any) -> Any:
            # Neither NaN nor infinity passes both comparisons.
            v = x(*axes)
            return te.max(tirx.Select(tirx.all(v > zero, v <= huge), v, zero), axis=axes)

        largest = te.compute((1,), element, name="largest")

        def bits(i: Any) -> Any:
            found = tirx.shift_right(tirx.reinterpret("int32", largest[i]), tirx.const(23, "int32")) - 127
            # Of no number above 0 the exponent field says -127.
            return tirx.min(tirx.max(found, tirx.const(-126, "int32")), tirx.const(126, "int32"))

        return te.compute((1,), bits, name="largest_exponent")

    return bb.call_te(compute, *call_.args, primfunc_name_hint="largest_exponent")


def _legalize_power(bb: Any, call_: Any) -> Any:
    dtype = str(call_.attrs["dtype"])
    bits, limit = dtype.replace("float", "int"), _RANGE[dtype]

    def compute(e: Any) -> Any:
        def element(i: Any) -> Any:
            clipped = e[i].astype(bits)
            clipped = tirx.max(tirx.min(clipped, tirx.const(limit, bits)), tirx.const(-limit, bits))
            return tirx.reinterpret(dtype, tirx.shift_left(clipped + (limit + 1), tirx.const(_MANTISSA[dtype], bits)))

        return te.compute(e.shape, element, name="power_of_two")

    return bb.call_te(compute, *call_.args, primfunc_name_hint="power_of_two")


register(EXPONENT, 1, lambda c, ctx: relax.TensorType([1], "int32"), _legalize_exponent)
register(POWER, 1, lambda c, ctx: relax.TensorType([1], str(c.attrs["dtype"])), _legalize_power)
