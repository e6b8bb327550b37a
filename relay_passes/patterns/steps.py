"""Comparisons turned into numbers: ``2 * Cast(x > t) - 1``, ``Where(x > t, a, b)``, and ternary codes of two of them.

Brevitas' binary quantiser is the first. Ternary codes are ``Cast(x > t) - Cast(x < u)`` and TWN's activations,
``Where(x > t, a, Where(x < u, -a, 0))``. All may be multiplied by a magnitude, one or one for each channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.relax.dpl import is_const, is_op, wildcard

from relay_passes.coverage import Coverage
from relay_passes.ops import constant, literal, op_name, shape_of
from relay_passes.patterns.base import Found, Match, QuantPattern, scale_and_zero
from relay_passes.patterns.sign import COMPARISONS, MIRRORED
from relay_passes.quant_forms import steps
from relay_passes.quant_spec import NoMatch, QuantSpec

# Which comparisons give 1 as x rises, and whether at the threshold already; the others are their opposites.
RISES = {"relax.greater_equal": True, "relax.greater": False}
FALLS = {"relax.less": True, "relax.less_equal": False}
# Two levels around 0 have shorter forms.
AT_ZERO = {(True, 0.0): "at_least_zero", (False, 0.0): "above_zero"}


def _compared() -> Any:
    rows = [is_op(n)(*o) for n in COMPARISONS for o in ((wildcard(), is_const()), (is_const(), wildcard()))]
    pattern = rows[0]
    for row in rows[1:]:
        pattern = pattern | row
    return pattern


def _either(operator: str, x: Any, number: Any) -> Any:
    return is_op(operator)(x, number) | is_op(operator)(number, x)


def _make() -> tuple[Any, Callable[[Match], Found | NoMatch]]:
    first, second = _compared(), _compared()
    factor, shift, size, high, low, middle = (is_const() for _ in range(6))
    one, other = is_op("relax.astype")(first), is_op("relax.astype")(second)
    scaled = _either("relax.multiply", one, factor) | one
    taken, added = is_op("relax.subtract")(scaled, shift), _either("relax.add", scaled, shift)
    chosen = is_op("relax.where")(first, high, low)
    inner = is_op("relax.where")(second, low, middle)
    nested = is_op("relax.where")(first, high, inner)
    apart = is_op("relax.subtract")(one, other)
    level = taken | added | nested | chosen | apart
    pattern = _either("relax.multiply", level, size) | level | scaled

    def to_spec(match: Match) -> Found | NoMatch:
        numbers = {p: constant(match[p]) for p in (factor, shift, size, high, low, middle) if p in match}
        magnitude = numbers.pop(size, np.ones((), np.float32))
        if factor in numbers and shift not in numbers:
            magnitude = magnitude * numbers.pop(factor)
        compared = [_read(match[p]) for p in (first, second) if p in match]
        if any(array.size != 1 for array in numbers.values()) or any(np.size(t) != 1 for _, _, t in compared):
            return NoMatch("its thresholds or levels vary within the tensor")
        x, operator, threshold = compared[0]
        if shape_of(match[pattern]) != shape_of(x):
            return NoMatch("its threshold or levels broadcast the tensor")
        types = {str(x.ty.dtype), str(match[pattern].ty.dtype)} - {"float32"}
        if types:
            return NoMatch(f"it compares or gives {types.pop()}, not float32")
        if not np.all((magnitude > 0) & np.isfinite(magnitude)):
            return NoMatch("its magnitude is not above 0")
        n = {p: np.float32(array.reshape(())) for p, array in numbers.items()}
        above = operator in RISES
        if apart in match or nested in match:
            y, under, lower = compared[1]
            if not x.same_as(y) or not above or under not in FALLS or not lower <= threshold:
                return NoMatch("its two comparisons are not one for large and one for small values of the same tensor")
            levels = [n[low], n[middle], n[high]] if nested in match else [np.float32(v) for v in (-1, 0, 1)]
            bounds = [(FALLS[under], float(lower)), (RISES[operator], float(threshold))]
        else:
            if chosen in match:
                pair = [n[low], n[high]]
            else:
                step, moved = n.get(factor, np.float32(1)), n.get(shift, np.float32(0))
                moved = -moved if taken in match else moved
                pair = [moved, step + moved]
            levels = pair if above else pair[::-1]
            bounds = [((RISES | FALLS)[operator], float(threshold))]
        return _quantiser(x, levels, magnitude, bounds)

    return pattern, to_spec


def _read(call: Any) -> tuple[Any, str, Any]:
    """What is compared, how, and with what, the constant on the right."""
    x, threshold, name = call.args[0], call.args[1], op_name(call)
    if constant(threshold) is None:
        x, threshold, name = threshold, x, MIRRORED[name]
    number = constant(threshold)
    return x, name, number.reshape(()) if number.size == 1 else number


def _quantiser(x: Any, levels: list[Any], magnitude: Any, bounds: list[tuple[bool, float]]) -> Found | NoMatch:
    if shape_of(x) == () or not all(np.isfinite(t) for _, t in bounds):
        return NoMatch("its threshold is not a finite number")
    lowest, highest = levels[0], levels[-1]
    if not (np.all(np.diff(levels) > 0) and (lowest == -highest or lowest == 0)):
        got = ", ".join(f"{v:g}" for v in levels)
        return NoMatch(f"its levels {got} do not rise from 0, or from the opposite of the highest")
    if len(levels) == 3 and levels[1] != 0:
        return NoMatch(f"its middle level is {levels[1]:g}, not 0")
    # A level times the magnitude, rounded, is what the graph gives; doubling it is exact.
    top = (highest * magnitude).astype(np.float32)
    parts = scale_and_zero(literal(top), None, shape_of(x))
    if isinstance(parts, NoMatch):
        return parts
    s, z, axis = parts
    if len(levels) == 3:
        return Found(x, QuantSpec(s, z, -1, 1, axis, steps(-1, bounds)))
    form = AT_ZERO.get(bounds[0]) or steps(0, bounds)
    if lowest == 0:
        return Found(x, QuantSpec(s, z, 0, 1, axis, form))
    return Found(x, QuantSpec(np.float32(2) * s, np.full_like(z, 0.5), 0, 1, axis, form))


STEPS = QuantPattern(
    "steps",
    "Cast or Where of comparisons with constants, two levels or three",
    _make,
    Coverage(
        ("ONNX", "torch", "Relax"),
        weights=(1, 2),
        activations=(1, 2),
        signs=("unsigned", "bipolar", "ternary"),
    ),
)
