"""Operators that are several: their rule writes them as a small program of operators with rules, and walks it back.

The decomposition stands here and nowhere else, for a product of three factors splits differently by the order in which
it is multiplied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.attribution.rules.base import Context, RuleFunction
from relay_passes.ops import shape_of
from schedules.errors import LowbitError

# program(emit, call, *args) computes what the call does; its operators have rules, and shapes follow from the args'.
Program = Callable[..., Any]


def composed(program: Program, items: bool = False) -> RuleFunction:
    """The rule of an operator from its program, which is computed in this run and in the one it is compared with.

    Parameters
    ----------
    program : callable
        See `Program`.
    items : bool
        The program does not leave items on an axis of their own: a reference that is the same for all of them, and has
        one, is repeated before.
    """

    def rule(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
        # The engine imports the table of rules.
        from relay_passes.attribution.engine import active_variables, back

        starts = [a for a in call.args if a in context.active]
        values, output = _written(program, call, list(call.args), context)
        others = [context.slope.other(context, a) for a in call.args]
        if items:
            others = [_repeated(o, a, context) for o, a in zip(others, call.args, strict=True)]
        there = [] if others == list(call.args) else _written(program, call, others, context)[0]
        inside = replace(
            context,
            values={**context.values, **dict(values)},
            references={**context.references, **{v: w for (v, _), (w, _) in zip(values, there, strict=False)}},
            active=context.active | active_variables(starts, values),
        )
        try:
            found = back(g, output, values, inside, starts)
        except LowbitError as error:
            raise NotImplementedError(f"one of its steps has no rule: {error.got}") from error
        # An operand that stands twice has one share.
        return [found.pop(a, None) if a in context.active else None for a in call.args]

    rule.__doc__ = program.__doc__
    return rule


def _repeated(other: Any, expr: Any, context: Context) -> Any:
    whole = shape_of(expr)
    return (
        other if shape_of(other) == whole else context.emit(relax.op.broadcast_to(other, relax.ShapeExpr(list(whole))))
    )


def _written(program: Program, call: Any, args: list[Any], context: Context) -> tuple[list[tuple[Any, Any]], Any]:
    values: list[tuple[Any, Any]] = []

    def emit(expr: Any) -> Any:
        var = context.emit(expr, "inner")
        values.append((var, context.scope.builder.lookup_binding(var)))
        return var

    return values, program(emit, call, *args)


def _axes(axes: Any, x: Any) -> list[int]:
    rank = len(shape_of(x))
    return sorted(int(a) % rank for a in axes) if axes is not None else list(range(rank))


def _along(emit: Any, constant: Any, x: Any, axes: list[int]) -> Any:
    """A tensor of the extents of these axes, to broadcast with x."""
    shape = [extent if i in axes else 1 for i, extent in enumerate(shape_of(x))]
    return emit(relax.op.reshape(constant, relax.ShapeExpr(shape)))


def _floats(emit: Any, x: Any) -> Any:
    return x if str(x.ty.dtype) == "float32" else emit(relax.op.astype(x, "float32"))


def _channels(emit: Any, call: Any, numbers: Any, x: Any) -> Any:
    numbers = _floats(emit, numbers)
    return _along(emit, numbers, x, _axes([call.attrs.axis], x)) if len(shape_of(numbers)) == 1 else numbers


def quantize(emit: Any, call: Any, x: Any, scale: Any, zero: Any) -> Any:
    """A quantiser whose step is computed from the input: divided, rounded, shifted, clipped; each by its rule."""
    scale, zero = (_channels(emit, call, v, x) for v in (scale, zero))
    codes = emit(relax.op.add(emit(relax.op.round(emit(relax.op.divide(x, scale)))), zero))
    limits = np.iinfo(str(call.attrs.out_dtype))
    return emit(relax.op.clip(codes, float(limits.min), float(limits.max)))


def dequantize(emit: Any, call: Any, codes: Any, scale: Any, zero: Any) -> Any:
    """Codes less the zero point, times a step that is computed from the input."""
    scale, zero = (_channels(emit, call, v, codes) for v in (scale, zero))
    return emit(relax.op.multiply(emit(relax.op.subtract(_floats(emit, codes), zero)), scale))


COMPOSED = {
    "relax.quantize": composed(quantize),
    "relax.dequantize": composed(dequantize),
}
