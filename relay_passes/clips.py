"""One spelling of clipping and rounding: what minimum, maximum, ReLU and nested clips are together, one clip says."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from relay_passes.ops import constant, op_name, shape_of

Bounds = tuple[float, float]


def simplified(value: Any, lookup: Any) -> Any:
    """The call as one clip or one round, if it is equal to one. A row of `canonicalize.REWRITES`."""
    found = _clip_of(value)
    if found is not None and op_name(value) != "relax.nn.relu":
        x, bounds = found
        inner = _clip_of(lookup(x)) if isinstance(x, relax.Var) else None
        # Clips in the wrong order of bounds give their upper bound and do not compose so; nobody means them.
        if inner is not None and bounds[0] <= bounds[1] and inner[1][0] <= inner[1][1]:
            x, (lo, hi) = inner
            bounds = min(max(lo, bounds[0]), bounds[1]), min(max(hi, bounds[0]), bounds[1])
        return relax.op.clip(x, *bounds)
    return _detached_round(value, lookup)


def _clip_of(value: Any) -> tuple[Any, Bounds] | None:
    """What a call clips and its bounds, if it clips."""
    name = op_name(value)
    if name == "relax.nn.relu":
        return value.args[0], (0.0, np.inf)
    if name == "relax.clip":
        return value.args[0], (float(value.args[1].value), float(value.args[2].value))
    if name not in ("relax.minimum", "relax.maximum"):
        return None
    for x, limit in (value.args, list(value.args)[::-1]):
        bound = _uniform(limit)
        if bound is not None and constant(x) is None and shape_of(value) == shape_of(x):
            lowest, highest = value_range(str(x.ty.dtype))
            return x, ((lowest, bound) if name == "relax.minimum" else (bound, highest))
    return None


def _uniform(expr: Any) -> float | None:
    """The number that a constant repeats."""
    array = constant(expr)
    if array is None or array.size == 0 or not np.all(array == array.flat[0]):
        return None  # NaN is not equal to itself
    return float(array.flat[0])


def value_range(dtype: str) -> Bounds:
    """The lowest and the highest value of a type; infinities for floats."""
    if np.dtype(dtype).kind == "f":
        return -np.inf, np.inf
    return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)


def _detached_round(value: Any, lookup: Any) -> Any:
    """``(round(q) - q) + q`` in any order of the sum, as straight-through estimators leave it, is ``round(q)``.

    Exactly so in float32: q and round(q) are within a factor of 2 of each other, or round(q) is 0, so their difference
    is exact (Sterbenz), and the sum is representable.
    """
    if op_name(value) != "relax.add":
        return value
    for difference, q in (value.args, list(value.args)[::-1]):
        inner: Any = lookup(difference) if isinstance(difference, relax.Var) else None
        if op_name(inner) != "relax.subtract" or not isinstance(inner.args[0], relax.Var):
            continue
        rounded = lookup(inner.args[0])
        if op_name(rounded) == "relax.round" and all(same(q, other) for other in (inner.args[1], rounded.args[0])):
            return relax.op.round(q)
    return value


def same(a: Any, b: Any) -> bool:
    """Whether two operands are one variable, or equal constants."""
    arrays = constant(a), constant(b)
    if any(array is None for array in arrays):
        return bool(a.same_as(b))
    return bool(np.array_equal(*arrays))
