"""Elementwise operators: one more step of a function of an accumulator.

Steps that standard arithmetic defines are the graph's own float32 ones. Transcendental functions are taken correctly
rounded (float64, rounded once): runtimes differ in their last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from relay_passes import dataflow
from relay_passes.abstract import Float32, channel_vector
from relay_passes.integer_forms.base import NOT_KNOWN, Form, Layers, Taken
from relay_passes.ops import constant, shape_of
from relay_passes.quant_spec import NoMatch

MANY = NoMatch("its result depends on two accumulators")


def clip(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """A clip between two numbers: one step."""
    source = layers.accumulated(call.args[0])
    lo, hi = (np.float32(a.value) for a in call.args[1:3])
    return NOT_KNOWN if source is None else Taken(source.then(lambda v, row: np.clip(v, lo, hi)))


def function(of: Callable[[Float32], Float32], monotone: bool = True) -> Form:
    """A function of one operand, without parameters."""

    def form(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
        source = layers.accumulated(call.args[0])
        return NOT_KNOWN if source is None else Taken(source.then(lambda v, row: of(v), monotone=monotone))

    return form


def _rounded_once(of: Callable[[Any], Any]) -> Callable[[Float32], Float32]:
    def rounded(v: Float32) -> Float32:
        with np.errstate(over="ignore", under="ignore"):
            result: Float32 = of(v.astype(np.float64)).astype(np.float32)
        return result

    return rounded


# Operator -> float32 function, and whether it is monotone.
FUNCTIONS: Mapping[str, Form] = MappingProxyType(
    {
        "relax.nn.relu": function(lambda v: np.maximum(v, np.float32(0))),
        "relax.negative": function(np.negative),
        "relax.abs": function(np.abs, monotone=False),
        "relax.sigmoid": function(_rounded_once(lambda v: 1 / (1 + np.exp(-v)))),
        "relax.tanh": function(_rounded_once(np.tanh)),
        "relax.sqrt": function(np.sqrt),
        "relax.exp": function(_rounded_once(np.exp)),
        "relax.nn.silu": function(_rounded_once(lambda v: v / (1 + np.exp(-v))), monotone=False),
    }
)


def leaky_relu(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """``x`` where it is positive, else ``alpha x``."""
    source, alpha = layers.accumulated(call.args[0]), np.float32(call.attrs.alpha)
    if source is None:
        return NOT_KNOWN
    return Taken(source.then(lambda v, row: np.where(v > 0, v, v * alpha), monotone=bool(alpha >= 0)))


def prelu(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """Leaky ReLU with a constant slope a channel."""
    source, slope = layers.accumulated(call.args[0]), constant(call.args[1])
    if source is None:
        return NOT_KNOWN
    along = int(call.attrs.axis) % len(shape_of(call))
    if slope is None or (slope.size > 1 and along != source.axis):
        return NoMatch("its slope is not constant, or varies along another axis than the channels")
    alpha = slope.astype(np.float32).reshape(-1)
    return Taken(source.then(lambda v, row: np.where(v > 0, v, v * alpha), monotone=bool(np.all(alpha >= 0))))


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


def _swapped(call: Any, scope: dataflow.Scope) -> Any:
    return scope.builder.normalize(type(call)(call.op, [call.args[1], call.args[0]], attrs=call.attrs))


def arithmetic(operation: Callable[[Any, Any], Any]) -> Form:
    """A constant on either side, or two functions of one accumulator (``x * sigmoid(x)``)."""
    right, left = with_constant(operation), with_constant(lambda v, constant: operation(constant, v))

    def form(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
        if constant(call.args[1]) is not None:
            return right(layers, name, call, scope)
        if constant(call.args[0]) is not None:
            # A constant divided by x has a pole: no function of thresholds.
            divides = call.op.name == "relax.divide"
            return NoMatch("it divides by its input") if divides else left(layers, name, _swapped(call, scope), scope)
        return _of_one_accumulator(operation, layers, call)

    return form


def _of_one_accumulator(operation: Callable[[Any, Any], Any], layers: Layers, call: Any) -> Taken | NoMatch:
    sides = [layers.accumulated(a) for a in call.args]
    if sides[0] is None or sides[1] is None:
        return NOT_KNOWN
    joined = None if shape_of(call.args[0]) != shape_of(call.args[1]) else sides[0].joined(operation, sides[1])
    return MANY if joined is None else Taken(joined)


def add(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """A bias, a residual join with codes on at least one side, or two functions of one accumulator."""
    if any(constant(a) is not None for a in call.args):
        return arithmetic(np.add)(layers, name, call, scope)
    one = _of_one_accumulator(np.add, layers, call)
    if isinstance(one, Taken):
        return one
    sides = [layers.quantised(a) for a in call.args]
    side = sides[1] or sides[0]
    source = layers.accumulated(call.args[0] if sides[1] else call.args[1])
    if source is None or side is None:
        return one
    if source.side is not None:
        return NoMatch("it joins a third tensor")
    if side.spec.axis is not None or side.shape != shape_of(source.acc):
        return NoMatch("the tensor it adds is broadcast or quantised per channel")
    values = side.spec.values(np.arange(1 << side.spec.bits))
    return Taken(source.then(lambda v, row: v + values[row], side))
