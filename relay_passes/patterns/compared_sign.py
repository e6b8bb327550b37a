"""Signs by arithmetic on a comparison: ``float(x >= 0) * 2 - 1``, with or without a magnitude (Brevitas' binary)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.relax.dpl import is_const, is_op, wildcard

from relay_passes.coverage import Coverage
from relay_passes.ops import constant, literal, shape_of
from relay_passes.patterns.base import Found, Match, QuantPattern, scale_and_zero
from relay_passes.patterns.sign import COMPARISONS, compared_with_zero
from relay_passes.quant_spec import NoMatch, QuantSpec


def _make() -> tuple[Any, Callable[[Match], Found | NoMatch]]:
    span, less, more, magnitude = is_const(), is_const(), is_const(), is_const()
    compared: Any = None
    for name in COMPARISONS:
        row = is_op(name)(wildcard(), is_const()) | is_op(name)(is_const(), wildcard())
        compared = row if compared is None else compared | row
    level = is_op("relax.astype")(compared)
    spread = is_op("relax.multiply")(level, span) | is_op("relax.multiply")(span, level)
    lowered = is_op("relax.subtract")(spread, less)
    raised = is_op("relax.add")(spread, more) | is_op("relax.add")(more, spread)
    centred = lowered | raised
    pattern = is_op("relax.multiply")(centred, magnitude) | is_op("relax.multiply")(magnitude, centred) | centred

    def to_spec(match: Match) -> Found | NoMatch:
        x, form, falling = compared_with_zero(match[compared])
        if x is None:
            return NoMatch("its threshold is not 0")
        if falling:
            return NoMatch("it is 1 below its threshold")
        if {str(x.ty.dtype), str(match[level].ty.dtype)} != {"float32"}:
            return NoMatch(f"it compares {x.ty.dtype}, not float32")
        numbers = [constant(match[p]) for p in (span, less if less in match else more)]
        if any(v.size != 1 for v in numbers):
            return NoMatch("its two levels vary within the tensor")
        width, shift = (float(v.reshape(())) for v in numbers)
        low = -shift if less in match else shift
        if not (width > 0 and low == -width / 2):
            return NoMatch(f"its levels {low:g} and {low + width:g} are not opposite")
        size = constant(match[magnitude]) if magnitude in match else np.float32(1)
        if not np.all((size > 0) & np.isfinite(size)):
            return NoMatch("its magnitude is not above 0")
        parts = scale_and_zero(literal((np.float32(width) * size).astype(np.float32)), None, shape_of(x))
        if isinstance(parts, NoMatch):
            return parts
        s, z, axis = parts
        return Found(x, QuantSpec(s, np.full_like(z, 0.5), 0, 1, axis, form))

    return pattern, to_spec


COMPARED_SIGN = QuantPattern(
    "compared_sign",
    "float(x >= 0) * 2 - 1, with or without a magnitude",
    _make,
    Coverage(("ONNX", "torch", "Relax"), weights=(1,), activations=(1,), signs=("bipolar",)),
)
