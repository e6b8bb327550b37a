"""``by_multiplication``: a quantiser's codes without a division, where that is proven for every float32.

Cortex-A72 takes 32 cycles to divide four numbers, and 6 for all that is done here. With ``1 / s = high + low`` to 48
bits, ``fma(x, high, x * low)`` is ``x / s`` rounded once, but for few divisors (Brisebarre, Muller & Raina 2004,
"Accelerating correctly rounded floating-point division when the divisor is known in advance"). Added to 3/2 * 2**23 a
clipped quotient is rounded to an integer, ties to even, which then stands in the lowest bits of the sum.

Neither is taken on trust: both ways to a code never fall as x rises, so they agree everywhere if they agree on both
sides of each of the at most 255 steps between codes, and those are compared one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from relay_passes.quant_spec import QuantSpec
from schedules.float_block import fma

Array = npt.NDArray[Any]
# From 2**23 to 2**24 the float32 numbers are the integers.
_INTEGERS = 1.5 * 2.0**23
_DIVIDING = frozenset({"divide", "divide_shifted", "reciprocal", "reciprocal_above", "reciprocal_below"})


@dataclass(frozen=True)
class Arithmetic:
    """Float32 operations of one library."""

    number: Callable[[float], Any]
    fma: Callable[[Any, Any, Any], Any]
    least: Callable[[Any, Any], Any]
    most: Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Multiplied:
    """``clip(x (high + low) + shift, first, last) + start``, whose lowest byte is the code less ``odd``.

    ``low`` None is left out. ``start`` is even, or ties would go to odd integers.
    """

    high: float
    low: float | None
    shift: float
    first: float
    last: float
    start: float
    odd: int

    def sum_of(self, m: Arithmetic, x: Any) -> Any:
        """The sum, in float32."""
        high = m.number(self.high)
        value = x * high if self.low is None else m.fma(x, high, x * m.number(self.low))
        if self.shift:
            value = value + m.number(self.shift)
        # The smaller first, which of NaN and a number is the number, as in `QuantSpec.codes`.
        return m.most(m.least(value, m.number(self.last)), m.number(self.first)) + m.number(self.start)

    def codes(self, x: Array) -> Array:
        """Codes in NumPy."""
        with np.errstate(over="ignore", invalid="ignore"):
            total = self.sum_of(_NUMPY, x.astype(np.float32))
        return (np.asarray(total, np.float32).view(np.uint32) + np.uint32(self.odd) & 255).astype(np.uint8)

    def code(self, x: Any) -> Any:
        """The code of one element, in TIR."""
        code = tirx.reinterpret("int32", self.sum_of(_TIR, x)).astype("uint8")
        return code + tirx.const(self.odd, "uint8") if self.odd else code


def by_multiplication(spec: QuantSpec) -> Multiplied | None:
    """What gives the codes of a quantiser, proven for every float32; None if nothing is."""
    if spec.scale.size > 1 or spec.form not in _DIVIDING or spec.bits > 8:
        return None
    zero = float(spec.zero_point.flat[0])
    shift = zero if spec.form == "divide_shifted" else 0.0
    rest = zero - shift
    if rest != np.rint(rest):
        return None
    odd = int(rest - spec.qmin) % 2
    # Each of these is a small integer, and exact.
    ends = spec.qmin - rest, spec.qmax - rest, _INTEGERS + rest - spec.qmin - odd
    inverse = 1 / Fraction(float(spec.scale.flat[0]))
    for high, low in _factors(inverse):
        found = Multiplied(high, low, shift, *ends, odd)
        if agree(found, spec):
            return found
    return None


def _factors(inverse: Fraction) -> list[tuple[float, float | None]]:
    """The reciprocal in one number (and those beside it), then in two, none of them negative."""
    if not 2.0**-100 < inverse < 2.0**100:
        return []
    nearest = np.float32(float(inverse))
    one = [nearest, np.nextafter(nearest, np.float32(np.inf)), np.nextafter(nearest, np.float32(0))]
    down = next(value for value in one if Fraction(float(value)) <= inverse)
    low = np.float32(float(inverse - Fraction(float(down))))
    return [*((float(value), None) for value in one), *([(float(down), float(low))] if low else [])]


def agree(found: Multiplied, spec: QuantSpec) -> bool:
    """Whether the codes of all float32 numbers are the quantiser's."""
    # Numbers in order: those of -infinity to infinity.
    most = int(np.float32(np.inf).view(np.int32))
    wanted = np.arange(1, spec.levels + 1)
    below, at = np.full(wanted.shape, -most), np.full(wanted.shape, most)
    while np.any(at - below > 1):
        middle = (at + below) // 2
        hit = spec.codes(_numbers(middle)) >= wanted
        at, below = np.where(hit, middle, at), np.where(hit, below, middle)
    x = _numbers(np.unique(np.concatenate([below, at, [-most, most]])))
    return np.array_equal(found.codes(x), spec.codes(x))


def _numbers(order: Array) -> Array:
    """The float32 numbers in their places of the order, 0 in the middle."""
    bits = np.abs(order).astype(np.uint32) | np.where(order < 0, np.uint32(1 << 31), np.uint32(0))
    return bits.astype(np.uint32).view(np.float32)


def numpy_fma(a: Array, b: Any, c: Array) -> Array:
    """``a * b + c`` of float32, rounded once.

    Float64 holds the product; the sum is rounded to odd there, which a second rounding does not see (Boldo & Melquiond
    2008, "Emulation of FMA and correctly rounded sums").
    """
    product, addend = a.astype(np.float64) * np.float64(b), c.astype(np.float64)
    total = product + addend
    added = total - product
    error = (product - (total - added)) + (addend - added)
    even = (np.asarray(total).view(np.int64) & 1) == 0
    odd = np.where(even & (error != 0), np.nextafter(total, np.copysign(np.inf, error)), total)
    return np.where(np.isfinite(total), odd, total).astype(np.float32)


def _float32(value: float) -> Any:
    return tirx.const(float(value), "float32")


_NUMPY = Arithmetic(np.float32, numpy_fma, np.fmin, np.maximum)
_TIR = Arithmetic(_float32, lambda a, b, c: fma(a, b, c, 1), tirx.min, tirx.max)
