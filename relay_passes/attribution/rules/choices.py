"""What chooses between tensors: the larger of two, ``where``, and the masks that comparisons make.

A mask is a tensor of 0 and 1 that steps where the values it compares meet: DeepLIFT gives the whole step to their
difference, as at a quantiser; a derivative is 0 there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.attribution.rules.base import Context, RuleFunction
from relay_passes.attribution.rules.composed import composed
from relay_passes.attribution.smooth import number
from relay_passes.ops import shape_of


def _larger(operation: Callable[..., Any]) -> RuleFunction:
    def program(emit: Any, call: Any, a: Any, b: Any) -> Any:
        shape = np.broadcast_shapes(shape_of(a), shape_of(b))
        whole = relax.ShapeExpr(list(shape))
        both = [v if shape_of(v) == shape else emit(relax.op.broadcast_to(v, whole)) for v in (a, b)]
        return emit(operation(emit(relax.op.stack(both, -1)), [-1]))

    return composed(program)


def extremum(operation: Callable[..., Any]) -> RuleFunction:
    """With a constant a unary operator; of two varying tensors the largest or least along a new axis."""
    several = _larger(operation)

    def rule(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
        varying = [i for i, a in enumerate(call.args) if a in context.active]
        if len(varying) == 2 or shape_of(call.args[varying[0]]) != shape_of(var):
            return several(var, call, g, context)
        turned = call if varying == [0] else type(call)(call.op, [call.args[1], call.args[0]], attrs=call.attrs)
        partial = context.carrier.unary(context, turned, var, g)
        return [partial if i in varying else None for i in range(2)]

    return rule


def _middle(mask: Any, context: Context) -> Any:
    """A mask as 0.0 and 1.0, and what stands for it beside another factor."""
    here = context.emit(relax.op.astype(mask, "float32"))
    other = context.slope.other(context, mask)
    if other is mask:
        return here
    there = context.emit(relax.op.astype(other, "float32"))
    return context.emit(relax.op.multiply(context.emit(relax.op.add(here, there)), number(0.5)))


def where(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """``m a + (1 - m) b``, a product with a mask; linear where the mask is constant."""
    mask, a, b = call.args
    weight = _middle(mask, context)
    left = context.emit(relax.op.subtract(number(1), weight))
    partials = [
        context.sum_to(context.scale(g, share), shape_of(v)) if v in context.active else None
        for v, share in ((a, weight), (b, left))
    ]
    step = None
    if mask in context.active:
        gain = context.emit(relax.op.subtract(context.middle(a), context.middle(b)))
        # A branch that is not taken may be infinite: it counts where the mask steps only.
        steps = context.emit(relax.op.logical_xor(mask, context.slope.other(context, mask)))
        taken = context.emit(relax.op.where(steps, gain, number(0)))
        step = context.sum_to(context.scale(g, taken), shape_of(mask))
    return [step, *partials]


def comparison(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """A step where the difference of the operands passes 0."""
    varying = [i for i, a in enumerate(call.args) if a in context.active]

    def change() -> Any:
        a, *b = (context.difference(call.args[i]) for i in varying)
        whole = context.emit(relax.op.subtract(a, b[0])) if b else a
        return whole if varying[0] == 0 else context.emit(relax.op.negative(whole))

    share = context.scale(g, context.slope.step(context, change, var))
    signed = (share, context.negative(share)) if 1 in varying else (share, None)
    return [
        context.sum_to(part, shape_of(a)) if i in varying else None
        for i, (a, part) in enumerate(zip(call.args, signed, strict=True))
    ]


def logical(factor: Callable[[Any], Any]) -> RuleFunction:
    """A product of masks: each counts as far as ``factor`` of the other."""

    def rule(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
        return [
            context.sum_to(context.scale(g, context.emit(factor(_middle(other, context)))), shape_of(this))
            if this in context.active
            else None
            for this, other in (call.args, call.args[::-1])
        ]

    return rule


def logical_not(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """-g."""
    return [context.negative(g)]


def nothing(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """None: its result is the same for all numbers of this shape."""
    return [None] * len(call.args)


_COMPARISONS = ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal")
_FIXED = ("isnan", "isinf", "isfinite", "zeros_like", "ones_like", "full_like")
CHOICES = {
    "relax.maximum": extremum(relax.op.max),
    "relax.minimum": extremum(relax.op.min),
    "relax.where": where,
    **{f"relax.{name}": comparison for name in _COMPARISONS},
    "relax.logical_and": logical(lambda m: m * number(1)),
    "relax.logical_or": logical(lambda m: number(1) - m),
    "relax.logical_xor": logical(lambda m: number(1) - m * number(2)),
    "relax.logical_not": logical_not,
    **{f"relax.{name}": nothing for name in _FIXED},
}
