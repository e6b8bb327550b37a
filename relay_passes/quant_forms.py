"""``FORMS``: how each spelling of a quantiser computes its unclipped code from x, scale and zero point, in float32.

A row is written once against `Maths`, and so means the same in NumPy (codes of constants, thresholds), in TIR (kernels)
and in Relax (quantisers that no ``fake_quant`` can hold). Every row is monotone in x: thresholds rest on that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Maths:
    """What forms are made of beyond ``+ - * /``; expressions of any library.

    Attributes
    ----------
    rint, floor, ceil : callable
        To the nearest integer (ties to even), downwards, upwards.
    choose : callable
        ``choose(x, a, b)``: a where ``x >= 0``, else b.
    number : callable
        A float32 constant.
    beside : callable
        ``beside(x, 1)`` and ``beside(x, -1)``: the next float32 above and below a positive one.
    """

    rint: Callable[[Any], Any]
    floor: Callable[[Any], Any]
    ceil: Callable[[Any], Any]
    choose: Callable[[Any, Any, Any], Any]
    number: Callable[[float], Any]
    beside: Callable[[Any, int], Any]


def _numpy_beside(x: Any, ulp: int) -> Any:
    return np.nextafter(x, np.float32(ulp * np.inf), dtype=np.float32)


NUMPY = Maths(np.rint, np.floor, np.ceil, lambda x, a, b: np.where(x >= 0, a, b), np.float32, _numpy_beside)
Form = Callable[[Maths, Any, Any, Any], Any]


def _shifted(rounding: Callable[[Maths, Any], Any]) -> Form:
    """``round(x / s + z)``, as raw arithmetic and QONNX write it."""
    return lambda m, x, s, z: rounding(m, x / s + z)


def _beside_reciprocal(ulp: int) -> Form:
    return lambda m, x, s, z: m.rint(x * m.beside(m.number(1) / s, ulp)) + z


def _at_least_zero(m: Maths, x: Any) -> Any:
    return m.choose(x, m.number(1), m.number(0))


def _half_away(m: Maths, v: Any) -> Any:
    return m.choose(v, m.floor(v + m.number(0.5)), m.ceil(v - m.number(0.5)))


def _half_to_zero(m: Maths, v: Any) -> Any:
    return m.choose(v, m.ceil(v - m.number(0.5)), m.floor(v + m.number(0.5)))


# QONNX's Trunc quantises by an inner step, drops digits, and rounds again; its forms are written `truncation` here.
TRUNCATION = "truncate"


def truncation(rounding: str, digits: int, ratio: float, keeps_zero: bool) -> str:
    """The form ``round(rint(x / s' + z') / 2**digits)`` with ``s' = s / ratio``, rounded to float32.

    Parameters
    ----------
    rounding : str
        The form that the second rounding is taken from: ``"floor"``, ``"divide_shifted"`` ...
    digits : int
        How many binary digits are dropped (negative: added).
    ratio : float
        The step over the inner step.
    keeps_zero : bool
        Whether ``z'`` is the zero point itself; else it is ``2**digits`` times that.
    """
    return f"{TRUNCATION} {rounding} {digits} {float(ratio).hex()} {'kept' if keeps_zero else 'scaled'}"


def _truncation(form: str) -> Form:
    _, rounding, digits, ratio, zero = form.split()
    again, divisor = FORMS[rounding], 2.0 ** int(digits)

    def code(m: Maths, x: Any, s: Any, z: Any) -> Any:
        z = z if zero == "kept" else z * m.number(divisor)
        inner = m.rint(x / (s / m.number(float.fromhex(ratio))) + z)
        return again(m, inner / m.number(divisor), m.number(1), m.number(0))

    return code


STEPS = "steps"


def steps(low: int, thresholds: Sequence[tuple[bool, float]]) -> str:
    """The form ``low`` and 1 more for each threshold that x reaches (True) or exceeds (False), whatever the scale."""
    return " ".join([STEPS, str(low), *(f"{'>=' if reached else '>'}{float(t).hex()}" for reached, t in thresholds)])


def _steps(form: str) -> Form:
    _, low, *thresholds = form.split()

    def code(m: Maths, x: Any, s: Any, z: Any) -> Any:
        result = m.number(float(low))
        for threshold in thresholds:
            reached = threshold.startswith(">=")
            t = m.number(float.fromhex(threshold.lstrip(">=")))
            # The difference of two float32 numbers is 0 only if they are equal, and has the right sign.
            result = result + (_at_least_zero(m, x - t) if reached else m.number(1) - _at_least_zero(m, t - x))
        return result

    return code


class _Forms(dict[str, Form]):
    """The rows; those of `truncation` and `steps` are made when they are asked for."""

    def __missing__(self, form: str) -> Form:
        makers = {TRUNCATION: _truncation, STEPS: _steps}
        return makers[form.split(" ", 1)[0]](form)


# Spellings differ in the last bit and at ties.
FORMS: Mapping[str, Form] = MappingProxyType(
    _Forms(
        {
            "divide": lambda m, x, s, z: m.rint(x / s) + z,  # ONNX QuantizeLinear
            "reciprocal": lambda m, x, s, z: m.rint(x * (m.number(1) / s)) + z,  # torch.fake_quantize
            "divide_shifted": _shifted(lambda m, v: m.rint(v)),
            # Halves go up, as floor(. + 1/2) rounds them; a zero point is added after or before that.
            "half_up": lambda m, x, s, z: m.floor(x / s + m.number(0.5)) + z,
            "half_up_shifted": lambda m, x, s, z: m.floor((x / s + z) + m.number(0.5)),
            "floor": _shifted(lambda m, v: m.floor(v)),
            "ceil": _shifted(lambda m, v: m.ceil(v)),
            "to_zero": _shifted(lambda m, v: m.choose(v, m.floor(v), m.ceil(v))),
            "away": _shifted(lambda m, v: m.choose(v, m.ceil(v), m.floor(v))),
            "half_away": _shifted(_half_away),
            "half_to_zero": _shifted(_half_to_zero),
            # A graph that stores both the step and its reciprocal rounds them apart: 1 / s is then the float beside.
            "reciprocal_above": _beside_reciprocal(1),
            "reciprocal_below": _beside_reciprocal(-1),
            # Signs: the scale says what a code is worth, not where codes change.
            "sign": lambda m, x, s, z: _at_least_zero(m, x) - _at_least_zero(m, -x) + z,  # -1, 0, 1
            "at_least_zero": lambda m, x, s, z: _at_least_zero(m, x),  # 0, 1
            "above_zero": lambda m, x, s, z: m.number(1) - _at_least_zero(m, -x),  # 0, 1
            # The same of x divided by the bipolar value, s / 2: a tiny negative x divides to -0.0 and counts as 0.
            "sign_scaled": lambda m, x, s, z: m.choose(x / (s * m.number(0.5)), m.number(1), m.number(0)),
        }
    )
)
