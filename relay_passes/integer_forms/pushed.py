"""What follows a move, done to the parts instead: functions of single elements, and quantisers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes import dataflow, ops
from relay_passes.abstract import Quantised
from relay_passes.integer_forms.base import Form, Layers, Taken
from relay_passes.integer_forms.moving import channel_axis, pushed_parts
from relay_passes.moved import Moved, Uneven
from relay_passes.ops import constant, literal, op_name, quant_spec, shape_of
from relay_passes.quant_spec import NoMatch, QuantSpec

Array = npt.NDArray[Any]
# Functions of single elements that never fall, whatever their constants.
_RISING = frozenset({"relax.add", "relax.nn.relu", "relax.clip", "relax.sigmoid", "relax.tanh", "relax.exp"})
# Functions of single elements.
POINTWISE = _RISING | {
    "relax.subtract",
    "relax.multiply",
    "relax.divide",
    "relax.minimum",
    "relax.maximum",
    "relax.nn.leakyrelu",
    "relax.nn.silu",
    "relax.nn.gelu",
    "relax.abs",
    "relax.negative",
    "relax.sign",
    "relax.round",
    "relax.sqrt",
    "relax.erf",
}


def applies(layers: Layers, call: Any) -> bool:
    """Whether a call is a function of single elements, or a quantiser, of what was moved."""
    pointwise = op_name(call) in POINTWISE or op_name(call) == ops.FAKE_QUANT
    return pointwise and any(layers.moved(argument) is not None for argument in call.args)


def pushed(forms: Mapping[str, Form], layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """The call on each part, by that operator's own form; quantised parts are moved as codes."""
    try:
        if op_name(call) == ops.FAKE_QUANT:
            return _quantised(forms, layers, name, call, scope)
        return _pointwise(forms, layers, name, call, scope)
    except Uneven as why:
        return NoMatch(f"its constant does not follow the channels of what was moved before it: {why}")


def _pointwise(
    forms: Mapping[str, Form], layers: Layers, name: str, call: Any, scope: dataflow.Scope
) -> Taken | NoMatch:
    sources = [layers.moved(argument) for argument in call.args]
    moved = next(source for source in sources if source is not None)
    if shape_of(call) != shape_of(moved.move.call):
        return NoMatch("it broadcasts what was moved before it")
    for argument, source in zip(call.args, sources, strict=True):
        computed = isinstance(argument, relax.Var)
        if computed and (source is None or source.move is not moved.move):
            return NoMatch("it joins a tensor to one that was moved, and no integer form brings them together")
    columns = [
        _argument(layers, moved, argument, source, shape_of(call))
        for argument, source in zip(call.args, sources, strict=True)
    ]
    falls = _falls(call, columns, len(moved.parts)) if moved.move.picks else list(moved.falling)
    if falls is None:
        return NoMatch("it may rise and fall, and follows a maximum")
    parts = []
    for i, arguments in enumerate(zip(*columns, strict=True)):
        here = scope.builder.normalize(type(call)(call.op, list(arguments), attrs=call.attrs))
        part, label = moved.parts[i], f"{name}/part{i}"
        if not isinstance(part, relax.Var) or part not in layers.known:
            parts.append(scope.emit(here, label))
            continue
        result = forms[op_name(call)](layers, name, here, scope)
        if isinstance(result, NoMatch):
            return result
        var = scope.emit(here if result.value is None else result.value, label)
        layers.known[var] = result.known
        parts.append(var)
    falling = [a ^ b for a, b in zip(moved.falling, falls, strict=True)] if moved.move.picks else falls
    return Taken(pushed_parts(moved, parts, falling))


def _argument(layers: Layers, moved: Moved, argument: Any, source: Moved | None, shape: tuple[int, ...]) -> list[Any]:
    """An argument of the call, for each part."""
    if source is not None:
        return list(source.parts)
    array = constant(argument)
    if array is None:
        return [argument] * len(moved.parts)
    return [literal(a) for a in _along_parts(layers, moved, array, shape)]


def _along_parts(layers: Layers, moved: Moved, array: Array, shape: tuple[int, ...]) -> list[Array]:
    """A constant that broadcasts to the moved tensor, as one for each part that varies along its channels only.

    Raises
    ------
    Uneven
        If it varies otherwise.
    """
    if array.size == 1:
        return [array.reshape(())] * len(moved.parts)
    numbers, count = [], 0
    for part in moved.parts:
        extents, axis = shape_of(part), channel_axis(layers, part)
        kept = [extent if i == axis else 1 for i, extent in enumerate(extents)]
        numbers.append(np.arange(count, count + extents[axis]).reshape(kept))
        count += extents[axis]
    labels, values = moved.labels(numbers), np.broadcast_to(array, shape)
    table = np.full(count, values.flat[0])  # channels that are moved nowhere may have any value
    table[labels] = values
    if not np.array_equal(table[labels], values):
        raise Uneven("it varies within a channel")
    return [table[number] for number in numbers]


def _falls(call: Any, columns: list[list[Any]], count: int) -> list[Array] | None:
    """Where the function falls, for each part; None if it may do both."""
    operator = op_name(call)
    constants = [[constant(argument) for argument in column] for column in columns]
    if operator in _RISING or (operator == "relax.nn.leakyrelu" and float(call.attrs.alpha) >= 0):
        single = operator != "relax.add" or any(c[0] is not None for c in constants)
        return [np.zeros((), np.bool_)] * count if single else None
    second = constants[1] if len(constants) > 1 else [None]
    first = constants[0]
    if operator == "relax.subtract" and second[0] is not None:
        return [np.zeros((), np.bool_)] * count
    factors = second if second[0] is not None else first if operator == "relax.multiply" else [None]
    if operator in ("relax.multiply", "relax.divide") and factors[0] is not None:
        return [np.asarray(factor, np.float32) < 0 for factor in factors]
    return None


def _quantised(
    forms: Mapping[str, Form], layers: Layers, name: str, call: Any, scope: dataflow.Scope
) -> Taken | NoMatch:
    moved, spec = layers.moved(call.args[0]), quant_spec(call)
    assert moved is not None
    specs = _specs(layers, moved, spec, shape_of(call))
    codes: dict[Any, Any] = {}
    parts = []
    for i, (part, here) in enumerate(zip(moved.parts, specs, strict=True)):
        if constant(part) is not None:
            parts.append(literal(here.codes(constant(part))))
            continue
        key = (part, here.scale.tobytes(), here.zero_point.tobytes())
        if key not in codes:
            codes[key] = _codes(forms, layers, name, part, here, scope, f"{name}/part{i}")
        parts.append(codes[key])
    result = moved.applied(parts, lambda expr: scope.emit(expr, f"{name}/codes"))
    return Taken(Quantised(result, spec), ops.dequantize(result, spec))


def _codes(
    forms: Mapping[str, Form], layers: Layers, name: str, part: Any, spec: QuantSpec, scope: dataflow.Scope, label: str
) -> Any:
    call = scope.builder.normalize(ops.fake_quant(part, spec))
    result = forms[ops.FAKE_QUANT](layers, label, call, scope)
    if isinstance(result, NoMatch):
        layers.stays_float(name, ops.FAKE_QUANT, result.reason)
        return scope.emit(ops.quantize(part, spec), f"{label}/codes")
    assert isinstance(result.known, Quantised)
    return result.known.codes


def _specs(layers: Layers, moved: Moved, spec: QuantSpec, shape: tuple[int, ...]) -> list[QuantSpec]:
    """The quantiser as it is where each part is."""
    if spec.axis is None:
        return [spec] * len(moved.parts)
    along = [extent if i == spec.axis else 1 for i, extent in enumerate(shape)]
    numbers = [
        _along_parts(layers, moved, np.broadcast_to(a.reshape(-1), (shape[spec.axis],)).reshape(along), shape)
        for a in (spec.scale, spec.zero_point)
    ]
    result = []
    for part, scale, zero in zip(moved.parts, *numbers, strict=True):
        axis = channel_axis(layers, part)
        extent = shape_of(part)[axis]
        vectors = [np.broadcast_to(v.reshape(-1), (extent,)).copy() for v in (scale, zero)]
        result.append(QuantSpec(vectors[0], vectors[1], spec.qmin, spec.qmax, axis, spec.form))
    return result
