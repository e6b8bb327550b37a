"""Signs: ``Sign(x)``, ``Where(x >= 0, a, b)`` and Larq's ``Sign(Sign(x) + 0.1)``, with or without a magnitude.

``Sign`` gives 0 at 0, so its codes are ternary; weights without a zero among them take one bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.relax.dpl import is_const, is_op, wildcard

from relay_passes.coverage import Coverage
from relay_passes.ops import constant, literal, op_name, shape_of
from relay_passes.patterns.base import Found, Match, QuantPattern, scale_and_zero
from relay_passes.quant_spec import NoMatch, QuantSpec

# Comparison with 0: the form of the code, and whether Where names the lower level first.
COMPARISONS = {
    "relax.greater_equal": ("at_least_zero", False),
    "relax.greater": ("above_zero", False),
    "relax.less": ("at_least_zero", True),
    "relax.less_equal": ("above_zero", True),
}
MIRRORED = {
    "relax.greater_equal": "relax.less_equal",
    "relax.greater": "relax.less",
    "relax.less": "relax.greater",
    "relax.less_equal": "relax.greater_equal",
}


def _make() -> tuple[Any, Callable[[Match], Found | NoMatch]]:
    first, second, shift, magnitude = is_const(), is_const(), is_const(), is_const()
    compared: Any = None
    for name in COMPARISONS:
        row = is_op(name)(wildcard(), is_const()) | is_op(name)(is_const(), wildcard())
        compared = row if compared is None else compared | row
    chosen = is_op("relax.where")(compared, first, second)
    sign = is_op("relax.sign")(wildcard())
    shifted = is_op("relax.sign")(is_op("relax.add")(sign, shift) | is_op("relax.add")(shift, sign))
    level = chosen | shifted | sign
    pattern = is_op("relax.multiply")(level, magnitude) | is_op("relax.multiply")(magnitude, level) | level

    def levels(match: Match) -> tuple[Any, str, float, float] | NoMatch:
        """What is compared, the form, the lower and the upper level."""
        if chosen in match:
            x, form, falling = compared_with_zero(match[compared])
            if x is None:
                return NoMatch("its threshold is not 0")
            pair = [constant(match[p]) for p in ((first, second) if falling else (second, first))]
            if any(v.size == 0 or np.any(v != v.flat[0]) for v in pair):
                return NoMatch("its two levels vary within the tensor")
            return x, form, float(pair[0].flat[0]), float(pair[1].flat[0])
        if shifted in match:
            moved = constant(match[shift])
            if moved.size != 1 or not 0 < moved < 1:
                return NoMatch("it adds to a sign what is not between 0 and 1")
            return match[sign].args[0], "at_least_zero", -1.0, 1.0
        x = match[sign].args[0]
        stored = constant(x)
        return x, "sign" if stored is None or not np.all(stored) else "at_least_zero", -1.0, 1.0

    def to_spec(match: Match) -> Found | NoMatch:
        read = levels(match)
        if isinstance(read, NoMatch):
            return read
        x, form, lo, hi = read
        if shape_of(match[pattern]) != shape_of(x):
            return NoMatch("its threshold or levels broadcast the tensor")
        if str(x.ty.dtype) != "float32":
            return NoMatch(f"it takes the sign of {x.ty.dtype}, not of float32")
        if not (hi > lo and (lo == -hi or lo == 0)):
            return NoMatch(f"its levels {lo:g} and {hi:g} are neither opposite nor 0 and above")
        size = constant(match[magnitude]) if magnitude in match else np.float32(1)
        if not np.all((size > 0) & np.isfinite(size)):
            return NoMatch("its magnitude is not above 0")
        step = np.float32(hi if form == "sign" else hi - lo) * size
        parts = scale_and_zero(literal(step.astype(np.float32)), None, shape_of(x))
        if isinstance(parts, NoMatch):
            return parts
        s, z, axis = parts
        if form == "sign":
            return Found(x, QuantSpec(s, z, -1, 1, axis, form))
        return Found(x, QuantSpec(s, z if lo == 0 else np.full_like(z, 0.5), 0, 1, axis, form))

    return pattern, to_spec


def compared_with_zero(call: Any) -> tuple[Any, str, bool]:
    """What is compared with 0 (None: with something else), the form, and whether Where names the lower level first."""
    x, threshold, name = call.args[0], call.args[1], op_name(call)
    if constant(threshold) is None:
        x, threshold, name = threshold, x, MIRRORED[name]
    form, falling = COMPARISONS[name]
    return (None if np.any(constant(threshold)) else x), form, falling


SIGN = QuantPattern(
    "sign",
    "Sign or Where(x >= 0, 1, -1), with or without a magnitude",
    _make,
    Coverage(("ONNX", "torch", "Relax"), weights=(1, 2), activations=(1, 2), signs=("unsigned", "bipolar", "ternary")),
)
