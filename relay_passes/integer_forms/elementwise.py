"""Elementwise operators: one more step of a function of an accumulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from relay_passes import dataflow
from relay_passes.abstract import channel_vector
from relay_passes.integer_forms.base import NOT_KNOWN, Form, Layers, Taken
from relay_passes.ops import constant, shape_of
from relay_passes.quant_spec import NoMatch


def relu(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """``max(x, 0)``: one step."""
    source = layers.accumulated(call.args[0])
    return NOT_KNOWN if source is None else Taken(source.then(lambda v, row: np.maximum(v, np.float32(0))))


def clip(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """A clip between two numbers: one step."""
    source = layers.accumulated(call.args[0])
    lo, hi = (np.float32(a.value) for a in call.args[1:3])
    return NOT_KNOWN if source is None else Taken(source.then(lambda v, row: np.clip(v, lo, hi)))


def with_constant(operation: Callable[[Any, Any], Any]) -> Form:
    """``operation(x, constant)`` with a constant that varies along the channels only."""

    def form(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
        source, operand = layers.accumulated(call.args[0]), constant(call.args[1])
        if source is None:
            return NOT_KNOWN
        if operand is None:
            return NoMatch("its second operand is not constant")
        vector = channel_vector(operand, shape_of(call), source.axis)
        if vector is None or shape_of(call) != shape_of(source.acc):
            return NoMatch("its constant varies along more than the channels")
        return Taken(source.then(lambda v, row: operation(v, vector)))

    return form


def commuting(operation: Callable[[Any, Any], Any]) -> Form:
    """As `with_constant`, the constant on either side."""
    form = with_constant(operation)

    def either(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
        if constant(call.args[0]) is not None:
            swapped = scope.builder.normalize(type(call)(call.op, [call.args[1], call.args[0]], attrs=call.attrs))
            return form(layers, name, swapped, scope)
        return form(layers, name, call, scope)

    return either


def add(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """A bias, or a residual join with codes on at least one side."""
    if any(constant(a) is not None for a in call.args):
        return commuting(np.add)(layers, name, call, scope)
    sides = [layers.quantised(a) for a in call.args]
    if not any(sides):
        return NoMatch("it joins two tensors of which none is quantised, so its result depends on two accumulators")
    side = sides[1] or sides[0]
    source = layers.accumulated(call.args[0] if sides[1] else call.args[1])
    if source is None or side is None:
        return NOT_KNOWN
    if source.side is not None:
        return NoMatch("it joins a third tensor")
    if side.spec.axis is not None or side.shape != shape_of(source.acc):
        return NoMatch("the tensor it adds is broadcast or quantised per channel")
    values = side.spec.values(np.arange(1 << side.spec.bits))
    return Taken(source.then(lambda v, row: v + values[row], side))
