"""Quotients and powers: a divisor that varies, softmax by ratios of logarithms, powers with one constant operand."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from relay_passes.attribution.rules.base import Context
from relay_passes.attribution.rules.composed import composed
from relay_passes.attribution.rules.unary import unary
from relay_passes.attribution.smooth import log_mean, number
from relay_passes.ops import constant, literal, shape_of


def divide(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """``a (1/b)``: a gets what stands for 1/b, b gets what stands for a times 1/b's slope ``-1 / (b b0)``."""
    a, b = call.args
    inverse = context.emit(relax.op.divide(number(1), b))
    other = inverse
    if context.slope.other(context, b) is not b:
        other = context.emit(relax.op.divide(number(1), context.slope.other(context, b)))
    partials = [None, None]
    if a in context.active:
        middle = inverse if other is inverse else context.emit((inverse + other) * number(0.5))
        partials[0] = context.sum_to(context.scale(g, middle), shape_of(a))
    if b in context.active:
        slope = context.emit(-(inverse * other))
        share = context.scale(context.scale(g, context.middle(a)), slope)
        partials[1] = context.sum_to(share, shape_of(b))
    return partials


def softmax(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """The exponential of log-softmax: ``dy / dlog y`` is a logarithmic mean, so no multiplier grows with the logits."""
    shares, change = _log_sum_exp(call, context)
    other = context.slope.other(context, var)
    if other is not var:
        d = context.emit(context.difference(call.args[0]) - change)
        mean = context.emit(log_mean(var, other, d), "slope")
    else:
        mean = var
    return _less_shares(context.scale(g, mean), shares, call, context)


def log_softmax(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """The logits less the logarithm of the sum of their exponentials, in which each has its share."""
    shares, _ = _log_sum_exp(call, context)
    return _less_shares(g, shares, call, context)


def _less_shares(g: Any, shares: Any, call: Any, context: Context) -> list[Any]:
    shape = shape_of(call.args[0])
    whole = context.repeat(context.total(g, [int(call.attrs.axis) % len(shape)]), shape)
    return [context.carrier.add(context, g, context.negative(context.scale(whole, shares)))]


def _log_sum_exp(call: Any, context: Context) -> tuple[Any, Any]:
    """What each logit weighs in the change of ``log(sum(exp(x)))``, and that change; softmax itself for derivatives.

    One maximum common to both runs is taken off, so that the exponentials are of one scale.
    """
    x, axis = call.args[0], int(call.attrs.axis)
    x0 = context.slope.other(context, x)
    if x0 is x:
        return context.emit(relax.op.nn.softmax(x, axis), "shares"), None
    tops = [context.emit(relax.op.max(v, [axis], keepdims=True)) for v in (x, x0)]
    common = context.emit(relax.op.maximum(*tops))
    terms = [context.emit(relax.op.exp(context.emit(relax.op.subtract(v, common)))) for v in (x, x0)]
    sums = [context.emit(relax.op.sum(e, [axis], keepdims=True)) for e in terms]
    # The logarithm of each sum from its own maximum: the common one may leave nothing of it.
    logs = []
    for v, top in zip((x, x0), tops, strict=True):
        own = context.emit(relax.op.exp(context.emit(relax.op.subtract(v, top))))
        logs.append(context.emit(relax.op.log(context.emit(relax.op.sum(own, [axis], keepdims=True)))))
    change = context.emit((tops[0] - tops[1]) + (logs[0] - logs[1]))
    each = context.emit(log_mean(terms[0], terms[1], context.difference(x)))
    return context.emit(relax.op.divide(each, context.emit(log_mean(sums[0], sums[1], change))), "shares"), change


def _exponential(emit: Any, call: Any, base: Any, exponent: Any) -> Any:
    """``exp(exponent log base)``."""
    logarithm = literal(np.log(constant(base).astype(np.float64)).astype(np.float32))
    return emit(relax.op.exp(emit(relax.op.multiply(exponent, logarithm))))


def power(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """A unary operator where the exponent is constant; ``exp(exponent log base)`` where the base is."""
    base, exponent = call.args
    if exponent not in context.active and shape_of(base) == shape_of(var):
        return unary(var, call, g, context)
    if constant(base) is None or not np.all(constant(base) > 0):
        raise NotImplementedError("neither its exponent nor a base above 0 is constant")
    return _EXPONENTIAL(var, call, g, context)


_EXPONENTIAL = composed(_exponential)
RATIOS = {
    "relax.divide": divide,
    "relax.nn.softmax": softmax,
    "relax.nn.log_softmax": log_softmax,
    "relax.power": power,
}
