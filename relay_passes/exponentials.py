"""Exponentials that overflow where their value does not count: their operand is clipped to where it does.

Front ends write ELU as ``relu(x) - a relu(1 - exp(x))``. Beyond 88 the exponential is infinite, which the ReLU makes 0:
the result is right, but differences and derivatives of what is in between are not numbers. A logarithm of one plus an
exponential, which is softplus, would be infinite itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.ops import constant, op_name, shape_of

Lookup = Callable[[Any], Any]

EXP = "relax.exp"
_ABOVE = ("relax.greater", "relax.greater_equal")
_BELOW = ("relax.less", "relax.less_equal")
_MONOTONE: Mapping[str, Callable[[Any, Any], Any]] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
}
# Operators through which a branch of a choice is followed to what the choice depends on.
_CHAIN = (EXP, "relax.log", "relax.negative", "relax.add", "relax.subtract", "relax.multiply", "relax.divide")


def bounded(value: Any, lookup: Lookup) -> Any:
    """The same value with no exponential that overflows beside it. A row of `canonicalize.REWRITES`.

    ``relu(1 - exp(x))``, ``clip(a exp(x) - a, ., 0)`` and a branch of ``where(x > c, ., f(exp(x)))`` keep every bit.
    ``log(1 + exp(x))`` becomes softplus, which computes just that up to 20 and gives x beyond. ``1 / (1 + exp(-x))``
    becomes sigmoid, which computes just that, and ``y / (1 + exp(-x))`` y times it.
    """
    rewrite = _ROWS.get(op_name(value))
    if rewrite is None or {str(a.ty.dtype) for a in value.args if isinstance(a, relax.Var)} - {"float32", "bool"}:
        return value
    found = rewrite(value, _bound(lookup))
    return value if found is None else found


def _bound(lookup: Lookup) -> Lookup:
    return lambda expr: lookup(expr) if isinstance(expr, relax.Var) else None


def _is_number(expr: Any, number: float) -> bool:
    array = constant(expr)
    return array is not None and array.size == 1 and float(array.reshape(())) == number


def _called(call: Any, *args: Any) -> Any:
    return type(call)(call.op, list(args), attrs=call.attrs)


def _up_to(x: Any, limit: float) -> Any:
    return relax.op.clip(x, -np.inf, limit)


def _limited(call: Any, bound: Lookup) -> Any:
    """A clip beyond whose bound all lies that comes from an exponential above 1."""
    low, high = (0.0, np.inf) if op_name(call) == "relax.nn.relu" else (float(v.value) for v in call.args[1:3])
    found = _monotone(call.args[0], bound)
    if found is None:
        return None
    again, at_one, rises = found
    return _called(call, again, *call.args[1:]) if (at_one >= high if rises else at_one <= low) else None


def _monotone(expr: Any, bound: Lookup) -> tuple[Any, np.float32, bool] | None:
    """Numbers added to an exponential and multiplied with it.

    Returns the same with the operand clipped at 0, its value in float32 where the exponential is 1, which rounds as the
    graph does, and whether it rises.
    """
    call: Any = bound(expr)
    if op_name(call) == EXP:
        return relax.op.exp(_up_to(call.args[0], 0.0)), np.float32(1), True
    if op_name(call) not in _MONOTONE:
        return None
    for i, argument in enumerate(call.args):
        number, inner = constant(argument), _monotone(call.args[1 - i], bound)
        if number is None or number.size != 1 or inner is None or not np.isfinite(number).all() or not number.all():
            continue
        factor, (again, at_one, rises) = np.float32(number.reshape(())), inner
        args, values = ([factor, at_one], [argument, again]) if i == 0 else ([at_one, factor], [again, argument])
        if op_name(call) == "relax.multiply":
            rises = rises == (factor > 0)
        elif op_name(call) == "relax.subtract" and i == 0:
            rises = not rises
        return _called(call, *values), _MONOTONE[op_name(call)](*args), bool(rises)
    return None


def _one_plus(expr: Any, bound: Lookup) -> Any | None:
    """The operand of an exponential that stands in a sum with 1."""
    total: Any = bound(expr)
    if op_name(total) != "relax.add":
        return None
    for one, other in (total.args, list(total.args)[::-1]):
        power = bound(other)
        if _is_number(one, 1) and op_name(power) == EXP and shape_of(power.args[0]) == shape_of(expr):
            return power.args[0]
    return None


def _log(call: Any, bound: Lookup) -> Any:
    """From 17 on, x is what float32 leaves of it."""
    power = _one_plus(call.args[0], bound)
    return None if power is None else relax.op.nn.softplus(power)


def _divide(call: Any, bound: Lookup) -> Any:
    power = _one_plus(call.args[1], bound)
    if power is None:
        return None
    negated = bound(power)
    x = negated.args[0] if op_name(negated) == "relax.negative" else relax.op.negative(power)
    share = relax.op.sigmoid(x)
    alone = _is_number(call.args[0], 1) and len(shape_of(call.args[0])) <= len(shape_of(power))
    return share if alone else relax.op.multiply(call.args[0], share)


def _where(call: Any, bound: Lookup) -> Any:
    mask, *branches = call.args
    asked: Any = bound(mask)
    if op_name(asked) not in (*_ABOVE, *_BELOW) or constant(asked.args[1]) is None:
        return None
    x, limit = asked.args
    if constant(limit).size != 1 or not np.isfinite(constant(limit)).all():
        return None
    edge = float(constant(limit).reshape(()))
    # The first branch is read above the edge only, the second below; the other way round for "less".
    ends = [(edge, np.inf), (-np.inf, edge)]
    if op_name(asked) in _BELOW:
        ends.reverse()
    made = [_clipped(branch, x, end, bound) for branch, end in zip(branches, ends, strict=True)]
    if all(new is None for new in made):
        return None
    return _called(call, mask, *(new if new is not None else old for new, old in zip(made, branches, strict=True)))


def _clipped(branch: Any, x: Any, ends: tuple[float, float], bound: Lookup) -> Any:
    """A branch with ``x`` clipped, if it is a chain of elementwise operators that ends at x and has an exponential."""

    def again(expr: Any) -> tuple[Any, bool] | None:
        if expr.same_as(x):
            return relax.op.clip(x, *ends), False
        if constant(expr) is not None:
            return expr, False
        call: Any = bound(expr)
        if op_name(call) not in _CHAIN:
            return None
        parts = [again(a) for a in call.args]
        if any(part is None for part in parts):
            return None
        known = [part for part in parts if part is not None]
        return _called(call, *(part for part, _ in known)), op_name(call) == EXP or any(has for _, has in known)

    found = again(branch)
    return found[0] if found is not None and found[1] else None


_ROWS: Mapping[str, Callable[[Any, Lookup], Any]] = {
    "relax.nn.relu": _limited,
    "relax.clip": _limited,
    "relax.log": _log,
    "relax.divide": _divide,
    "relax.where": _where,
}
