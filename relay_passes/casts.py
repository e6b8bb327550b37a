"""Codes cast to an integer type and back: the casts change nothing where all codes are integers that the type holds.

But for -0.0, which a cast would make 0.0, and NaN, of which each machine makes what it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.clips import Bounds, value_range
from relay_passes.ops import constant, literal, op_name

Lookup = Callable[[Any], Any]

ROUND, CLIP, CAST = "relax.round", "relax.clip", "relax.astype"
SHIFTS = {"relax.add": relax.op.add, "relax.subtract": relax.op.subtract}
# Float32 holds all integers up to here.
EXACT = 2.0**24


def without_casts(value: Any, lookup: Lookup) -> Any:
    """A float that was cast to an integer and back, a shift by integers between. A row of `canonicalize.REWRITES`."""
    if op_name(value) != CAST or str(value.attrs.dtype) != "float32":
        return value
    inner = _bound(value.args[0], lookup)
    shift = _shift(inner)
    known = _as_float(value.args[0] if inner is None or shift is None else inner.args[0], lookup)
    if known is None:
        return value
    x, bounds = known
    if inner is None or shift is None:
        return x
    if not fits(_shifted(bounds, op_name(inner), shift), str(inner.ty.dtype)):
        return value
    return SHIFTS[op_name(inner)](x, literal(shift.astype(np.float32)))


def _bound(expr: Any, lookup: Lookup) -> Any | None:
    return lookup(expr) if isinstance(expr, relax.Var) else None


def fits(bounds: Bounds, dtype: str) -> bool:
    """Whether a type, and float32, holds all integers between bounds."""
    low, high = value_range(dtype)
    return max(low, -EXACT) <= bounds[0] and bounds[1] <= min(high, EXACT)


def _shift(call: Any) -> Any | None:
    """The constant whole numbers that a call adds or takes away."""
    if call is None or op_name(call) not in SHIFTS:
        return None
    array = constant(call.args[1])
    return array if array is not None and array.size and np.array_equal(array, np.rint(array)) else None


def _shifted(bounds: Bounds, operator: str, shift: Any) -> Bounds:
    low, high = float(shift.min()), float(shift.max())
    less, more = (low, high) if operator == "relax.add" else (-high, -low)
    return bounds[0] + less, bounds[1] + more


def _as_float(expr: Any, lookup: Lookup) -> tuple[Any, Bounds] | None:
    """The float32 tensor that an integer one was cast from, perhaps by way of other types, and its bounds."""
    call = _bound(expr, lookup)
    if call is None or op_name(call) != CAST or np.dtype(str(call.attrs.dtype)).kind not in "iu":
        return None
    inner = call.args[0]
    if str(inner.ty.dtype) == "float32":
        bounds = integers(inner, lookup)
        known = None if bounds is None else (inner, bounds)
    else:
        known = _as_float(inner, lookup)
    return known if known is not None and fits(known[1], str(call.attrs.dtype)) else None


def integers(expr: Any, lookup: Lookup) -> Bounds | None:
    """The bounds of a float32 tensor if, by its clips and rounds, it holds nothing but integers; else None."""
    integral, bounds = _range(expr, lookup)
    return bounds if integral else None


def _range(expr: Any, lookup: Lookup) -> tuple[bool, Bounds]:
    """Whether values are integers, and what they lie between."""
    call = _bound(expr, lookup)
    if call is None or op_name(call) not in (ROUND, CLIP, *SHIFTS):
        return False, (-np.inf, np.inf)
    integral, (low, high) = _range(call.args[0], lookup)
    if op_name(call) == ROUND:
        return True, (float(np.rint(low)), float(np.rint(high)))
    if op_name(call) == CLIP:
        least, most = (float(a.value) for a in call.args[1:3])
        whole = all(np.isinf(b) or b == np.rint(b) for b in (least, most))
        return integral and whole, (min(max(low, least), most), min(max(high, least), most))
    shift = _shift(call)
    return (False, (-np.inf, np.inf)) if shift is None else (integral, _shifted((low, high), op_name(call), shift))
