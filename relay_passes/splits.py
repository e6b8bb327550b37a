"""One spelling of what takes a tensor apart: an entry of a split is a slice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from tvm import relax

from relay_passes.ops import op_name, shape_of


def as_slice(value: Any, lookup: Callable[[Any], Any]) -> Any:
    """The ``strided_slice`` that an entry of a ``split`` is; any other value as it is.

    Parameters
    ----------
    value : Expr
        A bound value.
    lookup : callable
        The value that a variable is bound to.
    """
    if not isinstance(value, relax.TupleGetItem) or not isinstance(value.tuple_value, relax.Var):
        return value
    split = lookup(value.tuple_value)
    if op_name(split) != "relax.split":
        return value
    x, sections = split.args[0], split.attrs.indices_or_sections
    shape = shape_of(x)
    axis = int(split.attrs.axis) % len(shape)
    extent = shape[axis]
    if isinstance(sections, int) or not hasattr(sections, "__len__"):
        size = -(-extent // int(sections))
        inner = range(size, size * int(sections), size)
    else:
        inner = [int(v) for v in sections]
    bounds = [min(v, extent) for v in (0, *inner, extent)]
    begin, end = list(pairwise(bounds))[value.index]
    return relax.op.strided_slice(x, [axis], [begin], [end])
