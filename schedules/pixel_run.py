"""``PixelRun``: output pixels that a kernel handles together, of one row or, in row-major order, of several.

Rows of 7 or 14 pixels divide badly into the blocks that fill an in-order core's registers; a run that goes on in the
next row, or the next image, leaves a remainder only once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from schedules.dot_problem import DotProblem
from schedules.intrinsics import const

# A comparison for each row's end that a run may pass takes less time than a division for each pixel, if they are few.
MOST_ENDS = 3

Place = Callable[[Any], tuple[Any, Any, Any]]


@dataclass(frozen=True)
class PixelRun:
    """Where the pixels of a run are, counted from its first.

    Attributes
    ----------
    place : callable
        Pixel to its image, row and column.
    stands : callable
        Pixel to the first three indices of a buffer of the output's images, rows and columns that find it. As rows
        follow one another in memory, the last may count on past a row's end; no division is needed then.
    """

    place: Place
    stands: Place


def in_row(n: Any, y: Any, x: Any) -> PixelRun:
    """A run of one row, from a pixel on."""

    def place(pixel: Any) -> tuple[Any, Any, Any]:
        return n, y, x + pixel

    return PixelRun(place, place)


def across_rows(problem: DotProblem, first: Any, pixels: int) -> PixelRun:
    """A run of so many pixels from the one that is the ``first``-th of all, counted row by row and image by image."""
    p, width = problem, problem.out_width
    ends = (width + pixels - 2) // width

    def place(pixel: Any) -> tuple[Any, Any, Any]:
        if ends > MOST_ENDS:
            row, x = (first + pixel) // width, (first + pixel) % width
        else:
            x = first % width + pixel
            passed = sum((x >= const(width * (end + 1))).astype("int32") for end in range(ends))
            row, x = first // width + passed, x - passed * width
        return (const(0), row, x) if p.batch == 1 else (row // p.out_height, row % p.out_height, x)

    return PixelRun(place, lambda pixel: (const(0), const(0), first + pixel))
