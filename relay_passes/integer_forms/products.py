"""Convolutions and dense layers: one low-bit ``dot`` each."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from relay_passes import dataflow, ops
from relay_passes.integer_forms.base import Layers, Taken, scaled
from relay_passes.ops import literal, shape_of
from relay_passes.problem import dot_attrs, dot_problem
from relay_passes.quant_spec import NoMatch


def product(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """``conv2d`` or ``matmul`` of codes and quantised constant weights."""
    dense = call.op.name == "relax.matmul"
    x, w = layers.quantised(call.args[0]), layers.weights.get(call.args[1])
    if x is None:
        return layers.why_not_quantised("input is", call.args[0])
    if w is None:
        declined = layers.names.get(call.args[1], "") in layers.declined
        if name in layers.off_grid and not declined:
            return NoMatch(f"its weights are not quantised: {layers.off_grid[name]}")
        return layers.why_not_quantised("weights are", call.args[1])
    codes, spec = w
    if not dense and (call.attrs.data_layout, call.attrs.kernel_layout) != ("NCHW", "OIHW"):
        return NoMatch(f"its layout is {call.attrs.data_layout} with {call.attrs.kernel_layout}, not NCHW with OIHW")
    if dense and codes.ndim != 2:
        return NoMatch(f"its weights have {codes.ndim} dimensions, not 2")
    if x.spec.axis is not None:
        return NoMatch("its input is quantised per channel, so products of different channels have different scales")
    if spec.axis not in (None, 1 if dense else 0):
        return NoMatch(f"its weights are quantised along axis {spec.axis}, which is not that of the outputs")
    source = x.codes
    if dense:
        codes, spec = np.ascontiguousarray(codes.T)[:, :, None, None], spec.moved(None if spec.axis is None else 0)
        if len(x.shape) != 2:
            flat = relax.ShapeExpr([int(np.prod(x.shape[:-1])), x.shape[-1]])
            source = scope.emit(relax.op.reshape(source, flat), f"{name}/rows")
    attrs = dot_attrs(name, x.spec, spec, None if dense else call.attrs)
    problem = dot_problem(shape_of(source), codes.shape, attrs)
    reason = problem.declines()
    if reason is not None:
        return NoMatch(reason)
    channels = codes.shape[0]
    out = (problem.width, channels) if dense else (problem.batch, channels, problem.out_height, problem.out_width)
    offset = np.broadcast_to(spec.offset, (channels,)).astype(np.int32)
    acc = scope.emit(ops.dot(source, literal(codes), literal(offset), out, **attrs), f"{name}/dot")
    shape = shape_of(call)
    if shape != out:
        acc = scope.emit(relax.op.reshape(acc, relax.ShapeExpr(list(shape))), f"{name}/shaped")
    axis = len(shape) - 1 if dense else 1
    layers.rows[name] = {"op": str(call.op.name), "bits": problem.name}
    return scaled(acc, axis, problem.accumulator_bound(), x.spec.step * spec.step)
