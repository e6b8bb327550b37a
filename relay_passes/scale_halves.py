"""``halves``: accumulators times a float64 scale, rounded to float32 once, in float32 alone where that is proven.

With ``scale = high + low`` to 48 bits, ``fma(acc, high, acc * low)`` is the product rounded once but where that lies
within 2**-48 of the middle between two float32 numbers (Brisebarre, Muller & Raina 2004, as in `by_multiplication`).
Accumulators are few, so each is tried. A vector of Arm's takes 3 operations for it then, and 8 by way of float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from relay_passes.by_multiplication import numpy_fma

Array = npt.NDArray[Any]
# Products that are tried, all channels together; more would take too long.
MOST_PRODUCTS = 1 << 23
# Integers that float32 holds.
EXACT = 1 << 24
_TOGETHER = 1 << 18


def halves(scale: Array, bound: int) -> tuple[Array, Array] | None:
    """The upper and lower halves of a scale, if they give every product as float64 does.

    Parameters
    ----------
    scale : array
        ``(C,)`` float64.
    bound : int
        What no accumulator's magnitude exceeds.

    Returns
    -------
    pair of arrays or None
        ``(C,)`` float32, the lower half 0 where the upper one is the scale. None if some product would differ, or there
        are more than `MOST_PRODUCTS`.
    """
    if bound >= EXACT or (bound + 1) * scale.size > MOST_PRODUCTS:
        return None
    high = scale.astype(np.float32)
    low = (scale - high.astype(np.float64)).astype(np.float32)
    # Rounding to nearest is the same on both sides of 0.
    for first in range(0, bound + 1, _TOGETHER):
        acc = np.arange(first, min(first + _TOGETHER, bound + 1))
        for s, h, rest in zip(scale, high, low, strict=True):
            small = acc.astype(np.float32)
            found = numpy_fma(small, h, small * rest)
            if not np.array_equal(found.view(np.int32), (acc * s).astype(np.float32).view(np.int32)):
                return None
    return high, low
