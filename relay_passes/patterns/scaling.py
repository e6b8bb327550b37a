"""How raw arithmetic goes from values to codes and back: by the step, or by a stored reciprocal of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from relay_passes.ops import constant, op_name
from relay_passes.patterns.base import collapsed
from relay_passes.quant_spec import NoMatch

Float32 = npt.NDArray[np.float32]
DIFFERENT = NoMatch("it divides by one scale and multiplies by another")


def step_and_form(there: Any, back: Any, by: Any, again: Any) -> tuple[Float32, str] | NoMatch:
    """The step of a quantiser that goes ``there`` by one constant and ``back`` by another, and the form of its codes.

    A stored reciprocal must be ``float32(1) / step`` or the float beside it, in all channels alike: then one of the
    forms ``reciprocal`` multiplies by the same number as the graph, bit for bit. A division on the way back becomes a
    multiplication, which may move the value (never the code) by the last bit.
    """
    first, second = (collapsed(constant(e)) for e in (by, again))
    divides, multiplies_back = op_name(there) == "relax.divide", op_name(back) == "relax.multiply"
    with np.errstate(all="ignore"):
        step = first if divides else second if multiplies_back else (np.float32(1) / second).astype(np.float32)
        reciprocal = (np.float32(1) / step).astype(np.float32)
    if divides and multiplies_back:
        return (step, "divide") if _equal(first, second) else DIFFERENT
    if not (divides or multiplies_back or _equal(first, second)):
        return DIFFERENT
    beside = {"": reciprocal, "_above": np.nextafter(reciprocal, np.inf), "_below": np.nextafter(reciprocal, -np.inf)}
    stored = second if divides else first
    for suffix, factor in beside.items():
        if _equal(stored, factor.astype(np.float32)):
            return step, "divide" if divides else f"reciprocal{suffix}"
    if _fits(stored, reciprocal) and np.allclose(stored, reciprocal, rtol=1e-5, atol=0):
        return NoMatch("the factor it multiplies by is neither the float32 reciprocal of its step nor the float beside")
    return DIFFERENT


def _fits(a: Float32, b: Float32) -> bool:
    return a.shape == b.shape or 1 in (a.size, b.size)


def _equal(a: Float32, b: Float32) -> bool:
    # One number in any shape is the same step; NaN equals NaN, so that it is reported as what it is.
    if a.size == b.size == 1:
        a, b = a.reshape(()), b.reshape(())
    return bool(np.array_equal(a, b, equal_nan=True))
