"""Operators that move values without changing them: the multipliers move back."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.attribution.rules.base import Context
from relay_passes.attribution.taps import chosen, resize_matrix, taking
from relay_passes.ops import constant, shape_of

# Beyond this many pairs of positions before and after, a table of which is which takes up gigabytes.
_LARGEST_TABLE = 1 << 28


def _slice(g: Any, axis: int, begin: int, end: int, context: Context) -> Any:
    return context.move(g, lambda e: relax.op.strided_slice(e, [axis], [begin], [end]))


def reshape(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """Back to the input's shape."""
    return [context.reshape(g, shape_of(call.args[0])), *[None] * (len(call.args) - 1)]


def permute_dims(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """The inverse permutation."""
    rank = len(shape_of(call.args[0]))
    axes = [int(a) % rank for a in call.attrs.axes] if call.attrs.axes else list(range(rank))[::-1]
    back = [axes.index(i) for i in range(rank)]
    return [context.move(g, lambda e: relax.op.permute_dims(e, back))]


def concat(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """Each tensor gets its slice."""
    fields = list(call.args[0].fields)
    axis = int(call.attrs.axis or 0) % len(shape_of(fields[0]))
    bounds = np.cumsum([0, *(shape_of(field)[axis] for field in fields)])
    return [[_slice(g, axis, int(begin), int(end), context) for begin, end in pairwise(bounds)]]


def stack(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """Each tensor gets its slice, without the new axis."""
    fields = list(call.args[0].fields)
    axis = int(call.attrs.axis or 0) % (len(shape_of(fields[0])) + 1)
    slices = [_slice(g, axis, i, i + 1, context) for i in range(len(fields))]
    return [[context.reshape(part, shape_of(field)) for part, field in zip(slices, fields, strict=True)]]


def strided_slice(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """Zero at what was left out."""
    shape = shape_of(call.args[0])
    axes, begins, ends = ([int(v) for v in a.fields] for a in call.args[1:4])
    strides = [int(v) for v in call.args[4].fields] if len(call.args) > 4 else [1] * len(axes)
    for axis, *bounds in zip(axes, begins, ends, strides, strict=True):
        taken = range(*slice(*bounds).indices(shape[axis]))
        if len(taken) != shape_of(call)[axis]:
            raise NotImplementedError("its bounds are read otherwise than NumPy's")
        g = context.linear(g, taking(axis % len(shape), chosen(taken, shape[axis])), call.args[0])
    return [g, *[None] * (len(call.args) - 1)]


def take(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """What was taken several times gets the sum."""
    shape, indices = shape_of(call.args[0]), constant(call.args[1])
    if indices is None or call.attrs.axis is None:
        raise NotImplementedError("its indices are not constant, or it has no axis")
    axis = int(call.attrs.axis) % len(shape)
    if indices.size * shape[axis] > _LARGEST_TABLE:
        raise NotImplementedError(f"it takes {indices.size} of {shape[axis]} positions: too many for a table")
    g = context.reshape(g, [*shape[:axis], indices.size, *shape[axis + 1 :]])
    at = np.clip(np.where(indices < 0, indices + shape[axis], indices).reshape(-1), 0, shape[axis] - 1)
    return [context.linear(g, taking(axis, chosen(at, shape[axis])), call.args[0]), None]


def flip(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """Flipped back."""
    return [context.move(g, lambda e: relax.op.flip(e, int(call.attrs.axis)))]


def repeat(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """The sum over the copies."""
    if call.attrs.axis is None:
        raise NotImplementedError("it repeats the flattened tensor")
    shape = shape_of(call.args[0])
    axis, copies = int(call.attrs.axis) % len(shape), int(call.attrs.repeats)
    at = np.repeat(np.arange(shape[axis]), copies)
    return [context.linear(g, taking(axis, chosen(at, shape[axis])), call.args[0])]


def tile(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """The sum over the copies."""
    shape = shape_of(call.args[0])
    out = context.carrier.shape(g)
    for axis, (extent, wide) in enumerate(zip((1,) * (len(out) - len(shape)) + shape, out, strict=True)):
        if extent == 1:
            g = context.total(g, [axis] if wide > 1 else [])
        elif wide != extent:
            g = context.linear(g, taking(axis, chosen(np.arange(wide) % extent, extent)), call.args[0])
    return [context.reshape(g, shape)]


def broadcast_to(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """The sum over the copies."""
    return [context.sum_to(g, shape_of(call.args[0])), None]


def resize2d(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """Each pixel gets what it weighs in the pixels made of it; rows and columns one after the other."""
    shape = shape_of(call.args[0])
    if call.attrs.layout != "NCHW":
        raise NotImplementedError("only NCHW images have a rule")
    for axis in (2, 3):
        matrix = resize_matrix(call.attrs, shape[axis], shape_of(call)[axis])
        g = context.linear(g, taking(axis, matrix), call.args[0])
    return [g, None]


def pad(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """What was there before gets its own; constants that surround it get nothing. Other modes are takes by then."""
    if str(call.attrs.pad_mode) != "constant":
        raise NotImplementedError("only a pad by a constant has a rule")
    before = [int(width) for width in call.attrs.pad_width][::2]
    ends = [b + extent for b, extent in zip(before, shape_of(call.args[0]), strict=True)]
    return [context.move(g, lambda e: relax.op.strided_slice(e, list(range(len(ends))), before, ends))]


def cumsum(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """What was added to all that follow gets their sum."""
    shape = shape_of(call.args[0])
    if call.attrs.axis is None:
        raise NotImplementedError("it runs along the flattened tensor")
    axis = int(call.attrs.axis) % len(shape)
    below = np.tril(np.ones((shape[axis], shape[axis]), np.float32), -1 if call.attrs.exclusive else 0)
    return [context.linear(g, taking(axis, below), call.args[0])]


def astype(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """G where no value changes; a cast to integers is a step like rounding, one to a mask a comparison with 0."""
    kept = str(call.attrs.dtype).startswith("float") or not str(call.args[0].ty.dtype).startswith("float")
    return [g if kept and str(call.attrs.dtype) != "bool" else context.carrier.unary(context, call, var, g)]


SHAPE = {
    "relax.cumsum": cumsum,
    "relax.astype": astype,
    "relax.reshape": reshape,
    "relax.flatten": reshape,
    "relax.squeeze": reshape,
    "relax.expand_dims": reshape,
    "relax.permute_dims": permute_dims,
    "relax.concat": concat,
    "relax.stack": stack,
    "relax.strided_slice": strided_slice,
    "relax.take": take,
    "relax.nn.pad": pad,
    "relax.flip": flip,
    "relax.repeat": repeat,
    "relax.tile": tile,
    "relax.broadcast_to": broadcast_to,
    "relax.image.resize2d": resize2d,
}
