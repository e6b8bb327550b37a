"""Operators that only move values, or pick the largest: the same on codes, wherever the quantiser stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tvm import relax

from relay_passes import dataflow, ops
from relay_passes.abstract import Quantised
from relay_passes.integer_forms.base import NOT_KNOWN, Layers, Taken
from relay_passes.moved import Move, Moved, moving_call
from relay_passes.ops import constant, literal, op_name, shape_of
from relay_passes.quant_spec import NoMatch, QuantSpec


def moving(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """Codes of one grid: moved at once. Anything else: `Moved`, so that a quantiser that follows can be done first."""
    fields = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else [call.args[0]]
    if not any(isinstance(f, relax.Var) and f in layers.known for f in fields):
        return NOT_KNOWN
    reason = _declines(call)
    if reason:
        return NoMatch(reason)
    sources = [layers.quantised(field) for field in fields]
    quantised = [source for source in sources if source is not None]
    spec = common_grid([source.spec for source in quantised]) if len(quantised) == len(fields) else None
    if spec is not None:
        codes = [_on_grid(source, spec, name, scope) for source in quantised]
        moved = scope.emit(moving_call(call, codes), f"{name}/codes")
        return Taken(Quantised(moved, spec), ops.dequantize(moved, spec))
    return Taken(_moved(layers, call, fields))


def _declines(call: Any) -> str:
    """Why an operator moves in a way that is not known before it runs; empty if it does not."""
    operator = op_name(call)
    if operator == "relax.take":
        indices = constant(call.args[1])
        if indices is None:
            return "its indices are not constant"
        if np.any(indices < 0):
            return "its indices count from the end"
    if any(isinstance(argument, relax.Var) for argument in call.args[1:]):
        return "what it moves is computed at run time"
    return ""


def _moved(layers: Layers, call: Any, fields: Sequence[Any]) -> Moved:
    parts: list[Any] = []
    falling: list[Any] = []
    operands: list[Move | int] = []
    for field in fields:
        inner = layers.moved(field)
        if inner is None:
            operands.append(len(parts))
            parts.append(field)
            falling.append(np.zeros((), np.bool_))
        else:
            operands.append(inner.move.numbered_from(len(parts)))
            parts += inner.parts
            falling += inner.falling
    return Moved(tuple(parts), Move(call, tuple(operands)), tuple(falling))


def common_grid(specs: Sequence[QuantSpec]) -> QuantSpec | None:
    """One quantiser whose codes hold the values of all, bit for bit; None if there is none of 8 bits.

    Steps that are whole multiples of the smallest, exactly, and zero points that are integers share a grid: a value is
    then one integer times the smallest step, and both products are the same real number, rounded once.
    """
    first = specs[0]
    if any(spec.axis is not None for spec in specs):
        return None
    if all(_values_alike(first, spec) for spec in specs):
        return first
    if any(spec.multiplier != 1 for spec in specs):
        return None
    step = min((spec.scale.reshape(()) for spec in specs), key=float)
    ratios = [_ratio(spec, step) for spec in specs]
    if any(ratio != round(ratio) for ratio in ratios):
        return None
    lows = [int(spec.offset.reshape(())) * int(ratio) for spec, ratio in zip(specs, ratios, strict=True)]
    highs = [low + spec.levels * int(ratio) for low, spec, ratio in zip(lows, specs, ratios, strict=True)]
    if max(highs) - min(lows) > 255:
        return None
    return QuantSpec(np.asarray(step, np.float32), np.zeros((), np.float32), min(lows), max(highs))


def _ratio(spec: QuantSpec, step: Any) -> float:
    return float(spec.scale.reshape(()).astype(np.float64) / np.float64(step))


def _values_alike(a: QuantSpec, b: QuantSpec) -> bool:
    numbers = [(s.qmin, s.qmax, float(s.scale.reshape(())), float(s.zero_point.reshape(()))) for s in (a, b)]
    return numbers[0] == numbers[1]


def _on_grid(source: Quantised, spec: QuantSpec, name: str, scope: dataflow.Scope) -> Any:
    """Codes of a quantiser as codes of `common_grid`'s."""
    if _values_alike(source.spec, spec):
        return source.codes
    ratio = round(_ratio(source.spec, spec.scale.reshape(())))
    shift = int(source.spec.offset.reshape(())) * ratio - spec.qmin
    codes = source.codes
    if ratio != 1:
        codes = scope.emit(relax.op.multiply(codes, literal(np.uint8(ratio))), f"{name}/regridded")
    return scope.emit(relax.op.add(codes, literal(np.uint8(shift))), f"{name}/regridded")


def pushed_parts(moved: Moved, parts: Sequence[Any], falling: Sequence[Any]) -> Moved:
    """The same move of other parts."""
    return replace(moved, parts=tuple(parts), falling=tuple(falling))


def channel_axis(layers: Layers, part: Any) -> int:
    """The axis that constants may vary along where a part is."""
    source = layers.accumulated(part)
    return source.axis if source is not None else min(1, len(shape_of(part)) - 1)
