"""A quantiser on codes or accumulators: thresholds; on anything else: codes of the float value."""

from __future__ import annotations

from typing import Any

from relay_passes import dataflow, ops
from relay_passes.abstract import Quantised
from relay_passes.integer_forms.base import Layers, Taken
from relay_passes.ops import quant_spec
from relay_passes.quant_spec import NoMatch


def quantiser(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """Codes: thresholds on the accumulator of its input, or computed from the float value."""
    spec = quant_spec(call)
    registers = layers.why_in_registers(call.args[0])
    if registers is not None:
        return registers
    source = layers.accumulated(call.args[0])
    expr: Any = ops.quantize(call.args[0], spec) if source is None else source.requantized(spec)
    if isinstance(expr, NoMatch):
        return expr
    codes = scope.emit(expr, f"{name}/codes")
    return Taken(Quantised(codes, spec), ops.dequantize(codes, spec))
