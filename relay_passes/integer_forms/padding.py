"""Pads of codes: by the code of what the graph pads with."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from relay_passes import dataflow, ops
from relay_passes.abstract import Quantised
from relay_passes.integer_forms.base import NOT_KNOWN, Layers, Taken
from relay_passes.quant_spec import NoMatch


def padded(layers: Layers, name: str, call: Any, scope: dataflow.Scope) -> Taken | NoMatch:
    """``nn.pad`` by a constant that is a value of the quantiser before it."""
    source = layers.quantised(call.args[0])
    if source is None:
        return NOT_KNOWN
    if str(call.attrs.pad_mode) != "constant":
        return NoMatch(f"its mode is {call.attrs.pad_mode}, not constant")
    spec, widths = source.spec, [int(width) for width in call.attrs.pad_width]
    if spec.axis is not None and any(widths[2 * spec.axis : 2 * spec.axis + 2]):
        return NoMatch("it pads the axis that its input's scale runs along")
    along = [extent if axis == spec.axis else 1 for axis, extent in enumerate(source.shape)]
    by = np.full(along, float(call.attrs.pad_value), np.float32)
    found = spec.codes(by)
    if np.any(spec.values(found) != by):
        return NoMatch(f"it pads by {by.flat[0]:g}, which is no value of the quantiser before it")
    if np.any(found != found.flat[0]):
        return NoMatch("what it pads by has different codes in its channels")
    codes = scope.emit(relax.op.nn.pad(source.codes, widths, "constant", float(found.flat[0])), f"{name}/codes")
    return Taken(Quantised(codes, source.spec), ops.dequantize(codes, source.spec))
