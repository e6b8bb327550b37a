"""Pooling: averages are linear; a maximum hands its difference to the positions that hold it in either run."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.attribution.kernels import max_pool2d_input_multiplier
from relay_passes.attribution.rules.base import Context, RuleFunction
from relay_passes.attribution.taps import transposed
from relay_passes.ops import literal, shape_of
from relay_passes.window_sums import Windows, adaptive_windows, pooling_windows


def max_pool2d(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """See `kernels.max_pool2d_input_multiplier`; complete for overlapping windows too."""
    x, a = call.args[0], call.attrs
    if a.layout != "NCHW":
        raise NotImplementedError("only NCHW max pooling has a rule")
    return [context.emit(max_pool2d_input_multiplier(g, x, context.references[x], a))]


def max_pool1d(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """As an image of one row."""
    a = call.attrs
    if a.layout != "NCW":
        raise NotImplementedError("only NCW max pooling has a rule")
    before, after = (int(v) for v in a.padding)
    pool = SimpleNamespace(
        pool_size=[1, *a.pool_size], strides=[1, *a.strides], padding=[0, before, 0, after], dilation=[1, *a.dilation]
    )
    return [_largest(call.args[0], g, pool, lambda v: (shape_of(v)[0], shape_of(v)[1], 1, shape_of(v)[2]), context)]


def maximum_along_axes(sign: int) -> RuleFunction:
    """``max`` (1) or ``min`` (-1) along the pixels, or whichever axes come last: one window holds them all."""

    def rule(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
        x = call.args[0]
        rank = len(shape_of(x))
        axes = sorted(int(a) % rank for a in call.attrs.axis) if call.attrs.axis is not None else list(range(rank))
        if 0 in axes or axes != list(range(rank - len(axes), rank)):
            raise NotImplementedError("it does not run along the last axes")
        count = int(np.prod(shape_of(x)[axes[0] :]))
        pool = SimpleNamespace(pool_size=[1, count], strides=[1, 1], padding=[0] * 4, dilation=[1, 1])

        def image(value: Any) -> tuple[int, ...]:
            shape = shape_of(value)
            return shape[0], int(np.prod(shape[1 : axes[0]])), 1, int(np.prod(shape[axes[0] :]))

        kept = _shape(g, (shape_of(x)[0], int(np.prod(shape_of(x)[1 : axes[0]])), 1, 1), context)
        return [_largest(x, kept, pool, image, context, sign)]

    return rule


def _shape(value: Any, shape: tuple[int, ...], context: Context) -> Any:
    return context.emit(relax.op.reshape(value, relax.ShapeExpr(list(shape))))


def _largest(x: Any, g: Any, pool: Any, image: Callable[[Any], Any], context: Context, sign: int = 1) -> Any:
    """Max pooling of x seen as an image; the smallest value is the largest of the negated ones."""
    both = [x, context.references[x]]
    if sign < 0:
        both = [context.emit(relax.op.negative(value)) for value in both]
    here, there = (_shape(value, image(value), context) for value in both)
    if len(shape_of(g)) == 3:
        g = _shape(g, (shape_of(g)[0], shape_of(g)[1], 1, shape_of(g)[2]), context)
    return _shape(context.emit(max_pool2d_input_multiplier(g, here, there, pool)), shape_of(x), context)


def average_pool(windows: Callable[[Any], list[Windows] | None]) -> RuleFunction:
    """The transpose of an average: each input gets its windows' multipliers over their counts."""

    def rule(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
        axes = windows(call) if call.attrs.layout in ("NCW", "NCHW") else None
        if axes is None:
            raise NotImplementedError("only NCW and NCHW pooling of windows that hold a pixel has a rule")
        for axis, tables in enumerate(axes, 2):
            shares, extent = tables.shares, shape_of(call.args[0])[axis]
            whole = np.pad(shares, [(0, 0), (0, extent - shares.shape[1])])
            g = context.emit(transposed(g, axis, whole))
        return [g]

    return rule


def mean(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """G over the count, broadcast to the input's shape."""
    shape = shape_of(call.args[0])
    axes = sorted(int(a) % len(shape) for a in call.attrs.axis) if call.attrs.axis else list(range(len(shape)))
    return [_spread(g, shape, axes, context)]


def total(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """G, broadcast to the input's shape."""
    shape = shape_of(call.args[0])
    axes = [int(a) % len(shape) for a in call.attrs.axis] if call.attrs.axis is not None else list(range(len(shape)))
    kept = _shape(g, tuple(1 if i in axes else extent for i, extent in enumerate(shape)), context)
    return [context.emit(relax.op.broadcast_to(kept, relax.ShapeExpr(list(shape))))]


def _spread(g: Any, shape: tuple[int, ...], axes: list[int], context: Context) -> Any:
    kept = relax.ShapeExpr([1 if i in axes else extent for i, extent in enumerate(shape)])
    count = np.float32(np.prod([shape[i] for i in axes]))
    share = context.emit(relax.op.divide(context.emit(relax.op.reshape(g, kept)), literal(count)))
    return context.emit(relax.op.broadcast_to(share, relax.ShapeExpr(list(shape))))


POOLING = {
    "relax.nn.max_pool1d": max_pool1d,
    "relax.nn.max_pool2d": max_pool2d,
    "relax.max": maximum_along_axes(1),
    "relax.min": maximum_along_axes(-1),
    "relax.nn.avg_pool1d": average_pool(pooling_windows),
    "relax.nn.avg_pool2d": average_pool(pooling_windows),
    "relax.nn.adaptive_avg_pool1d": average_pool(adaptive_windows),
    "relax.nn.adaptive_avg_pool2d": average_pool(adaptive_windows),
    "relax.mean": mean,
    "relax.sum": total,
}
