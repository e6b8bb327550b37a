"""Thresholds of functions that turn once, as SiLU and Hard-swish do: some levels are left before others are reached.

The code of an accumulator is then the number of rising thresholds it reaches less the number of falling ones. On either
side of the turning point the function is monotone, so there thresholds are found by bisection, as in `requantize`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from relay_passes.quant_spec import NoMatch
from schedules.dot_problem import threshold_dtype

Int64 = npt.NDArray[np.int64]
Value = Callable[[Int64, int], npt.NDArray[np.float32]]
Codes = Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]
Tables = tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.integer[Any]]]

# Accumulators looked at in each round of the search for the turning point, and at the end to check what was found.
SAMPLES = 257
CHECKED = 4097
# Beyond every accumulator; its negative is reached by all.
NEVER = 2**40
TURNS_TWICE = NoMatch("it is no function of its accumulator that turns once at most")


def find_turning_thresholds(
    value: Value, codes: Codes, bound: int, levels: int, channels: int, rows: int
) -> Tables | NoMatch:
    """Thresholds of a function with at most one turning point a channel.

    Parameters
    ----------
    value : callable
        Float32 values of accumulators ``(..., channels)`` for one code of the second operand.
    codes : callable
        Codes 0..levels of values.
    bound : int
        Accumulators lie in ``-bound..bound``.
    levels, channels, rows : int
        Largest code, number of channels, number of codes of the second operand (1 without one).

    Returns
    -------
    rises, falls : int16 or int32 ``(rows, count, channels)``
        Sorted; the code is the number of rises at or below the accumulator less that of falls. Levels that the lowest
        accumulator has reached already are thresholds at the type's smallest number, unused ones at its largest.
        `NoMatch` where the codes of sampled accumulators are not those.
    """
    dtype = threshold_dtype(bound)
    found = [_of_row(value, codes, bound, levels, channels, row) for row in range(rows)]
    pairs = [pair for pair in found if pair is not None]
    if len(pairs) < rows:
        return TURNS_TWICE
    rises, falls = (_trimmed(np.stack(tables)) for tables in zip(*pairs, strict=True))
    ends = np.iinfo(dtype).min, np.iinfo(dtype).max
    return np.clip(rises, *ends).astype(dtype), np.clip(falls, *ends).astype(dtype)


def _of_row(value: Value, codes: Codes, bound: int, levels: int, channels: int, row: int) -> tuple[Int64, Int64] | None:
    def code_of(acc: Int64) -> Int64:
        return codes(value(acc, row)).astype(np.int64)

    turn, valley = _turning_point(lambda acc: value(acc, row), bound, channels)
    left = np.full(channels, -bound, np.int64), turn
    right = turn, np.full(channels, bound, np.int64)
    rising = np.where(valley, right[0], left[0]), np.where(valley, right[1], left[1])
    falling = np.where(valley, left[0], right[0]), np.where(valley, left[1], right[1])
    wanted = np.arange(1, levels + 1, dtype=np.int64)[:, None]
    rises = _crossings(lambda acc: code_of(acc) >= wanted, rising[0], rising[1], levels)
    falls = _crossings(lambda acc: code_of(acc) < wanted, falling[0], falling[1], levels)
    rises = np.concatenate([np.where(wanted <= code_of(left[0][None]), -NEVER, NEVER), rises])
    tables = np.sort(rises, axis=0), np.sort(falls, axis=0)
    return tables if _counts(code_of, *tables, bound, channels) else None


def _turning_point(value: Callable[[Int64], npt.NDArray[np.float32]], bound: int, channels: int) -> tuple[Int64, Any]:
    """Where each channel is extreme, and whether that is a valley: a grid, zoomed in on until its step is 1."""
    low, high = np.full(channels, -bound, np.int64), np.full(channels, bound, np.int64)
    ends = value(np.stack([low, high]))
    grid = np.rint(np.linspace(low, high, SAMPLES)).astype(np.int64)
    values = value(grid)
    # The deeper side of the two: a valley lies below both ends, a peak above both.
    depth, height = ends.min(axis=0) - values.min(axis=0), values.max(axis=0) - ends.max(axis=0)
    valley = depth >= height
    while True:
        best = np.where(valley, np.argmin(values, axis=0), np.argmax(values, axis=0))
        if np.all(high - low < SAMPLES):
            return np.take_along_axis(grid, best[None], axis=0)[0], valley
        low = np.take_along_axis(grid, np.maximum(best - 1, 0)[None], axis=0)[0]
        high = np.take_along_axis(grid, np.minimum(best + 1, SAMPLES - 1)[None], axis=0)[0]
        grid = np.rint(np.linspace(low, high, SAMPLES)).astype(np.int64)
        values = value(grid)


def _crossings(holds: Callable[[Int64], npt.NDArray[np.bool_]], first: Int64, last: Int64, levels: int) -> Int64:
    """The accumulators after ``first``, up to ``last``, from which on a condition holds that did not hold at first."""
    below, at = (np.repeat(end[None], levels, axis=0) for end in (first, last + 1))
    held = holds(below)
    while np.any(at - below > 1):
        middle = (at + below) // 2
        hit = holds(middle)
        at, below = np.where(hit, middle, at), np.where(hit, below, middle)
    return np.where(held | (at > last), NEVER, at)


def _counts(code_of: Callable[[Int64], Int64], rises: Int64, falls: Int64, bound: int, channels: int) -> bool:
    """Whether counting gives the codes: at samples, and at every threshold and just below it."""
    near = np.concatenate([rises, rises - 1, falls, falls - 1]).clip(-bound, bound)
    even = np.rint(np.linspace(-bound, bound, min(CHECKED, 2 * bound + 1))).astype(np.int64)
    for acc in (near, np.repeat(even[:, None], channels, axis=1)):
        count = np.zeros(acc.shape, np.int64)
        for threshold in rises:
            count += acc >= threshold
        for threshold in falls:
            count -= acc >= threshold
        if not np.array_equal(count, code_of(acc)):
            return False
    return True


def _trimmed(tables: Int64) -> Int64:
    """Without the thresholds that no channel reaches, but for one."""
    used = int((tables != NEVER).any(axis=(0, 2)).sum())
    return tables[:, : max(used, 1)]
