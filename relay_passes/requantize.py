"""Integer thresholds that reproduce, code for code, a float32 chain from an accumulator to a quantiser.

The chain (scale, bias, batch norm, residual add, ReLU, round) is monotone in the accumulator for every channel, since
each of its correctly rounded float32 steps is. So the accumulators at which the code changes can be found by bisection
with the chain itself, and comparing with them gives the same codes as the graph (as FINN streamlines thresholds,
Umuroglu & Jahre 2017, section 4), free of any later rounding or fused multiply-add.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.dot_problem import threshold_dtype

# (accumulators int64 (..., C), code of the second operand) -> codes int (..., C)
CodeOf = Callable[[npt.NDArray[np.int64], int], npt.NDArray[Any]]


def find_thresholds(
    code_of: CodeOf, bound: int, levels: int, channels: int, rows: int
) -> tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.uint8]]:
    """Bisect for the accumulators at which codes change.

    Parameters
    ----------
    code_of : callable
        Codes 0..levels of accumulators ``(..., channels)`` for one code of the second operand; monotone per channel.
    bound : int
        Accumulators lie in ``-bound..bound``.
    levels, channels, rows : int
        Largest code, number of channels, number of codes of the second operand (1 without one).

    Returns
    -------
    thresholds : int16 or int32 ``(rows, levels, channels)``
        The count of thresholds at or below the accumulator is the code, or ``levels`` less the code where flipped.
        A threshold that is never reached is the type's largest number.
    flip : uint8 ``(channels,)``
        1 where the code falls as the accumulator rises.
    """
    ends = np.array([-bound, bound], np.int64)[:, None].repeat(channels, axis=1)
    at_ends = [code_of(ends, row).astype(np.int64) for row in range(rows)]
    flip = np.any([last < first for first, last in at_ends], axis=0)
    wanted = np.arange(1, levels + 1, dtype=np.int64)[:, None]

    def reached(accumulators: npt.NDArray[np.int64], row: int) -> npt.NDArray[np.bool_]:
        code = code_of(accumulators, row).astype(np.int64)
        hit: npt.NDArray[np.bool_] = np.where(flip, levels - code, code) >= wanted
        return hit

    dtype = threshold_dtype(bound)
    thresholds = np.empty((rows, levels, channels), np.int64)
    for row in range(rows):
        below = np.full((levels, channels), -bound - 1, np.int64)
        at = np.full((levels, channels), bound + 1, np.int64)
        while np.any(at - below > 1):
            middle = (at + below) // 2
            hit = reached(middle, row)
            at, below = np.where(hit, middle, at), np.where(hit, below, middle)
        thresholds[row] = np.where(at > bound, np.iinfo(dtype).max, at)
    return thresholds.astype(dtype), flip.astype(np.uint8)
