"""Which taps of a kernel lie inside the image, where that decides what a padded position adds.

A padded position stands for the value 0. Where some activation code does so, kernels pad with that code and nothing
else is to do. Where none does (bipolar codes, ranges that leave 0 out), they pad with code 0, which adds nothing to a
sum of codes or of products of codes, and what is left of the correction formula, ``gamma``, counts the taps inside
only. The taps inside change at the border only, so output positions fall into a few runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from schedules.dot_problem import DotProblem
from schedules.intrinsics import const


@dataclass(frozen=True)
class Runs:
    """Runs of output rows (or columns) that see the same taps: where each begins, and which taps are inside there."""

    starts: tuple[int, ...]
    inside: tuple[tuple[bool, ...], ...]

    def at(self, position: Any) -> Any:
        """The number of the run that an output position belongs to, as an int32 expression."""
        later = [(position >= const(start)).astype("int32") for start in self.starts[1:]]
        return sum(later[1:], later[0]) if later else const(0)


def runs(problem: DotProblem, skipped: bool = False) -> tuple[Runs, Runs]:
    """Runs of rows and of columns; one with all taps inside where a padded position needs no correction.

    ``skipped``: the kernel leaves out taps outside, whatever code stands for 0, so each needs one.
    """
    p = problem
    if not (p.pads_without_code or skipped):
        rows, columns = (Runs((0,), ((True,) * taps,)) for taps in p.kernel)
        return rows, columns
    sizes = ((p.height, p.out_height), (p.width, p.out_width))
    rows, columns = (_along(p, axis, *size) for axis, size in enumerate(sizes))
    return rows, columns


def _along(p: DotProblem, axis: int, extent: int, positions: int) -> Runs:
    def inside(position: int) -> tuple[bool, ...]:
        first = position * p.stride[axis] - p.padding[axis]
        return tuple(0 <= first + tap * p.dilation[axis] < extent for tap in range(p.kernel[axis]))

    found = [(taps, next(run)) for taps, run in groupby(range(positions), key=inside)]
    return Runs(tuple(start for _, start in found), tuple(taps for taps, _ in found))
