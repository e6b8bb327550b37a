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

    @property
    def shares(self) -> npt.NDArray[np.float32]:
        """The matrix (positions, inputs) of what each input counts; inputs that nothing reads may be missing."""
        matrix = np.zeros((len(self.index), int(self.index.max()) + 1))
        for taps, weights, row in zip(self.index, self.weight, matrix, strict=True):
            np.add.at(row, taps, weights / self.denominator)
        return matrix.astype(np.float32)


def pooling_windows(call: Any) -> list[Windows] | None:
    """The windows of ``avg_pool1d`` or ``avg_pool2d`` along each axis; None if one holds only padding."""
    a, shape, out = call.attrs, shape_of(call.args[0]), shape_of(call)
    padding, count = [int(v) for v in a.padding], len(shape) - 2
    axes = []
    for i in range(count):
        kernel, stride, dilation = int(a.pool_size[i]), int(a.strides[i]), int(a.dilation[i])
        extent, windows = shape[2 + i], []
        for position in range(out[2 + i]):
            start = position * stride - padding[i]
            taps = [start + k * dilation for k in range(kernel)]
            inside = [at for at in taps if 0 <= at < extent]
            padded = sum(at < extent + padding[count + i] for at in taps)
            windows.append((inside, padded if a.count_include_pad else len(inside)))
        if any(not inside for inside, _ in windows):
            return None
        axes.append(Windows.averages(windows))
    return axes


def adaptive_windows(call: Any) -> list[Windows]:
    """Adaptive average pooling: position i of o averages pixels from ``floor(i n / o)`` to ``ceil((i + 1) n / o)``."""
    axes = []
    for n, o in zip(shape_of(call.args[0])[2:], shape_of(call)[2:], strict=True):
        windows = [range(i * n // o, -(-(i + 1) * n // o)) for i in range(o)]
        axes.append(Windows.averages([(window, len(window)) for window in windows]))
    return axes


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
