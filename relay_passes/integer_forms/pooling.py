"""Average pooling: sums of codes, scaled once."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from relay_passes import dataflow, ops
from relay_passes.integer_forms.base import NOT_KNOWN, Layers, Taken, scaled
from relay_passes.ops import shape_of
from relay_passes.quant_spec import NoMatch


def _pooled(layers: Layers, call: Any, scope: dataflow.Scope, name: str, **window: Any) -> Taken | NoMatch:
    source = layers.quantised(call.args[0])
    if source is None:
        return NOT_KNOWN
    if source.spec.axis is not None:
        return NoMatch("its input is quantised per channel")
    spec, count = source.spec, int(np.prod(window["kernel"]))
    operand = spec.operand
    acc = scope.emit(ops.sum_pool2d(source.codes, operand.offset, operand.multiplier, **window), f"{name}/sums")
    if shape_of(acc) != shape_of(call):
        acc = scope.emit(relax.op.reshape(acc, relax.ShapeExpr(list(shape_of(call)))), f"{name}/shaped")
    return scaled(acc, 1, count * operand.bound, spec.step / count)


def average_pool(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """``avg_pool2d`` whose windows all hold as many pixels."""
    a = call.attrs
    padding = [int(v) for v in a.padding]
    if a.layout != "NCHW" or a.ceil_mode or any(int(d) != 1 for d in a.dilation):
        return NoMatch("its layout, ceil mode or dilation is not supported on codes")
    if any(padding) and not a.count_include_pad:
        return NoMatch("it leaves padding out of its counts, so they differ from pixel to pixel")
    window = {"kernel": [int(v) for v in a.pool_size], "stride": [int(v) for v in a.strides], "padding": padding}
    return _pooled(layers, call, scope, name, **window)


def global_average(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """``mean`` over the pixels, or adaptive average pooling to one pixel."""
    shape = shape_of(call.args[0])
    if call.op.name == "relax.mean":
        axes = sorted(int(a) % len(shape) for a in call.attrs.axis) if call.attrs.axis else list(range(len(shape)))
        whole = len(shape) == 4 and axes == [2, 3]
    else:
        whole = shape_of(call)[2:] == (1, 1) and call.attrs.layout == "NCHW"
    if not whole:
        return NoMatch("it is no average over all pixels of an NCHW tensor")
    return _pooled(layers, call, scope, name, kernel=list(shape[2:]), stride=[1, 1], padding=[0, 0, 0, 0])
