"""Raw arithmetic: ``[Clip] -> Div -> [Add] -> [Clip] -> Round -> [Add] -> [Clip] -> [Sub] -> Mul``.

At least one of the clips is there. Div may be a Mul by the reciprocal, Mul a Div by it; Round may be
``Floor(. + 1/2)``, which takes halves up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.relax.dpl import is_const, is_op, wildcard

from relay_passes.coverage import Coverage
from relay_passes.ops import constant, literal, op_name, shape_of
from relay_passes.patterns.base import Found, Match, QuantPattern, bounds, collapsed, scale_and_zero, whole
from relay_passes.patterns.scaling import step_and_form
from relay_passes.quant_forms import FORMS, NUMPY
from relay_passes.quant_spec import NoMatch, QuantSpec


def _clip(x: Any) -> Any:
    return is_op("relax.clip")(x, wildcard(), wildcard())


def _either(operator: str, x: Any, number: Any) -> Any:
    return is_op(operator)(x, number) | is_op(operator)(number, x)


Pair = tuple[float, float]
# Forms that round, and those that take the floor of the same plus 1/2.
HALF_UP = {"divide": "half_up", "divide_shifted": "half_up_shifted"}
# |x| and |x - a| are rounded apart: where x is large, the difference is anything but 0 or a.
BY_MAGNITUDES = NoMatch(
    "it clips by PACT's (abs(x) - abs(x - a) + a) / 2, which float32 rounds beyond 0..a: Clip is exact"
)
EVERYTHING: Pair = (-np.inf, np.inf)


def _operands(scaling: Any) -> tuple[Any, Any]:
    """What a Div or Mul scales, and the constant it scales by: the smaller one where both are constant."""
    a, b = scaling.args
    swapped = op_name(scaling) == "relax.multiply" and constant(a) is not None
    if swapped and constant(b) is not None:
        swapped = constant(a).size < constant(b).size
    return (b, a) if swapped else (a, b)


def _value_bounds(call: Any) -> tuple[float, float]:
    return (0.0, np.inf) if op_name(call) == "relax.nn.relu" else bounds(call)


def _limits(ends: Pair, clips: list[Pair], form: str, scale: Any, zero: Any, late: bool) -> tuple[int, int] | NoMatch:
    """The range of the codes.

    Scaling and rounding are monotone, so a clip before them leaves the codes between those of its own bounds.
    """
    for pair in clips:
        if any(np.isfinite(bound) and bound != round(bound) for bound in pair):
            return whole(*pair)
    codes: list[Any]
    with np.errstate(all="ignore"):
        # An infinite end stays what it is, also where scaling would overflow.
        codes = [
            FORMS[form](NUMPY, np.full(1, end, np.float32), scale, zero) if np.isfinite(end) else end for end in ends
        ]
        # The first clip stands before a zero point that is added after rounding, the last behind it.
        shift = zero if late else np.float32(0)
        first, last = clips
        codes = [np.atleast_1d(np.clip(np.clip(code, *np.add.outer(first, shift)), *last)) for code in codes]
    if any(np.any(code != code.flat[0]) and np.all(np.isfinite(code)) for code in codes):
        return NoMatch("its clip before scaling leaves different codes in different channels")
    return whole(*(float(code.flat[0]) for code in codes))


def _pact() -> Any:
    """``0.5 * (|x| - |x - a| + a)``, PACT's clip as published (Choi et al. 2018, equation 1)."""
    x, a = wildcard(), is_const()
    magnitudes = is_op("relax.subtract")(is_op("relax.abs")(x), is_op("relax.abs")(is_op("relax.subtract")(x, a)))
    return _either("relax.multiply", _either("relax.add", magnitudes, is_const()), is_const())


def _make() -> tuple[Any, Callable[[Match], Found | NoMatch]]:
    scale, zero, scale_again, zero_again, zero_late = is_const(), is_const(), is_const(), is_const(), is_const()
    half = is_const()
    bounded = _clip(wildcard()) | is_op("relax.nn.relu")(wildcard())
    pact = _pact()
    source = bounded | pact | wildcard()
    scaled = is_op("relax.divide")(source, scale) | _either("relax.multiply", source, scale)
    shifted = _either("relax.add", scaled, zero)
    clip_first = _clip(shifted | scaled)
    inner = clip_first | shifted | scaled
    floored = is_op("relax.floor")(_either("relax.add", inner, half))
    rounded = is_op("relax.round")(inner) | floored
    shifted_late = _either("relax.add", rounded, zero_late)
    clip_last = _clip(shifted_late | rounded)
    code = clip_last | shifted_late | rounded
    centred = is_op("relax.subtract")(code, zero_again) | code
    pattern = _either("relax.multiply", centred, scale_again) | is_op("relax.divide")(centred, scale_again)

    def to_spec(match: Match) -> Found | NoMatch:
        there, back = match[scaled], match[pattern]
        x, by = _operands(there)
        read = step_and_form(there, back, by, match[scale_again])
        if isinstance(read, NoMatch):
            return read
        step, form = read
        if zero in match and zero_late in match:
            return NoMatch("it adds two zero points")
        late = zero_late in match
        added = match[zero_late] if late else match.get(zero)
        shifts = (added, match.get(zero_again))
        numbers = [collapsed(np.float32(0) if e is None else constant(e)) for e in shifts]
        if not np.array_equal(numbers[0], numbers[1], equal_nan=True):
            return NoMatch("it adds one zero point and subtracts another")
        if shape_of(back) != shape_of(x):
            return NoMatch("its scale or zero point broadcasts the tensor")
        parts = scale_and_zero(literal(step), added, shape_of(x))
        if isinstance(parts, NoMatch):
            return parts
        s, z, axis = parts
        if not np.all((s > 0) & np.isfinite(s) & np.isfinite(z)):
            return Found(x, QuantSpec(s, z, 0, 1, axis, form))  # to be refused by name, whatever its range
        if late and np.any(z != np.rint(z)):
            return NoMatch("it adds a zero point that is no integer after rounding")
        if not late and np.any(z):
            if form != "divide":
                return NoMatch("it adds its zero point to a product that is not rounded yet, where no form does")
            form = "divide_shifted"
        if floored in match:
            if form not in HALF_UP or not np.all(constant(match[half]) == np.float32(0.5)):
                return NoMatch("it takes the floor of something else than a quotient plus 1/2")
            form = HALF_UP[form]
        clips = [bounds(match[p]) if p in match else EVERYTHING for p in (clip_first, clip_last)]
        if bounded not in match and all(pair == EVERYTHING for pair in clips):
            return BY_MAGNITUDES if pact in match else NoMatch("nothing bounds its codes")
        ends = _value_bounds(match[bounded]) if bounded in match else EVERYTHING
        limits = _limits(ends, clips, form, s, z, late)
        return limits if isinstance(limits, NoMatch) else Found(x, QuantSpec(s, z, *limits, axis, form))

    return pattern, to_spec


DIV_CLIP_ROUND_MUL = QuantPattern(
    "div_clip_round_mul",
    "raw Div or Mul, Clip, Round, Mul or Div, with or without zero point",
    _make,
    Coverage(("ONNX", "torch", "Relax"), signs=("unsigned", "signed", "asymmetric", "bipolar")),
)
