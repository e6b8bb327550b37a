"""QONNX's ``Trunc``: quantise by the scale, drop the low digits of the integer, quantise again.

The first definition has inputs x, scale, zero point, input and output bit width, and keeps scale and zero point (it
stood for the division of an average pool, and clamps nothing). The second, which Brevitas writes for ``TruncAvgPool2d``
since 0.12, has an output scale before the output bit width, and the attributes ``signed`` and ``narrow``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes.ops import FAKE_QUANT, constant, fake_quant, literal, op_name, quant_spec, shape_of
from relay_passes.patterns.base import scale_and_zero
from relay_passes.quant_forms import FORMS, NUMPY, Maths, truncation
from relay_passes.quant_spec import NoMatch, QuantSpec
from schedules.errors import LowbitError

Float32 = npt.NDArray[np.float32]
# What sums of float32 may stray, relative to the largest value they can have.
SLACK = 1e-5
# More digits than these nobody means to drop.
MAX_DIGITS = 64
# Operators that hand on values, pick among them, or average them: they stay between the lowest and the highest.
BETWEEN = frozenset(
    {
        "relax.nn.avg_pool2d",
        "relax.nn.adaptive_avg_pool2d",
        "relax.nn.max_pool2d",
        "relax.mean",
        "relax.reshape",
        "relax.flatten",
        "relax.permute_dims",
        "relax.squeeze",
        "relax.expand_dims",
    }
)


def kept(bb: Any, x: Any, scale: Float32, zero: Float32, digits: int, rounding: str) -> Any | NoMatch:
    """The first definition. A ``fake_quant`` where the range of ``x`` is known; else the reason why not."""
    form = truncation(rounding, digits, 1.0, keeps_zero=True)
    parts = scale_and_zero(literal(scale), literal(zero), shape_of(x))
    if isinstance(parts, NoMatch):
        return parts
    s, z, axis = parts
    ends = value_range(x, bb.lookup_binding)
    if ends is None:
        return NoMatch(
            "nothing bounds its codes: the first definition of Trunc does not clamp, and its input is no sum"
        )
    codes = [FORMS[form](NUMPY, np.float32(end), s, z) for end in ends]
    # The zero point is a code as well: padding takes it.
    low, high = (int(pick(np.append(pick(c), z))) for pick, c in zip((np.min, np.max), codes, strict=True))
    return fake_quant(x, QuantSpec(s, z, low, high, axis, form))


def scaled(
    x: Any,
    scale: Float32,
    zero: Float32,
    out_scale: Float32,
    limits: tuple[int, int],
    digits: npt.NDArray[Any],
    rounding: str,
) -> Any | NoMatch:
    """The second definition, as a ``fake_quant``; or the reason why it is none."""
    if np.unique(digits).size > 1:
        return NoMatch("its channels drop different numbers of digits")
    dropped = int(digits.flat[0])
    ratio = _ratio(scale, out_scale)
    if ratio is None:
        return NoMatch("its scale is not its output scale divided by one float32 number")
    parts = scale_and_zero(literal(out_scale), literal(zero / np.float32(2.0**dropped)), shape_of(x))
    if isinstance(parts, NoMatch):
        return parts
    s, z, axis = parts
    return fake_quant(x, QuantSpec(s, z, *limits, axis, truncation(rounding, dropped, ratio, keeps_zero=False)))


def digits_dropped(node: str, scale: Float32, out_scale: Float32) -> npt.NDArray[Any]:
    """The exponents of the powers of two next to ``out_scale / scale``.

    Raises
    ------
    LowbitError
        If one is out of what codes can hold.
    """
    with np.errstate(over="ignore"):
        digits = np.rint(np.log2(out_scale / scale))
    if np.any(np.abs(digits) > MAX_DIGITS):
        expected = f"scales at most a factor of 2**{MAX_DIGITS} apart"
        raise LowbitError(f"scales of quantiser {node}", expected, f"2**{digits.flat[np.abs(digits).argmax()]:g}")
    return np.asarray(digits)


def _ratio(scale: Float32, out_scale: Float32) -> float | None:
    """The float32 number that ``out_scale`` divided by, rounded to float32, is ``scale``."""
    near = np.float32(np.median(out_scale / scale))
    for ratio in (np.rint(near), near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(0))):
        if ratio > 0 and np.all((out_scale / ratio).astype(np.float32) == scale):
            return float(ratio)
    return None


def in_float(
    x: Any,
    scale: Float32,
    zero: Float32,
    digits: npt.NDArray[Any],
    rounding: str,
    maths: Maths,
    out: tuple[Float32, tuple[int, int]] | None = None,
) -> Any:
    """Either definition in plain arithmetic, step by step as QONNX's executor has it."""
    divisor = np.asarray(2.0**digits, np.float32)
    inner = relax.op.divide(FORMS["divide_shifted"](maths, x, literal(scale), literal(zero)), literal(divisor))
    if out is not None:
        inner = relax.op.clip(inner, float(out[1][0]), float(out[1][1]))
        zero, scale = zero / divisor, out[0]
    code = FORMS[rounding](maths, inner, literal(np.float32(1)), literal(np.float32(0)))
    return relax.op.multiply(relax.op.subtract(code, literal(zero)), literal(scale))


def value_range(expr: Any, lookup: Any) -> tuple[float, float] | None:
    """Bounds of an expression's values, if a quantiser upstream gives them; float32 sums may reach them."""
    while isinstance(expr, relax.Var):
        expr = lookup(expr)
    name = op_name(expr)
    if name == FAKE_QUANT:
        spec = quant_spec(expr)
        ends = [(np.float32(code) - spec.zero_point) * spec.scale for code in (spec.qmin, spec.qmax)]
        return float(np.min(ends[0])), float(np.max(ends[1]))
    if name == "relax.nn.relu":
        inner = value_range(expr.args[0], lookup)
        return inner and (max(inner[0], 0.0), max(inner[1], 0.0))
    if name in BETWEEN:
        inner = value_range(expr.args[0], lookup)
        if inner is None:
            return None
        widest = SLACK * max(abs(end) for end in inner)
        return min(inner[0] - widest, 0.0), max(inner[1] + widest, 0.0)  # padding is 0
    if name == "relax.multiply":
        for x, factor in (expr.args, list(expr.args)[::-1]):
            number = constant(factor)
            inner = value_range(x, lookup) if number is not None and number.size == 1 else None
            if inner is not None:
                first, second = (end * float(number.reshape(())) for end in inner)
                return min(first, second), max(first, second)
    return None
