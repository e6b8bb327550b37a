"""``halves``: accumulators times a float64 scale, rounded to float32 once, in float32 alone where that is proven.

With ``scale = high + low``, each a float32, ``fma(acc, high, acc * low)`` is the product rounded once but where that
lies within 2**-47 of the middle between two float32 numbers: ``low`` is off by 2**-49 of the scale, ``acc * low`` by as
much of the product, and float64's product by 2**-53 (Brisebarre, Muller & Raina 2004, as in `by_multiplication`).
Accumulators are few, so those that come as near are found and tried. A vector of Arm's takes 3 operations for it then,
and 8 by way of float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from relay_passes.by_multiplication import numpy_fma

Array = npt.NDArray[Any]
# Products that are looked at, all channels together; more would take too long.
MOST_PRODUCTS = 1 << 26
# Of float64's 52 bits those that float32 lacks, their middle, and how many of float64's last places are too near to it.
_REST = 29
_MIDDLE, _NEAR = 1 << (_REST - 1), 1 << 7
# Scales whose products and halves are normal numbers.
_LEAST, _MOST = 2.0**-90, 2.0**90
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
    ordinary = np.all((np.abs(scale) > _LEAST) & (np.abs(scale) < _MOST))
    if bound >= EXACT or (bound + 1) * scale.size > MOST_PRODUCTS or not ordinary:
        return None
    high = scale.astype(np.float32)
    low = (scale - high.astype(np.float64)).astype(np.float32)
    # Rounding to nearest is the same on both sides of 0, where every way gives 0.
    for first in range(1, bound + 1, _TOGETHER):
        together = np.arange(first, min(first + _TOGETHER, bound + 1))
        for s, h, rest in zip(scale, high, low, strict=True):
            bits = (together * s).view(np.int64) & ((1 << _REST) - 1)
            acc = together[np.abs(bits - _MIDDLE) <= _NEAR]
            small = acc.astype(np.float32)
            if not np.array_equal(numpy_fma(small, h, small * rest), (acc * s).astype(np.float32)):
                return None
    return high, low
