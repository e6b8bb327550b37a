"""The Relax operators of this project: their names, types and, for those that survive to the end, their TIR.

``fake_quant`` is the one spelling every quantiser is brought to. The others carry codes and accumulators in the logical
shape of the tensor they stand for; ``dot`` and ``requantize`` disappear in `lower`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx, topi

from relay_passes.by_multiplication import by_multiplication
from relay_passes.quant_forms import FORMS, Maths
from relay_passes.quant_spec import QuantSpec
from relay_passes.scale_halves import halves
from schedules.float_block import fma

FAKE_QUANT = "tvm_lowbit.fake_quant"
OBSERVE_CODES = "tvm_lowbit.observe_codes"
DIFFERENCE = "tvm_lowbit.difference"
QUANTIZE = "tvm_lowbit.quantize"
DEQUANTIZE = "tvm_lowbit.dequantize"
DOT = "tvm_lowbit.dot"
SCALE_ACCUMULATORS = "tvm_lowbit.scale_accumulators"
REQUANTIZE = "tvm_lowbit.requantize"

Infer = Callable[[Any, Any], Any]


def register(name: str, arity: int, infer: Infer, legalize: Callable[[Any, Any], Any] | None = None) -> None:
    """Register an operator once per process; a second call for the same name does nothing."""
    if name in tvm.ir.Op.list_op_names():
        return
    tvm.get_global_func("ir.RegisterOp")(name, name)
    op = tvm.ir.Op.get(name)
    op.set_num_inputs(arity)
    for i in range(max(arity, 0)):
        op.add_argument(f"arg{i}", "Tensor", "")
    tvm.ir.register_op_attr(name, "FInferType", infer)
    tvm.ir.register_op_attr(name, "FPurity", True)
    if legalize is not None:
        tvm.ir.register_op_attr(name, "FLegalize", legalize)


def call(name: str, *args: Any, **attrs: Any) -> Any:
    """A call of one of this project's operators."""
    return tvm.ir.Call(tvm.ir.Op.get(name), list(args), attrs=tvm.ir.make_node("ir.DictAttrs", **attrs))


def shape_of(expr: Any) -> tuple[int, ...]:
    """The static shape of a tensor expression."""
    return tuple(int(d) for d in expr.ty.shape)


def op_name(expr: Any) -> str:
    """The operator's name if the expression is a call of one, else the empty string."""
    return str(expr.op.name) if isinstance(expr, tvm.ir.Call) and isinstance(expr.op, tvm.ir.Op) else ""


def constant(expr: Any) -> Any:
    """The NumPy array of a constant expression, or None."""
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def literal(value: Any) -> Any:
    """An array or NumPy scalar as a constant of its own type; ``relax.const`` narrows float64 and int64 silently."""
    array = np.asarray(value)
    return relax.const(array, str(array.dtype))


def collapsed(array: Any) -> Any:
    """The array with extent 1 along each axis that it is the same along, bit for bit: it broadcasts to the same."""
    bits = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}") if array.ndim else array
    for axis in range(array.ndim):
        first = bits.take([0], axis)
        bits = first if np.array_equal(np.broadcast_to(first, bits.shape), bits) else bits
    return bits.view(array.dtype)


def narrowest(array: Any) -> Any:
    """Integers in the smallest signed type that holds them."""
    kinds = (np.int8, np.int16, np.int32, np.int64)
    return array.astype(next(k for k in kinds if np.iinfo(k).min <= array.min() and array.max() <= np.iinfo(k).max))


def _like(dtype: str) -> Infer:
    return lambda call_, ctx: relax.TensorType(call_.args[0].ty.shape, dtype)


def fake_quant(x: Any, spec: QuantSpec) -> Any:
    """``fake_quant(x, scale, zero_point){qmin, qmax, axis, form}``: float32 in, float32 out."""
    return _quantiser_call(FAKE_QUANT, x, spec)


def quantize(x: Any, spec: QuantSpec) -> Any:
    """Unsigned codes (uint8) of a float32 tensor."""
    return _quantiser_call(QUANTIZE, x, spec)


def with_fma(call_: Any) -> Any:
    """A ``quantize`` or ``scale_accumulators`` for a core with fused multiply-adds."""
    return call(op_name(call_), *call_.args, **dict(call_.attrs.items()), fma=True)


def dequantize(codes: Any, spec: QuantSpec) -> Any:
    """Float32 values of unsigned codes."""
    return _quantiser_call(DEQUANTIZE, codes, spec)


def _quantiser_call(name: str, x: Any, spec: QuantSpec) -> Any:
    axis = -1 if spec.axis is None else spec.axis
    arrays = literal(spec.scale), literal(spec.zero_point)
    return call(name, x, *arrays, qmin=spec.qmin, qmax=spec.qmax, axis=axis, form=spec.form)


def quant_spec(expr: Any) -> QuantSpec:
    """The `QuantSpec` of a ``fake_quant``, ``quantize`` or ``dequantize`` call."""
    scale, zero = (np.asarray(constant(a), np.float32) for a in expr.args[1:3])
    a = expr.attrs
    axis = int(a["axis"])
    return QuantSpec(scale, zero, int(a["qmin"]), int(a["qmax"]), None if axis < 0 else axis, str(a["form"]))


def along_axis(buffer: Any, axis: int, indices: Any) -> Any:
    """A scale or zero point for a position: one for all, or one for each index along the axis."""
    return buffer() if len(buffer.shape) == 0 else buffer[indices[axis] if int(buffer.shape[0]) > 1 else 0]


def _f32(value: float) -> Any:
    return tirx.const(float(value), "float32")


def _tir_beside(x: Any, ulp: int) -> Any:
    # Positive floats are in the order of their bits.
    return tirx.reinterpret("float32", tirx.reinterpret("int32", x) + ulp)


_TIR = Maths(tirx.nearbyint, tirx.floor, tirx.ceil, lambda x, a, b: tirx.Select(x >= _f32(0), a, b), _f32, _tir_beside)


def _clipped(x: Any, scale: Any, zero: Any, spec: QuantSpec) -> Any:
    """The signed code of one element, in TIR: the same float32 steps in the same order as `QuantSpec.codes`."""
    unclipped = FORMS[spec.form](_TIR, x, scale, zero)
    return tirx.max(tirx.min(unclipped, _f32(spec.qmax)), _f32(spec.qmin))


def _code(x: Any, scale: Any, zero: Any, spec: QuantSpec) -> Any:
    """`QuantSpec.codes` for one element, in TIR."""
    return _clipped(x, scale, zero, spec) - _f32(spec.qmin)


def value_of(code: Any, scale: Any, zero: Any, spec: QuantSpec) -> Any:
    """`QuantSpec.values` for one element, in TIR."""
    return (code.astype("float32") + (_f32(spec.qmin) - zero)) * scale


def _elementwise(hint: str, body: Callable[[Any, Any, Any, QuantSpec], Any]) -> Callable[[Any, Any], Any]:
    def legalize(bb: Any, call_: Any) -> Any:
        spec = quant_spec(call_)

        def compute(x: Any, scale: Any, zero: Any) -> Any:
            def element(*i: Any) -> Any:
                axis = 0 if spec.axis is None else spec.axis
                return body(x(*i), along_axis(scale, axis, i), along_axis(zero, axis, i), spec)

            return te.compute(x.shape, element, name=hint)

        return bb.call_te(compute, *call_.args, primfunc_name_hint=hint)

    return legalize


register(
    FAKE_QUANT,
    3,
    _like("float32"),
    # Not by way of the unsigned code: those of more than 24 bits would be rounded.
    _elementwise("fake_quant", lambda x, s, z, spec: tirx.Select(tirx.isnan(x), x, (_clipped(x, s, z, spec) - z) * s)),
)
_quantize = _elementwise("quantize", lambda *a: _code(*a).astype("uint8"))


def _legalize_quantize(bb: Any, call_: Any) -> Any:
    found = by_multiplication(quant_spec(call_)) if bool(call_.attrs.get("fma", False)) else None
    if found is None:
        return _quantize(bb, call_)

    def compute(x: Any) -> Any:
        return te.compute(x.shape, lambda *i: found.code(x(*i)), name="quantize")

    return bb.call_te(compute, call_.args[0], primfunc_name_hint="quantize")


register(QUANTIZE, 3, _like("uint8"), _legalize_quantize)
register(DEQUANTIZE, 3, _like("float32"), _elementwise("dequantize", value_of))
register(OBSERVE_CODES, 1, _like("int32"))


def observe_codes(x: Any) -> Any:
    """The integer codes (int32, between qmin and qmax) of a fake-quantised tensor, as an output of the network."""
    return call(OBSERVE_CODES, x)


def difference(x: Any, reference: Any) -> Any:
    """``x`` (float32) less its value in the reference run, which broadcasts to it, in float64.

    An operator of its own, so that `rewrite` can subtract codes or accumulators: two rounded floats that almost cancel
    would lose the digits that a secant divides by.
    """
    return call(DIFFERENCE, x, reference)


def _wide_difference(x: Any, reference: Any) -> Any:
    return topi.subtract(topi.cast(x, "float64"), topi.cast(reference, "float64"))


register(
    DIFFERENCE,
    2,
    _like("float64"),
    lambda bb, c: bb.call_te(_wide_difference, *c.args, primfunc_name_hint="difference"),
)


def dot(codes: Any, weights: Any, weight_offset: Any, out_shape: tuple[int, ...], **attrs: Any) -> Any:
    """Low-bit convolution or dense layer: int32 accumulators of ``out_shape``.

    ``codes`` are ``(N, C, H, W)`` or ``(M, K)``, ``weights`` uint8 ``(O, C / groups, kh, kw)``, ``weight_offset`` int32
    ``(O,)``. The attributes are `lower.problem_of`'s.
    """
    return call(DOT, codes, weights, weight_offset, out_shape=list(out_shape), **attrs)


register(DOT, 3, lambda c, ctx: relax.TensorType([int(d) for d in c.attrs["out_shape"]], "int32"))


def scale_accumulators(acc: Any, scale: Any, axis: int, bound: int) -> Any:
    """``float32(acc * scale)``, rounded once; ``scale`` is ``(C,)``, no accumulator's magnitude exceeds ``bound``."""
    return call(SCALE_ACCUMULATORS, acc, literal(scale.astype(np.float64)), axis=axis, bound=min(bound, 2**31))


def _legalize_scale(bb: Any, call_: Any) -> Any:
    axis = int(call_.attrs["axis"])
    acc, scale = call_.args
    found = halves(constant(scale), int(call_.attrs["bound"])) if bool(call_.attrs.get("fma", False)) else None

    def in_float64(acc: Any, scale: Any) -> Any:
        def element(*i: Any) -> Any:
            return (acc(*i).astype("float64") * along_axis(scale, axis, i)).astype("float32")

        return te.compute(acc.shape, element, name="scale_accumulators")

    def in_float32(acc: Any, high: Any, low: Any) -> Any:
        def element(*i: Any) -> Any:
            value = acc(*i).astype("float32")
            return fma(value, along_axis(high, axis, i), value * along_axis(low, axis, i), 1)

        return te.compute(acc.shape, element, name="scale_accumulators")

    compute, scales = (in_float64, (scale,)) if found is None else (in_float32, tuple(map(literal, found)))
    return bb.call_te(compute, acc, *scales, primfunc_name_hint="scale_accumulators")


register(SCALE_ACCUMULATORS, 2, _like("float32"), _legalize_scale)


def requantize(
    acc: Any, rises: Any, flip: Any, falls: Any | None, side: Any | None, axis: int, bits: int, side_bits: int
) -> Any:
    """Codes (uint8) from accumulators by counting thresholds ``(rows, levels, C)``; ``side`` codes pick the row.

    The code is the number of ``rises`` reached less that of ``falls`` (None: there are none); where ``flip`` is set it
    is the number of thresholds less the number reached.
    """
    tables = [literal(table) for table in (rises, flip, falls) if table is not None]
    args = [acc, *tables, *([] if side is None else [side])]
    return call(REQUANTIZE, *args, axis=axis, bits=bits, tables=len(tables), side_bits=side_bits)


register(REQUANTIZE, -1, _like("uint8"))
