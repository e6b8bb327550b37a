"""Pooling: averages are linear; a maximum hands its difference to the positions that hold it in either run."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.attribution.carriers.base import LinearMap
from relay_passes.attribution.rules.base import Context, RuleFunction
from relay_passes.attribution.taps import taking
from relay_passes.ops import literal, shape_of
from relay_passes.window_sums import Windows, adaptive_windows, pooling_windows


def max_pool2d(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """See `kernels.max_pool2d_input_multiplier`; complete for overlapping windows too."""
    x, a = call.args[0], call.attrs
    if a.layout != "NCHW":
        raise NotImplementedError("only NCHW max pooling has a rule")
    return [_pooled(g, x, lambda value: value, a, context)]


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
    """``max`` (1) or ``min`` (-1): one window holds all positions along the axes."""

    def rule(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
        x = call.args[0]
        shape, axes = shape_of(x), sorted(_axes(call))
        kept = [i for i in range(len(shape)) if i not in axes]
        first = shape[0] if 0 in kept else 1
        rows, count = (int(np.prod([shape[i] for i in along])) for along in (kept, axes))
        pool = SimpleNamespace(pool_size=[1, count], strides=[1, 1], padding=[0] * 4, dilation=[1, 1])
        order = [*kept, *axes]

        def seen(value: Any) -> Any:
            batch = shape_of(value)[0]
            if 0 in axes and batch != shape[0]:
                value, batch = context.emit(relax.op.broadcast_to(value, relax.ShapeExpr(list(shape)))), shape[0]
            turned = context.emit(relax.op.permute_dims(value, order)) if order != sorted(order) else value
            turned = turned if sign > 0 else context.emit(relax.op.negative(turned))
            lead = batch if 0 in kept else 1
            image = relax.ShapeExpr([lead, rows // first, 1, count])
            return context.emit(relax.op.reshape(turned, image))

        back = _pooled(context.reshape(g, (first, rows // first, 1, 1)), x, seen, pool, context)
        whole = context.reshape(back, [shape[i] for i in order])
        turn = [order.index(i) for i in range(len(shape))]
        return [whole if order == sorted(order) else context.move(whole, lambda e: relax.op.permute_dims(e, turn))]

    return rule


def _largest(x: Any, g: Any, pool: Any, image: Callable[[Any], Any], context: Context) -> Any:
    """Max pooling of x seen as an image."""

    def seen(value: Any) -> Any:
        return context.emit(relax.op.reshape(value, relax.ShapeExpr(list(image(value)))))

    shape = context.carrier.shape(g)
    g = context.reshape(g, (shape[0], shape[1], 1, shape[2])) if len(shape) == 3 else g
    return context.reshape(_pooled(g, x, seen, pool, context), shape_of(x))


def _pooled(g: Any, x: Any, seen: Callable[[Any], Any], pool: Any, context: Context) -> Any:
    """The max pooling as a linear map of what stands at its result: each method knows where a maximum's change goes."""
    here = seen(x)
    there = seen(context.references[x]) if x in context.references else None

    def transpose(context: Context, g: Any, w: Any) -> Any:
        return context.slope.largest(context, g, here, there, pool)

    def forward(context: Context, v: Any, w: Any) -> Any:
        raise NotImplementedError("a maximum is not linear in its input")

    through = LinearMap("max_pool", np.ones((), np.float32), transpose, forward, pool, (here, there))
    return context.linear(g, through, x)


def average_pool(windows: Callable[[Any], list[Windows] | None]) -> RuleFunction:
    """The transpose of an average: each input gets its windows' multipliers over their counts."""

    def rule(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
        axes = windows(call) if call.attrs.layout in ("NCW", "NCHW", "NCDHW") else None
        if axes is None:
            raise NotImplementedError("only NCW, NCHW and NCDHW pooling of windows that hold a pixel has a rule")
        for axis, tables in enumerate(axes, 2):
            shares, extent = tables.shares, shape_of(call.args[0])[axis]
            whole = np.pad(shares, [(0, 0), (0, extent - shares.shape[1])])
            g = context.linear(g, taking(axis, whole), call.args[0])
        return [g]

    return rule


def mean(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """G over the count, broadcast to the input's shape."""
    shape, axes = shape_of(call.args[0]), _axes(call)
    count = np.float32(np.prod([shape[i] for i in axes]))
    return [context.scale(_spread(g, shape, axes, context), literal(np.float32(1) / count))]


def total(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """G, broadcast to the input's shape."""
    return [_spread(g, shape_of(call.args[0]), _axes(call), context)]


def _axes(call: Any) -> list[int]:
    rank = len(shape_of(call.args[0]))
    return [int(a) % rank for a in call.attrs.axis] if call.attrs.axis is not None else list(range(rank))


def _spread(g: Any, shape: tuple[int, ...], axes: list[int], context: Context) -> Any:
    kept = context.reshape(g, [1 if i in axes else extent for i, extent in enumerate(shape)])
    return context.repeat(kept, shape)


POOLING = {
    "relax.nn.max_pool1d": max_pool1d,
    "relax.nn.max_pool2d": max_pool2d,
    "relax.max": maximum_along_axes(1),
    "relax.min": maximum_along_axes(-1),
    "relax.nn.avg_pool1d": average_pool(pooling_windows),
    "relax.nn.avg_pool2d": average_pool(pooling_windows),
    "relax.nn.avg_pool3d": average_pool(pooling_windows),
    "relax.nn.adaptive_avg_pool1d": average_pool(adaptive_windows),
    "relax.nn.adaptive_avg_pool2d": average_pool(adaptive_windows),
    "relax.mean": mean,
    "relax.sum": total,
}
