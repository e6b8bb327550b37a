"""``RewriteLowbit``: quantised convolutions and dense layers become integer operators; so does what lies between.

The float graph is kept beside the integer one while it is written; whatever nobody reads in the end is dead and goes.
So an explanation that reads the float value before a quantiser still finds it, computed from the same accumulator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from relay_passes import dataflow, notes, ops
from relay_passes.abstract import NOT_A_NUMBER, Accumulated, InRegisters, Known, Quantised
from relay_passes.exclude import excluded
from relay_passes.integer_forms import ELEMENTWISE, MOVING, MULTIPLYING, Layers, Taken, integer_form
from relay_passes.ops import constant, literal, op_name, quant_spec, shape_of
from relay_passes.paddings import PAD
from relay_passes.quant_spec import NoMatch, QuantSpec
from schedules.dot_problem import INT32_MAX
from schedules.errors import LowbitError

# Names of the operators that an explanation adds start with this, to be told apart by a reader of the program; passes
# know them from the notes (topic ``explanation``), for a model may call its layers as it likes.
EXPLANATION = "explain/"


def rewrite_lowbit(mod: Any) -> Any:
    """Apply the pass.

    Notes: topic ``layers`` holds, for each convolution, dense layer and float operator that reads quantised values, its
    bits or the reason why it stays float.
    """
    said = notes.read(mod)
    explanation = frozenset(said.get("explanation", ()))
    layers = Layers(dict(said.get("declined", {})), explanation, said.get("off_grid", {}), excluded(mod))

    readers = dataflow.readers(mod["main"])
    calls = {binding.var for binding in dataflow.bindings(mod["main"]) if op_name(binding.value)}

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        own = [r for r in readers.get(var, []) if r is None or dataflow.name_of(r) not in explanation]
        return _visit(layers, dataflow.name_of(var), value, scope, len(own) == 1 and own[0] in calls)

    return notes.add(dataflow.rebuild(mod, visit), "layers", layers.rows)


def _visit(layers: Layers, name: str, value: Any, scope: dataflow.Scope, read_once: bool) -> Any:
    operator = op_name(value)
    if operator == ops.FAKE_QUANT and constant(value.args[0]) is not None and not _too_wide(name, value):
        return _weights(layers, name, value, scope)
    if operator == ops.OBSERVE_CODES:
        return _observe(layers, name, value, scope)
    if operator == ops.DIFFERENCE:
        return scope.emit(_difference(layers, value, scope), name)
    if not operator or name in layers.explanation:
        return dataflow.bind(value, name, scope)
    layers.note_names(value)
    if operator == ops.FAKE_QUANT and (why := _too_wide(name, value)):
        return _without_codes(layers, name, value, scope, why, f"is no quantiser of 1 to 8 bits: {why}")
    wished = layers.excluded.get(name)
    result = NoMatch(wished) if wished else integer_form(layers, name, value, scope)
    if result is NOT_A_NUMBER:
        return _without_codes(layers, name, value, scope, result.reason, f"gives NaN too: {result.reason}")
    if not isinstance(result, Taken):
        if not wished and operator in ELEMENTWISE and read_once and layers.reads_only_known(value):
            first = next((r for a in value.args if (r := layers.why_in_registers(a))), result)
            return _named(layers, scope.emit(value, name), name, InRegisters(first.reason))
        if operator == ops.FAKE_QUANT and not wished and layers.reads_known(value):
            layers.in_registers(name, operator, quant_spec(value), result.reason)
        elif operator in MULTIPLYING or layers.reads_known(value):
            layers.stays_float(name, operator, result.reason)
        if operator != ops.FAKE_QUANT:
            origin = layers.names.get(value.args[0], name) if operator in MOVING else name
            return _named(layers, scope.emit(value, name), origin)
        # The quantiser itself never stays float: its codes are computed from the float value.
        spec = quant_spec(value)
        codes = scope.emit(ops.quantize(value.args[0], spec), f"{name}/codes")
        result = Taken(Quantised(codes, spec), ops.dequantize(codes, spec))
    var = scope.emit(value if result.value is None else result.value, name)
    if result.moved is not None:
        layers.moves[var] = result.moved
    return _named(layers, var, name, result.known)


def _without_codes(layers: Layers, name: str, value: Any, scope: dataflow.Scope, why: str, declined: str) -> Any:
    """A quantiser that is computed in float, as no codes can stand for its values."""
    layers.stays_float(name, ops.FAKE_QUANT, why)
    layers.declined[name] = declined
    return _named(layers, scope.emit(value, name), name)


def _too_wide(name: str, value: Any) -> str:
    """Why a ``fake_quant`` that a front end wrote itself has no codes of 1 to 8 bits; empty if it has."""
    checked = quant_spec(value).checked(name)
    return checked.reason if isinstance(checked, NoMatch) else ""


def _named(layers: Layers, var: Any, name: str, known: Known | None = None) -> Any:
    layers.names[var] = name
    if known is not None:
        layers.known[var] = known
    return var


def _weights(layers: Layers, name: str, value: Any, scope: dataflow.Scope) -> Any:
    spec, array = quant_spec(value), constant(value.args[0])
    if np.any(np.isnan(array)):
        raise LowbitError(f"weights of quantiser {name}", "numbers", "NaN", "train or export the model again")
    codes = spec.codes(array)
    var = scope.emit(ops.dequantize(literal(codes), spec), name)
    layers.weights[var] = (codes, spec)
    return _named(layers, var, name)


def _difference(layers: Layers, value: Any, scope: dataflow.Scope) -> Any:
    """Codes less codes, or accumulators less accumulators, then scaled: exact where floats would cancel.

    The reference run is a constant, or computed by the same layers from another input.
    """
    known, reference = layers.known.get(value.args[0]), constant(value.args[1])
    other = layers.known.get(value.args[1])
    if isinstance(known, Quantised) and known.spec.axis is None:
        if reference is not None:
            start = literal(known.spec.codes(reference))
        elif isinstance(other, Quantised) and _same_grid(known.spec, other.spec):
            start = other.codes
        else:
            return value
        integers = scope.emit(relax.op.subtract(*(relax.op.astype(codes, "float64") for codes in (known.codes, start))))
        return relax.op.multiply(integers, literal(known.spec.scale.astype(np.float64)))
    if not isinstance(known, Accumulated) or known.scale is None or 2 * known.bound > INT32_MAX:
        return value
    shape = [1] * len(shape_of(value.args[0]))
    shape[known.axis] = -1
    scale = known.scale.reshape(shape)
    if reference is not None:
        kept = literal(ops.narrowest(np.rint(reference.astype(np.float64) / scale).astype(np.int32)))
        start = scope.emit(relax.op.astype(kept, "int32"))
    elif isinstance(other, Accumulated) and other.scale is not None and np.array_equal(other.scale, known.scale):
        start = other.acc
    else:
        return value
    change = scope.emit(relax.op.subtract(known.acc, start))
    return relax.op.multiply(scope.emit(relax.op.astype(change, "float64")), literal(scale))


def _same_grid(one: QuantSpec, other: QuantSpec) -> bool:
    """Whether equal codes stand for equal values."""
    same = one.qmin == other.qmin and one.axis == other.axis
    return same and all(np.array_equal(a, b) for a, b in ((one.scale, other.scale), (one.zero_point, other.zero_point)))


def _observe(layers: Layers, name: str, value: Any, scope: dataflow.Scope) -> Any:
    known = layers.known.get(value.args[0])
    if isinstance(known, Quantised):
        codes, spec = known.codes, known.spec
    else:  # computed in float
        call = scope.builder.lookup_binding(value.args[0])
        pad = call if op_name(call) == PAD else None  # `fold_padding` moved the quantiser before it
        call = call if pad is None else scope.builder.lookup_binding(pad.args[0])
        spec = quant_spec(call)
        codes = scope.emit(ops.quantize(call.args[0], spec), f"{name}/codes")
        if pad is not None:
            zero = float(spec.codes(np.zeros(shape_of(call)[:2], np.float32)).flat[0])
            widths = [int(width) for width in pad.attrs.pad_width]
            codes = scope.emit(relax.op.nn.pad(codes, widths, "constant", zero), f"{name}/padded")
    return scope.emit(relax.op.add(relax.op.astype(codes, "int32"), literal(np.int32(spec.qmin))), name)
