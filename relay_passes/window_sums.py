"""``window_sums2d``: weighted sums of codes over windows, which average pooling and bilinear resizing are made of.

Along each axis a window is a row of positions with integer weights; where windows differ in their counts, weights bring
them to one denominator, so that every sum is scaled by one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax, te

from relay_passes.ops import call, literal, register, shape_of

WINDOW_SUMS = "tvm_lowbit.window_sums2d"


@dataclass(frozen=True)
class Windows:
    """What each position along an axis of the result reads.

    Attributes
    ----------
    index, weight : int32 ``(positions, taps)``
        Where taps read, and how often they count.
    denominator : int
        What a sum is divided by.
    """

    index: npt.NDArray[np.int32]
    weight: npt.NDArray[np.int32]
    denominator: int

    @property
    def total(self) -> int:
        """Largest sum of a window's weights."""
        return int(self.weight.sum(axis=1).max())

    @classmethod
    def of(cls, taps: Sequence[Sequence[tuple[int, Fraction]]]) -> Windows:
        """From each position's ``(index, weight)``."""
        denominator = int(np.lcm.reduce([w.denominator for window in taps for _, w in window] or [1]))
        longest = max(1, *(len(window) for window in taps))
        index, weight = np.zeros((2, len(taps), longest), np.int32)
        for i, window in enumerate(taps):
            for k, (at, share) in enumerate(window):
                index[i, k], weight[i, k] = at, int(share * denominator)
        return cls(index, weight, denominator)

    @classmethod
    def averages(cls, windows: Sequence[tuple[Sequence[int], int]]) -> Windows:
        """From each position's indices and the count that their sum is divided by."""
        return cls.of([[(at, Fraction(1, count)) for at in inside] for inside, count in windows])


def window_sums(codes: Any, offset: int, multiplier: int, rows: Windows, columns: Windows) -> Any:
    """Weighted sums (NCHW, int32) of the integers ``multiplier * code + offset`` over windows of rows and columns."""
    tables = [literal(a) for axis in (rows, columns) for a in (axis.index, axis.weight)]
    return call(WINDOW_SUMS, codes, *tables, offset=offset, multiplier=multiplier)


def _typed(call_: Any, ctx: Any) -> Any:
    n, c, *_ = shape_of(call_.args[0])
    return relax.TensorType([n, c, shape_of(call_.args[1])[0], shape_of(call_.args[3])[0]], "int32")


def _legalize(bb: Any, call_: Any) -> Any:
    multiplier, offset = int(call_.attrs["multiplier"]), int(call_.attrs["offset"])

    def compute(codes: Any, row: Any, row_weight: Any, column: Any, column_weight: Any) -> Any:
        ky = te.reduce_axis((0, int(row.shape[1])), "ky")
        kx = te.reduce_axis((0, int(column.shape[1])), "kx")

        def element(n: Any, c: Any, y: Any, x: Any) -> Any:
            value = codes[n, c, row[y, ky], column[x, kx]].astype("int32") * multiplier + offset
            return te.sum(value * row_weight[y, ky] * column_weight[x, kx], axis=[ky, kx])

        n, c, *_ = codes.shape
        return te.compute((n, c, row.shape[0], column.shape[0]), element, name="window_sums2d")

    return bb.call_te(compute, *call_.args, primfunc_name_hint="window_sums2d")


register(WINDOW_SUMS, 5, _typed, _legalize)
