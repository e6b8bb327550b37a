"""Unary operators: g times the local slope: a derivative, or the secant dy / dx of Rescale (1704.02685, section 3.5.2).

A quantiser is a unary operator like any other: its secant is defined where its gradient is zero or undefined, and a
chain of secants telescopes, so fusing quantiser and activation changes nothing.
"""

from __future__ import annotations

from typing import Any

from relay_passes.attribution.rules.base import Context
from relay_passes.attribution.smooth import SMOOTH
from relay_passes.ops import FAKE_QUANT


def unary(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """G times the slope of the operator, unless the carrier knows better, or g has its slope in it already."""
    if any(a in context.active for a in call.args[1:]):
        raise NotImplementedError("its second operand depends on the input")
    partial = g if var in context.skipped else context.carrier.unary(context, call, var, g)
    return [partial, *[None] * (len(call.args) - 1)]


_PIECEWISE = ("nn.relu", "nn.leakyrelu", "nn.prelu", "clip", "round", "floor", "ceil", "trunc", "sign", "abs")
# `relax.power` is in `rules.ratios`: its base may be constant instead.
_OPERATORS = (*(f"relax.{name}" for name in _PIECEWISE), *(o for o in SMOOTH if o != "relax.power"), FAKE_QUANT)
UNARY = dict.fromkeys(_OPERATORS, unary)
