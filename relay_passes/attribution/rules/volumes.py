"""Convolutions of volumes as convolutions of images: taps of the depth are channels, slices of the result are items.

So every carrier goes through them that goes through images, by the same kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from relay_passes.attribution.rules.composed import composed
from relay_passes.ops import constant, literal, shape_of


def conv3d(emit: Any, call: Any, x: Any, w: Any) -> Any:
    """As `conv2d` of an image for each slice of the result, with the taps of the depth as channels."""
    a, groups = call.attrs, int(call.attrs.groups)
    _plain(a, "OIDHW")
    (n, c, depth, height, width), (o, per, taps, kh, kw) = shape_of(x), shape_of(w)
    front, top, left, back, bottom, right = (int(p) for p in a.padding)
    stride, dilation = ([int(v) for v in values] for values in (a.strides, a.dilation))
    if front or back:
        x = emit(relax.op.nn.pad(x, [0, 0, 0, 0, front, back, 0, 0, 0, 0]))
    slices = (depth + front + back - (taps - 1) * dilation[0] - 1) // stride[0] + 1
    at = np.arange(slices)[:, None] * stride[0] + np.arange(taps) * dilation[0]
    x = emit(relax.op.take(x, literal(at.reshape(-1).astype(np.int64)), axis=2, mode="clip"))
    x = emit(relax.op.reshape(x, relax.ShapeExpr([n, groups, c // groups, slices, taps, height, width])))
    x = emit(relax.op.permute_dims(x, [0, 3, 1, 4, 2, 5, 6]))
    x = emit(relax.op.reshape(x, relax.ShapeExpr([n * slices, c * taps, height, width])))
    w = _arranged(emit, w, [0, 2, 1, 3, 4], [o, taps * per, kh, kw])
    y = emit(
        relax.op.nn.conv2d(
            x, w, strides=stride[1:], padding=(top, left, bottom, right), dilation=dilation[1:], groups=groups
        )
    )
    y = emit(relax.op.reshape(y, relax.ShapeExpr([n, slices, *shape_of(y)[1:]])))
    return emit(relax.op.permute_dims(y, [0, 2, 1, 3, 4]))


def conv3d_transpose(emit: Any, call: Any, x: Any, w: Any) -> Any:
    """As `conv2d_transpose` of each slice, with the taps of the depth as channels, added up where they fall."""
    a, groups = call.attrs, int(call.attrs.groups)
    _plain(a, "IODHW")
    (n, c, depth, height, width), (_, per, taps, kh, kw) = shape_of(x), shape_of(w)
    front, top, left, back, bottom, right = (int(p) for p in a.padding)
    stride, dilation, extra = ([int(v) for v in values] for values in (a.strides, a.dilation, a.output_padding))
    x = emit(relax.op.permute_dims(x, [0, 2, 1, 3, 4]))
    x = emit(relax.op.reshape(x, relax.ShapeExpr([n * depth, c, height, width])))
    w = _arranged(emit, w, [0, 1, 2, 3, 4], [c, per * taps, kh, kw])
    y = emit(
        relax.op.nn.conv2d_transpose(
            x,
            w,
            strides=stride[1:],
            padding=(top, left, bottom, right),
            output_padding=extra[1:],
            dilation=dilation[1:],
            groups=groups,
        )
    )
    slices = (depth - 1) * stride[0] + (taps - 1) * dilation[0] + 1 + extra[0] - front - back
    falls = (np.arange(depth)[:, None] * stride[0] + np.arange(taps) * dilation[0] - front).reshape(-1)
    here = [np.flatnonzero(falls == at) for at in range(slices)]
    # As many for each slice, with a 0 behind them all for those that have fewer. A sum of what is taken keeps splits.
    most, none = max(1, *(len(found) for found in here)), depth * taps
    at = np.array([[*found, *[none] * (most - len(found))] for found in here], np.int64)
    channels, (rows, columns) = groups * per, shape_of(y)[2:]
    y = emit(relax.op.reshape(y, relax.ShapeExpr([n, depth, channels, taps, rows, columns])))
    y = emit(relax.op.permute_dims(y, [0, 2, 1, 3, 4, 5]))
    y = emit(relax.op.reshape(y, relax.ShapeExpr([n, channels, depth * taps, rows, columns])))
    y = emit(relax.op.nn.pad(y, [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]))
    y = emit(relax.op.take(y, literal(at.reshape(-1)), axis=2, mode="clip"))
    y = emit(relax.op.reshape(y, relax.ShapeExpr([n, channels, slices, most, rows, columns])))
    return emit(relax.op.sum(y, [3]))


def _plain(attrs: Any, kernel: str) -> None:
    if str(attrs.data_layout) != "NCDHW" or str(attrs.kernel_layout) != kernel:
        raise NotImplementedError(f"only NCDHW volumes with {kernel} weights have a rule")


def _arranged(emit: Any, w: Any, axes: list[int], shape: list[int]) -> Any:
    array = constant(w)
    if array is not None:
        return literal(np.require(array.transpose(axes).reshape(shape), requirements="C"))
    return emit(relax.op.reshape(emit(relax.op.permute_dims(w, axes)), relax.ShapeExpr(shape)))


VOLUMES = {
    "relax.nn.conv3d": composed(conv3d, items=True),
    "relax.nn.conv3d_transpose": composed(conv3d_transpose, items=True),
}
