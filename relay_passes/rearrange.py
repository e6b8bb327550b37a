"""One spelling of what rearranges a tensor: an entry of a split is a slice, a pixel shuffle a transposition."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from tvm import relax

from relay_passes.ops import op_name, shape_of


def rearranged(value: Any, lookup: Callable[[Any], Any]) -> Any:
    """The value in the one spelling, or as it is. A row of `canonicalize.REWRITES`."""
    if op_name(value) == "relax.nn.pixel_shuffle":
        return _pixel_shuffle(value)
    if isinstance(value, relax.TupleGetItem) and isinstance(value.tuple_value, relax.Var):
        source = lookup(value.tuple_value)
        return _slice(source, value.index) if op_name(source) == "relax.split" else value
    return value


def _slice(split: Any, index: int) -> Any:
    x, sections = split.args[0], split.attrs.indices_or_sections
    shape = shape_of(x)
    axis = int(split.attrs.axis) % len(shape)
    extent = shape[axis]
    if hasattr(sections, "__len__"):
        inner = [int(v) for v in sections]
    else:
        size = -(-extent // int(sections))
        inner = list(range(size, size * int(sections), size))
    begin, end = list(pairwise(min(v, extent) for v in (0, *inner, extent)))[index]
    return relax.op.strided_slice(x, [axis], [begin], [end])


def _pixel_shuffle(call: Any) -> Any:
    """TVM 0.27 knows the operator, but cannot compile it."""
    x, r = call.args[0], int(call.attrs.upscale_factor)
    *batch, c, h, w = shape_of(x)
    k, out = len(batch), c // (r * r)
    blocks = relax.op.reshape(x, relax.ShapeExpr([*batch, out, r, r, h, w]))
    order = [*range(k + 1), k + 3, k + 1, k + 4, k + 2]
    return relax.op.reshape(relax.op.permute_dims(blocks, order), relax.ShapeExpr([*batch, out, h * r, w * r]))
