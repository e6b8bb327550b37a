"""Averages and bilinear resizing: weighted sums of codes, scaled once."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from tvm import relax

from relay_passes import dataflow, ops
from relay_passes.abstract import Quantised
from relay_passes.integer_forms.base import NOT_KNOWN, Layers, Taken, scaled
from relay_passes.integer_forms.moving import moving
from relay_passes.ops import literal, shape_of
from relay_passes.quant_spec import NoMatch
from relay_passes.window_sums import Windows, adaptive_windows, pooling_windows, window_sums
from schedules.dot_problem import INT32_MAX, Operand

# What one tap of a bilinear window may count at most; beyond, weights are no simple fractions.
_FINEST = 1 << 10


def _source(layers: Layers, call: Any) -> Quantised | NoMatch:
    source = layers.quantised(call.args[0])
    if source is None:
        return NOT_KNOWN
    return source if source.spec.axis is None else NoMatch("its input is quantised per channel")


def _too_many(operand: Operand, count: int) -> NoMatch | None:
    """Why so many codes cannot be summed; neither the sum of the codes nor that of their values may overflow."""
    largest = count * max(operand.bound, 255)
    return NoMatch(f"its sums reach {largest}; int32 holds {INT32_MAX}") if largest > INT32_MAX else None


def _windowed(layers: Layers, call: Any, scope: dataflow.Scope, name: str, axes: Sequence[Windows]) -> Taken | NoMatch:
    """Windows along the one or two last axes of an NCW or NCHW tensor."""
    source = _source(layers, call)
    if isinstance(source, NoMatch):
        return source
    rows, columns = axes if len(axes) == 2 else (Windows.averages([([0], 1)]), axes[0])
    operand = source.spec.operand
    count = rows.total * columns.total
    if why := _too_many(operand, count):
        return why
    codes = source.codes
    if len(axes) == 1:
        n, c, w = source.shape
        codes = scope.emit(relax.op.reshape(codes, relax.ShapeExpr([n, c, 1, w])), f"{name}/rows")
    acc = scope.emit(window_sums(codes, operand.offset, operand.multiplier, rows, columns), f"{name}/sums")
    if shape_of(acc) != shape_of(call):
        acc = scope.emit(relax.op.reshape(acc, relax.ShapeExpr(list(shape_of(call)))), f"{name}/shaped")
    return scaled(acc, 1, operand.bound * count, source.spec.step / (rows.denominator * columns.denominator))


def average_pool(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """``avg_pool1d`` and ``avg_pool2d``; windows may count differently many pixels."""
    if call.attrs.layout not in ("NCW", "NCHW"):
        return NoMatch(f"its layout is {call.attrs.layout}, not NCW or NCHW")
    axes = pooling_windows(call)
    if axes is None:
        return NoMatch("one of its windows holds only padding")
    return _windowed(layers, call, scope, name, axes)


def adaptive_average(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """Adaptive average pooling, windows of uneven extents too."""
    if call.attrs.layout not in ("NCW", "NCHW"):
        return NoMatch(f"its layout is {call.attrs.layout}, not NCW or NCHW")
    return _windowed(layers, call, scope, name, adaptive_windows(call))


def mean(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """``mean`` or ``sum`` along any axes."""
    source = _source(layers, call)
    if isinstance(source, NoMatch):
        return source
    rank, out = len(source.shape), shape_of(call)
    axes = [int(a) % rank for a in call.attrs.axis] if call.attrs.axis is not None else list(range(rank))
    count = int(np.prod([source.shape[a] for a in axes]))
    operand = source.spec.operand
    if not out:
        return NoMatch("it leaves no axis")
    if why := _too_many(operand, count):
        return why
    wide = scope.emit(relax.op.astype(source.codes, "int32"), f"{name}/wide")
    acc = scope.emit(relax.op.sum(wide, axes, bool(call.attrs.keepdims)), f"{name}/sums")
    if operand.multiplier != 1:
        acc = scope.emit(relax.op.multiply(acc, literal(np.int32(operand.multiplier))), f"{name}/multiplied")
    if operand.offset:
        acc = scope.emit(relax.op.add(acc, literal(np.int32(count * operand.offset))), f"{name}/offset")
    divisor = count if ops.op_name(call) == "relax.mean" else 1
    return scaled(acc, min(1, len(out) - 1), count * operand.bound, source.spec.step / divisor)


def resize(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """``image.resize2d``: nearest only moves values; linear sums them with weights that are dyadic fractions."""
    a = call.attrs
    if a.layout != "NCHW":
        return NoMatch(f"its layout is {a.layout}, not NCHW")
    if a.method == "nearest_neighbor":
        return moving(layers, name, call, scope)
    if a.method != "linear":
        return NoMatch(f"it interpolates by the method {a.method}")
    axes = []
    for n, o in zip(shape_of(call.args[0])[2:], shape_of(call)[2:], strict=True):
        taps = [_linear(_coordinate(str(a.coordinate_transformation_mode), i, n, o), n) for i in range(o)]
        if any(None in window for window in taps):
            return NoMatch(f"its coordinates are of the mode {a.coordinate_transformation_mode}")
        axis = Windows.of([[tap for tap in window if tap is not None] for window in taps])
        if axis.denominator > _FINEST or axis.denominator & (axis.denominator - 1):
            return NoMatch(f"its weights are multiples of 1/{axis.denominator}, which no float holds exactly")
        axes.append(axis)
    return _windowed(layers, call, scope, name, axes)


def _coordinate(mode: str, i: int, n: int, o: int) -> Fraction | None:
    """Where pixel i of o lies among n (ONNX ``Resize``, ``coordinate_transformation_mode``)."""
    if mode == "align_corners":
        return Fraction(i * (n - 1), o - 1) if o > 1 else Fraction(0)
    if mode == "asymmetric":
        return Fraction(i * n, o)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and o > 1):
        return Fraction((2 * i + 1) * n, 2 * o) - Fraction(1, 2)
    return Fraction(0) if mode == "pytorch_half_pixel" else None


def _linear(coordinate: Fraction | None, n: int) -> list[tuple[int, Fraction] | None]:
    """The two pixels beside a coordinate with their weights; those beyond the edge are the edge."""
    if coordinate is None:
        return [None]
    at = min(max(coordinate, Fraction(0)), Fraction(n - 1))
    low = at.numerator // at.denominator
    high = min(low + 1, n - 1)
    return [(low, 1 - (at - low)), (high, at - low)]
