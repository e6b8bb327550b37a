"""Operators that only move values, or pick the largest: the same on codes."""

from __future__ import annotations

from typing import Any

from relay_passes import dataflow, ops
from relay_passes.abstract import Quantised
from relay_passes.integer_forms.base import NOT_KNOWN, Layers, Taken
from relay_passes.quant_spec import NoMatch


def on_codes(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """Operators that only move values, or pick the largest: the same on codes."""
    source = layers.quantised(call.args[0])
    if source is None:
        return NOT_KNOWN
    if source.spec.axis is not None:
        return NoMatch("its input is quantised per channel")
    moved = type(call)(call.op, [source.codes, *call.args[1:]], attrs=call.attrs)
    codes = scope.emit(moved, f"{name}/codes")
    return Taken(Quantised(codes, source.spec), ops.dequantize(codes, source.spec))
