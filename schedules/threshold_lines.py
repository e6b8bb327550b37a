"""Thresholds that lie near a line: a code is then guessed by one multiplication, and one comparison makes it exact.

A quantiser behind a scale and a bias (and a ReLU) has thresholds that rise evenly, but for rounding: to integers, and
in each step of the float32 chain that they reproduce. An integer multiply and shift would have to hit each of them,
which those roundings forbid for some channel of most layers. To be off by one code at most is easy to prove, though:
for every accumulator, with whatever rounding the kernel's float32 has, fused or not, the code is the guess or the next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# The guess takes three float32 roundings, each 2**-24 of what it rounds; four times as much is allowed for.
_ROUNDING = 2.0**-22
# Guesses must fit int32 far from its ends before they are clipped.
_LARGEST = 2.0**30


def fit_lines(thresholds: Array, bound: int) -> Array | str:
    """Lines by which codes are guessed.

    Parameters
    ----------
    thresholds : int16 or int32 ``(1, levels, C)``
        Sorted; those above ``bound`` are never reached.
    bound : int
        Accumulators lie in ``-bound..bound``.

    Returns
    -------
    float32 ``(2, C)`` or str
        Slope and start, so that for every accumulator ``a`` the count of thresholds reached is
        ``g = clip(trunc(slope * a + start), 0, levels - 1)`` or ``g + 1``; or why there are none.
    """
    channels = thresholds.shape[-1]
    lines = np.empty((2, channels), np.float32)
    for channel in range(channels):
        column = thresholds[0, :, channel].astype(np.int64)
        lines[:, channel] = _through(column, bound)
        reason = _declined(column, bound, *lines[:, channel])
        if reason is not None:
            return f"{reason} (channel {channel})"
    return lines


def _through(column: Array, bound: int) -> tuple[float, float]:
    """Slope and start of the line in the middle of a channel's steps."""
    live = np.flatnonzero((column > -bound) & (column <= bound))
    if not live.size:
        return 0.0, int((column <= -bound).sum()) - 0.5
    first, last = live[0], live[-1]
    rise = int(column[last] - column[first])
    slope = float(np.float32((last - first) / rise)) if rise else 0.0
    # At the threshold that code k + 1 begins with, k + 1/2 is as far as possible from where the guess is wrong.
    rest = live + 0.5 - slope * column[live]
    return slope, (rest.min() + rest.max()) / 2


def _declined(column: Array, bound: int, slope: float, start: float) -> str | None:
    """Why a channel's guess may be wrong; None if it is proven right.

    The guess is monotone, and the code changes at thresholds only, so looking at both sides of each suffices.
    """
    ends = np.concatenate([column, column - 1, [-bound, bound]])
    at = np.unique(np.clip(ends, -bound, bound))
    codes = np.searchsorted(column, at, side="right")
    products = np.float64(slope) * at
    guess = products + np.float64(start)
    error = (np.abs(products) + abs(float(start)) + np.abs(guess)) * _ROUNDING
    if np.abs(guess).max() + 1 > _LARGEST:
        return "a guess by a line would not fit 32 bits"
    most = len(column) - 1
    low, high = (np.clip(np.floor(value), 0, most) for value in (guess - error, guess + error))
    wrong = np.flatnonzero((low < codes - 1) | (high > codes))
    if wrong.size:
        i = wrong[0]
        return f"thresholds are no line: at {at[i]} the code is {codes[i]}, the line says {guess[i]:.2f}"
    return None
