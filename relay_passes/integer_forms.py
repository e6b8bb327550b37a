"""``INTEGER_FORMS``: what each float operator is on codes and accumulators, one function an operator.

A row is ``form(layers, name, call, scope) -> Taken or NoMatch(reason)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes import dataflow, ops
from relay_passes.abstract import Accumulated, Known, Quantised, as_accumulated, channel_vector
from relay_passes.ops import constant, literal, quant_spec, shape_of
from relay_passes.problem import dot_attrs, dot_problem
from relay_passes.quant_spec import NoMatch, QuantSpec


@dataclass(frozen=True)
class Taken:
    """An operator that has an integer form: what is known of its result, and its float value (None: as it was)."""

    known: Known
    value: Any = None


@dataclass
class Layers:
    """What is known while a program is rewritten, and the notes on its layers."""

    declined: dict[str, str]
    explanation: frozenset[str] = frozenset()
    off_grid: Mapping[str, str] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    known: dict[Any, Known] = field(default_factory=dict)
    weights: dict[Any, tuple[npt.NDArray[np.uint8], QuantSpec]] = field(default_factory=dict)
    names: dict[Any, str] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def note_names(self, call: Any) -> None:
        """Remember the names of a call's variables (the model's inputs have no binding of their own)."""
        for argument in call.args:
            if isinstance(argument, relax.Var):
                self.names.setdefault(argument, dataflow.name_of(argument))

    def stays_float(self, name: str, operator: str, reason: str) -> None:
        """Note why an operator stays float."""
        self.rows[name] = {"op": operator, "reason": reason}

    def reads_known(self, call: Any) -> bool:
        """Whether a call reads codes or a function of an accumulator."""
        return any(var in self.known for var in dataflow.variables(call))

    def quantised(self, expr: Any) -> Quantised | None:
        """What is known of an expression, if it is codes."""
        known = self.known.get(expr) if isinstance(expr, relax.Var) else None
        return known if isinstance(known, Quantised) else None

    def accumulated(self, expr: Any) -> Accumulated | None:
        """What is known of an expression, as a function of an accumulator."""
        known = self.known.get(expr) if isinstance(expr, relax.Var) else None
        return as_accumulated(known) if isinstance(known, Quantised) else known

    def why_not_quantised(self, what: str, expr: Any) -> NoMatch:
        """The reason for an operand that should be quantised and is not."""
        name = self.names.get(expr, "") if isinstance(expr, relax.Var) else ""
        detail = f": {name} {self.declined[name]}" if name in self.declined else ""
        return NoMatch(f"its {what} not quantised{detail}")


Form = Callable[[Layers, str, Any, dataflow.Scope], Taken | NoMatch]
_NOT_KNOWN = NoMatch("its input is neither codes nor a function of one accumulator")


def _quantiser(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    spec = quant_spec(call)
    source = layers.accumulated(call.args[0])
    expr: Any = ops.quantize(call.args[0], spec) if source is None else source.requantized(spec)
    if isinstance(expr, NoMatch):
        return expr
    codes = scope.emit(expr, f"{name}/codes")
    return Taken(Quantised(codes, spec), ops.dequantize(codes, spec))


def _dot(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
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
    return _scaled(acc, axis, problem.accumulator_bound(), x.spec.step * spec.step)


def _scaled(acc: Any, axis: int, bound: int, scale: npt.NDArray[np.float64]) -> Taken:
    """The float32 value ``acc * scale``, rounded once."""
    per_channel = np.atleast_1d(scale)

    def start(accumulators: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = (accumulators.astype(np.float64) * per_channel).astype(np.float32)
        return values

    known = Accumulated(acc, axis, bound, start, scale=per_channel)
    return Taken(known, ops.scale_accumulators(acc, per_channel, axis))


def _relu(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    source = layers.accumulated(call.args[0])
    return _NOT_KNOWN if source is None else Taken(source.then(lambda v, row: np.maximum(v, np.float32(0))))


def _clip(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    source = layers.accumulated(call.args[0])
    lo, hi = (np.float32(a.value) for a in call.args[1:3])
    return _NOT_KNOWN if source is None else Taken(source.then(lambda v, row: np.clip(v, lo, hi)))


def _with_constant(operation: Callable[[Any, Any], Any]) -> Form:
    """``operation(x, constant)`` with a constant that varies along the channels only."""

    def form(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
        source, operand = layers.accumulated(call.args[0]), constant(call.args[1])
        if source is None:
            return _NOT_KNOWN
        if operand is None:
            return NoMatch("its second operand is not constant")
        vector = channel_vector(operand, shape_of(call), source.axis)
        if vector is None or shape_of(call) != shape_of(source.acc):
            return NoMatch("its constant varies along more than the channels")
        return Taken(source.then(lambda v, row: operation(v, vector)))

    return form


def _commuting(operation: Callable[[Any, Any], Any]) -> Form:
    form = _with_constant(operation)

    def either(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
        if constant(call.args[0]) is not None:
            swapped = scope.builder.normalize(type(call)(call.op, [call.args[1], call.args[0]], attrs=call.attrs))
            return form(layers, name, swapped, scope)
        return form(layers, name, call, scope)

    return either


def _add(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    if any(constant(a) is not None for a in call.args):
        return _commuting(np.add)(layers, name, call, scope)
    sides = [layers.quantised(a) for a in call.args]
    if not any(sides):
        return NoMatch("it joins two tensors of which none is quantised, so its result depends on two accumulators")
    side = sides[1] or sides[0]
    source = layers.accumulated(call.args[0] if sides[1] else call.args[1])
    if source is None or side is None:
        return _NOT_KNOWN
    if source.side is not None:
        return NoMatch("it joins a third tensor")
    if side.spec.axis is not None or side.shape != shape_of(source.acc):
        return NoMatch("the tensor it adds is broadcast or quantised per channel")
    values = side.spec.values(np.arange(1 << side.spec.bits))
    return Taken(source.then(lambda v, row: v + values[row], side))


def _on_codes(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """Operators that only move values, or pick the largest: the same on codes."""
    source = layers.quantised(call.args[0])
    if source is None:
        return _NOT_KNOWN
    if source.spec.axis is not None:
        return NoMatch("its input is quantised per channel")
    moved = type(call)(call.op, [source.codes, *call.args[1:]], attrs=call.attrs)
    codes = scope.emit(moved, f"{name}/codes")
    return Taken(Quantised(codes, source.spec), ops.dequantize(codes, source.spec))


def _pooled(layers: Layers, call: Any, scope: dataflow.Scope, name: str, **window: Any) -> Taken | NoMatch:
    source = layers.quantised(call.args[0])
    if source is None:
        return _NOT_KNOWN
    if source.spec.axis is not None:
        return NoMatch("its input is quantised per channel")
    spec, count = source.spec, int(np.prod(window["kernel"]))
    operand = spec.operand
    acc = scope.emit(ops.sum_pool2d(source.codes, operand.offset, operand.multiplier, **window), f"{name}/sums")
    if shape_of(acc) != shape_of(call):
        acc = scope.emit(relax.op.reshape(acc, relax.ShapeExpr(list(shape_of(call)))), f"{name}/shaped")
    return _scaled(acc, 1, count * operand.bound, spec.step / count)


def _average_pool(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    a = call.attrs
    padding = [int(v) for v in a.padding]
    if a.layout != "NCHW" or a.ceil_mode or any(int(d) != 1 for d in a.dilation):
        return NoMatch("its layout, ceil mode or dilation is not supported on codes")
    if any(padding) and not a.count_include_pad:
        return NoMatch("it leaves padding out of its counts, so they differ from pixel to pixel")
    window = {"kernel": [int(v) for v in a.pool_size], "stride": [int(v) for v in a.strides], "padding": padding}
    return _pooled(layers, call, scope, name, **window)


def _global_average(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
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


# Operators that move values: a reason for what they read is a reason for what they give.
MOVING = frozenset({"relax.reshape", "relax.permute_dims", "relax.squeeze", "relax.expand_dims", "relax.nn.max_pool2d"})
MULTIPLYING = frozenset({"relax.nn.conv2d", "relax.matmul"})
INTEGER_FORMS: Mapping[str, Form] = MappingProxyType(
    {
        ops.FAKE_QUANT: _quantiser,
        "relax.nn.conv2d": _dot,
        "relax.matmul": _dot,
        "relax.add": _add,
        "relax.subtract": _with_constant(np.subtract),
        "relax.multiply": _commuting(np.multiply),
        "relax.divide": _with_constant(np.divide),
        "relax.nn.relu": _relu,
        "relax.clip": _clip,
        "relax.nn.max_pool2d": _on_codes,
        "relax.nn.avg_pool2d": _average_pool,
        "relax.nn.adaptive_avg_pool2d": _global_average,
        "relax.mean": _global_average,
        "relax.reshape": _on_codes,
        "relax.permute_dims": _on_codes,
        "relax.squeeze": _on_codes,
        "relax.expand_dims": _on_codes,
    }
)
