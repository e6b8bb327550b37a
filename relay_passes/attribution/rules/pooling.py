"""Pooling: averages are linear; a maximum hands its difference to the positions that hold it in either run."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax
from tvm.relax.op.grad import avg_pool2d_backward

from relay_passes.attribution.kernels import max_pool2d_input_multiplier
from relay_passes.attribution.rules.base import Context
from relay_passes.ops import literal, shape_of


def max_pool2d(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """See `kernels.max_pool2d_input_multiplier`; complete for overlapping windows too."""
    x, a = call.args[0], call.attrs
    if a.layout != "NCHW" or a.ceil_mode:
        raise NotImplementedError("only NCHW max pooling without ceil mode has a rule yet")
    return [context.emit(max_pool2d_input_multiplier(g, x, context.references[x], a))]


def avg_pool2d(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """The transpose of an average: each input gets its windows' multipliers over the window's count."""
    a = call.attrs
    args = (a.pool_size, a.strides, a.padding, a.dilation, a.ceil_mode, a.count_include_pad, a.layout, a.out_layout)
    return [context.emit(avg_pool2d_backward(g, call.args[0], *args))]


def mean(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """G over the count, broadcast to the input's shape."""
    shape = shape_of(call.args[0])
    axes = sorted(int(a) % len(shape) for a in call.attrs.axis) if call.attrs.axis else list(range(len(shape)))
    return [_spread(g, shape, axes, context)]


def global_average(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """Adaptive average pooling to one pixel."""
    shape = shape_of(call.args[0])
    if shape_of(call)[2:] != (1, 1) or call.attrs.layout != "NCHW":
        raise NotImplementedError("only adaptive pooling of NCHW to one pixel has a rule yet")
    return [_spread(g, shape, [2, 3], context)]


def _spread(g: Any, shape: tuple[int, ...], axes: list[int], context: Context) -> Any:
    kept = relax.ShapeExpr([1 if i in axes else extent for i, extent in enumerate(shape)])
    count = np.float32(np.prod([shape[i] for i in axes]))
    share = context.emit(relax.op.divide(context.emit(relax.op.reshape(g, kept)), literal(count)))
    return context.emit(relax.op.broadcast_to(share, relax.ShapeExpr(list(shape))))


POOLING = {
    "relax.nn.max_pool2d": max_pool2d,
    "relax.nn.avg_pool2d": avg_pool2d,
    "relax.nn.adaptive_avg_pool2d": global_average,
    "relax.mean": mean,
}
