"""``DetectQuantizers``: every spelling of a quantiser in `QUANT_PATTERNS` becomes one ``fake_quant``."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from relay_passes import dataflow, notes
from relay_passes.constants import Constants, fold_numbers
from relay_passes.ops import FAKE_QUANT, constant, fake_quant, literal, op_name, quant_spec
from relay_passes.patterns import QUANT_PATTERNS
from relay_passes.patterns.base import Found
from relay_passes.quant_spec import NoMatch
from relay_passes.straight_through import without_estimators
from schedules.errors import LowbitError


def detect_quantizers(mod: Any) -> Any:
    """Apply the pass. What looks like a quantiser and is none leaves its reason in the module's notes.

    Straight-through estimators around quantisers go, and quantised constants that are no weights (biases) become the
    constants that they are.
    """
    function = mod["main"]
    var_to_value = relax.analysis.get_var2val(function)
    rows = [(row, *row.make()) for row in QUANT_PATTERNS.values()]
    constants = Constants(function)
    found: dict[Any, Found] = {}
    reasons: dict[str, str] = {}
    for binding in dataflow.bindings(function):
        name = dataflow.name_of(binding.var)
        if isinstance(binding.value, relax.Var):
            continue  # another name for a value whose own binding is matched
        if op_name(binding.value) == FAKE_QUANT:
            if any(constant(a) is None for a in binding.value.args[1:3]):
                raise LowbitError(f"quantiser {name}", "a constant scale and zero point", "one computed at run time")
            _checked(name, Found(binding.value.args[0], quant_spec(binding.value)))
        for row, pattern, to_spec in rows:
            match = pattern.extract_matched_expr(binding.value, var_to_value)
            if match is None or (row.of_inputs and binding.var in constants):
                continue
            result = _checked(name, to_spec(match))
            if isinstance(result, Found):
                found[binding.var] = result
                reasons.pop(name, None)
                break
            reasons.setdefault(name, f"looks like a quantiser ({row.name}), but {result.reason}")

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        if var in found:
            x = found[var].x
            computed = None if isinstance(x, np.ndarray) else constants.value(x)  # weights that are clipped first
            x = x if computed is None else computed
            x = literal(x) if isinstance(x, np.ndarray) else scope.new(x)
            return scope.emit(fake_quant(x, found[var].spec), dataflow.name_of(var))
        return dataflow.keep(var, value, scope)

    reasons |= notes.read(mod).get("declined", {})  # what a front end found knows more
    detected = fold_weight_transposes(dataflow.rebuild(mod, visit))
    return notes.add(fold_numbers(without_estimators(detected)), "declined", reasons)


def _checked(name: str, found: Found | NoMatch) -> Found | NoMatch:
    if isinstance(found, NoMatch):
        return found
    spec = found.spec.checked(name)
    return spec if isinstance(spec, NoMatch) else found


def fold_weight_transposes(mod: Any) -> Any:
    """``permute_dims(fake_quant(constant))`` (Gemm with transB) becomes the fake-quant of the transposed constant."""
    sources: dict[Any, Any] = {}

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        if op_name(value) == "relax.permute_dims" and value.args[0] in sources:
            inner = sources[value.args[0]]
            array, spec = constant(inner.args[0]), quant_spec(inner)
            axes = [int(a) for a in value.attrs.axes] if value.attrs.axes else list(range(array.ndim))[::-1]
            moved = spec.moved(None if spec.axis is None else axes.index(spec.axis))
            value = fake_quant(literal(np.ascontiguousarray(array.transpose(axes))), moved)
        result = scope.emit(value, dataflow.name_of(var))
        if op_name(value) == FAKE_QUANT and isinstance(value.args[0], tvm.ir.GenericConst):
            sources[result] = value
        return result

    return dataflow.rebuild(mod, visit)
