"""``DERIVATIVES``: the derivative of each unary operator, straight through at quantisers (1308.3432, section 4).

A straight-through estimate takes a quantiser for the clip to its range: 1 between its least and its largest value, 0
beyond. What it loses is the gap that gradient methods report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.attribution.rules.base import Context
from relay_passes.attribution.smooth import SMOOTH, Formula
from relay_passes.ops import FAKE_QUANT, literal, quant_spec, shape_of

Derivative = Callable[[Context, Any, Any], Any]
_ZERO, _ONE = np.float32(0), np.float32(1)


def _mask(context: Context, *conditions: Any) -> Any:
    """1.0 where all conditions hold, else 0.0."""
    holds = context.emit(conditions[0])
    for condition in conditions[1:]:
        holds = context.emit(relax.op.logical_and(holds, context.emit(condition)))
    return relax.op.astype(holds, "float32")


def relu(context: Context, call: Any, var: Any) -> Any:
    """1 above 0."""
    return _mask(context, relax.op.greater(call.args[0], literal(_ZERO)))


def clip(context: Context, call: Any, var: Any) -> Any:
    """1 within the bounds, these included."""
    x = call.args[0]
    low, high = (np.float32(float(v.value)) for v in call.args[1:3])
    return _mask(context, relax.op.greater_equal(x, literal(low)), relax.op.less_equal(x, literal(high)))


def straight_through(context: Context, call: Any, var: Any) -> Any:
    """1 everywhere: rounding and steps without a range."""
    return relax.op.ones(relax.ShapeExpr(list(shape_of(call.args[0]))), "float32")


def sign(context: Context, call: Any, var: Any) -> Any:
    """1 between -1 and 1 (1602.02830, section 1.3)."""
    x = call.args[0]
    return _mask(context, relax.op.greater_equal(x, literal(-_ONE)), relax.op.less_equal(x, literal(_ONE)))


def absolute(context: Context, call: Any, var: Any) -> Any:
    """The sign."""
    return relax.op.sign(call.args[0])


def quantiser(context: Context, call: Any, var: Any) -> Any:
    """1 between the least and the largest value that the quantiser gives."""
    spec, x = quant_spec(call), call.args[0]
    shape = [1] * len(shape_of(x))
    if spec.axis is not None:
        shape[spec.axis] = -1
    scale, zero = (
        np.asarray(v, np.float32).reshape(shape if spec.axis is not None else ()) for v in (spec.scale, spec.zero_point)
    )
    bounds = [(np.float32(code) - zero) * scale for code in (spec.qmin, spec.qmax)]
    low, high = literal(np.minimum(*bounds)), literal(np.maximum(*bounds))
    return _mask(context, relax.op.greater_equal(x, low), relax.op.less_equal(x, high))


def leaky_relu(context: Context, call: Any, var: Any) -> Any:
    """1 above 0, alpha elsewhere."""
    above = context.emit(relax.op.greater(call.args[0], literal(_ZERO)))
    return relax.op.where(above, literal(_ONE), literal(np.float32(call.attrs.alpha)))


def prelu(context: Context, call: Any, var: Any) -> Any:
    """1 above 0, the channel's slope elsewhere."""
    shape = [1] * len(shape_of(call.args[0]))
    shape[int(call.attrs.axis)] = -1
    slopes = context.emit(relax.op.reshape(call.args[1], shape))
    above = context.emit(relax.op.greater(call.args[0], literal(_ZERO)))
    return relax.op.where(above, literal(_ONE), slopes)


def larger(context: Context, call: Any, var: Any) -> Any:
    """1 where the operand is above the constant."""
    return _mask(context, relax.op.greater(*call.args))


def smaller(context: Context, call: Any, var: Any) -> Any:
    """1 where the operand is below the constant."""
    return _mask(context, relax.op.less(*call.args))


def cast(context: Context, call: Any, var: Any) -> Any:
    """Straight through a cast to integers, as through rounding; a mask is flat."""
    ones = straight_through(context, call, var)
    return relax.op.zeros_like(ones) if str(var.ty.dtype) == "bool" else ones


def _smooth(formula: Formula) -> Derivative:
    def derivative(context: Context, call: Any, var: Any) -> Any:
        return formula(call.args[0], var, call)

    return derivative


DERIVATIVES: Mapping[str, Derivative] = {
    "relax.nn.relu": relu,
    "relax.nn.leakyrelu": leaky_relu,
    "relax.nn.prelu": prelu,
    "relax.maximum": larger,
    "relax.minimum": smaller,
    "relax.clip": clip,
    "relax.round": straight_through,
    "relax.floor": straight_through,
    "relax.ceil": straight_through,
    "relax.trunc": straight_through,
    "relax.astype": cast,
    "relax.sign": sign,
    "relax.abs": absolute,
    FAKE_QUANT: quantiser,
    **{operator: _smooth(formula) for operator, formula in SMOOTH.items()},
}
