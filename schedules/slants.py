"""Residual joins whose second operand's code moves the accumulator, instead of picking a row of thresholds.

What a residual adds rises evenly with its code, so the rows of thresholds lie evenly apart, but for rounding: to
integers, and in each step of the float32 chain that they reproduce. An accumulator times ``2**shift`` has room for the
fractions of those distances: ``(acc << shift) + step * code >= base`` then says of every accumulator that there can be
and of every code what ``acc >= threshold[code]`` does. Which steps and bases do is a matter of integer intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.dot_problem import DotProblem, Thresholds

Array = npt.NDArray[Any]

# More bits tell no more: what so many bits of a fraction cannot tell apart is no line.
MOST_SHIFT = 14
# Beyond all that is compared, yet its sums fit 64 bits.
_FAR = 1 << 48


@dataclass(frozen=True)
class Slants:
    """One shift for all channels, thresholds ``(1, levels, C)`` and steps ``(C,)``, both in the thresholds' type."""

    shift: int
    thresholds: Array
    steps: Array


def made_up(spec: Thresholds, sums: Array, side: Array, dtype: str, random: Any) -> tuple[Slants, Array]:
    """Random slants that moved accumulators ``(..., C)`` fit the type of, and those accumulators."""
    assert spec.shift is not None
    channels, limits = sums.shape[-1], np.iinfo(dtype)
    shifted = sums.reshape(-1, channels).astype(np.int64) << spec.shift
    room = min(int(shifted.min()) - limits.min, limits.max - 1 - int(shifted.max())) // ((1 << spec.side_bits) - 1)
    most = min(room, max(1, int(shifted.std())))
    steps = random.integers(-most, most, channels, endpoint=True)
    moved = (shifted + side.reshape(-1, channels) * steps).reshape(sums.shape)
    picked = moved.reshape(-1, channels)[
        random.integers(0, len(shifted), (1, spec.levels, channels)), np.arange(channels)
    ]
    return Slants(spec.shift, np.sort(picked, axis=1).astype(dtype), steps.astype(dtype)), moved


def reach(problem: DotProblem, weights: Array, offset: Array) -> tuple[Array, Array]:
    """The least and the largest accumulator ``(C,)`` that each channel can have, 0 among those between.

    Weights are codes ``(O, C / groups, ...)``, offsets ``(O,)``; padded positions add 0.
    """
    p = problem
    values = p.w.multiplier * weights.reshape(len(weights), -1).astype(np.int64) + offset.astype(np.int64)[:, None]
    ends = np.stack([values * end for end in (p.a.offset, p.a.multiplier * p.a.max_code + p.a.offset)])
    return np.minimum(ends.min(axis=0), 0).sum(axis=1), np.maximum(ends.max(axis=0), 0).sum(axis=1)


def narrowed(tables: list[Array], low: Array, high: Array) -> list[Array] | None:
    """int32 thresholds ``(rows, levels, C)`` as int16, if 16 bits hold accumulators in ``low..high``; else None."""
    limits = np.iinfo(np.int16)
    if low.min() < limits.min or high.max() >= limits.max or tables[0].dtype == np.int16:
        return None
    return [np.where(t > high, limits.max, np.maximum(t, limits.min)).astype(np.int16) for t in tables]


def fit_slants(thresholds: Array, low: Array, high: Array, dtype: str | None = None) -> Slants | str:
    """Steps that do what rows of thresholds do.

    Parameters
    ----------
    thresholds : int16 or int32 ``(rows, levels, C)``
        Rows by the second operand's code; sorted along levels.
    low, high : int64 ``(C,)``
        Accumulators lie in ``low..high``, which holds 0.
    dtype : str, optional
        What moved accumulators must fit; default: the thresholds' own.

    Returns
    -------
    Slants or str
        By the least shift that will do, or why there are none.
    """
    reason = "its rows of thresholds are not evenly apart"
    for shift in range(MOST_SHIFT + 1):
        found = _fitted(thresholds.astype(np.int64), low, high, shift, np.dtype(dtype or thresholds.dtype))
        if not isinstance(found, str):
            return found
        if "bits" in found:
            return found if shift == 0 else f"{reason}, as far as fractions fit: {found}"
    return reason


def _fitted(wanted: Array, low: Array, high: Array, shift: int, dtype: np.dtype[Any]) -> Slants | str:
    limits, rows = np.iinfo(dtype), len(wanted)
    if int(low.min()) << shift < limits.min or int(high.max()) << shift >= limits.max:
        return f"{limits.bits} bits hold no accumulators {1 << shift} times as large"
    never, always = wanted > high, wanted <= low
    # base - row * step must lie above `least` and at most at `most`.
    least = np.where(never, high << shift, np.where(always, -_FAR, (wanted - 1) << shift))
    most = np.where(always, low << shift, np.where(never, _FAR, wanted << shift))
    first, last = np.full(len(low), -_FAR), np.full(len(low), _FAR)
    for apart in range(1, rows):
        # Some base suits rows i and j where least[i] + i * step < most[j] + j * step.
        last = np.minimum(last, (most[:-apart] - least[apart:] - 1).min(axis=(0, 1)) // apart)
        first = np.maximum(first, -((most[apart:] - least[:-apart] - 1).min(axis=(0, 1)) // apart))
    steps = np.clip(0, first, last)
    if (first > last).any():
        return f"no step suits channel {np.flatnonzero(first > last)[0]}"
    ends = (rows - 1) * steps
    if ((low << shift) + np.minimum(ends, 0)).min() < limits.min or (
        (high << shift) + np.maximum(ends, 0)
    ).max() >= limits.max:
        return f"{limits.bits} bits do not hold what the second operand adds"
    moved = np.arange(rows)[:, None, None] * steps
    lowest, highest = (least + moved).max(axis=0) + 1, (most + moved).min(axis=0)
    bases = np.where(highest < _FAR // 2, highest, lowest)
    return Slants(shift, bases[None].astype(dtype), steps.astype(dtype))
