"""The truth: low-bit convolution in plain NumPy on unpacked integers.

Shares nothing with packing or with any kernel; every technique is held against it bit for bit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schedules.dot_problem import DotProblem

Codes = npt.NDArray[np.uint8]


def accumulate(
    problem: DotProblem, activations: Codes, weights: Codes, weight_offset: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]:
    """Exact integer convolution of the values that the codes stand for.

    Parameters
    ----------
    problem : DotProblem
        Geometry and operand codes; the epilogue is ignored.
    activations : uint8 ``(N, H, W, C)``
        Codes of the activations.
    weights : uint8 ``(O, C / groups, kh, kw)``
        Codes of the weights.
    weight_offset : int32 ``(O,)``
        Offset of each output channel's weights.

    Returns
    -------
    int64 ``(N, OH, OW, O)``
        The accumulators. A padded position counts as the value 0.
    """
    p = problem
    a = p.a.multiplier * activations.astype(np.int64) + p.a.offset
    w = p.w.multiplier * weights.astype(np.int64) + weight_offset.astype(np.int64)[:, None, None, None]
    top, left, bottom, right = (max(side, 0) for side in p.padding)
    a = np.pad(a, ((0, 0), (top, bottom), (left, right), (0, 0)))
    a = a[:, max(-p.padding[0], 0) :, max(-p.padding[1], 0) :]  # what is cut off after the last tap is not read
    out = np.zeros((p.batch, p.out_height, p.out_width, p.out_channels), np.int64)
    for o in range(p.out_channels):
        first = o // p.group_out_channels * p.group_channels
        for y in range(p.kernel[0]):
            for x in range(p.kernel[1]):
                row, column = y * p.dilation[0], x * p.dilation[1]
                rows = slice(row, row + (p.out_height - 1) * p.stride[0] + 1, p.stride[0])
                columns = slice(column, column + (p.out_width - 1) * p.stride[1] + 1, p.stride[1])
                out[..., o] += a[:, rows, columns, first : first + p.group_channels] @ w[o, :, y, x]
    return out


def count_thresholds(
    accumulators: npt.NDArray[np.int64],
    thresholds: npt.NDArray[np.int32],
    flip: npt.NDArray[np.uint8],
    side: Codes | None = None,
    falls: npt.NDArray[np.int32] | None = None,
) -> Codes:
    """Codes from accumulators ``(N, H, W, O)``: how many thresholds ``(rows, levels, O)`` each one reaches.

    ``side`` (codes, same shape) picks the row; where ``flip`` ``(O,)`` is set the count runs downwards. The number of
    ``falls`` ``(rows, count, O)`` that are reached is taken away again.
    """
    rows = np.zeros(accumulators.shape, np.intp) if side is None else side.astype(np.intp)
    levels = thresholds.shape[1]
    channel = np.arange(accumulators.shape[-1])
    reached = sum((accumulators >= thresholds[rows, level, channel]).astype(np.int64) for level in range(levels))
    if falls is not None:
        reached -= sum((accumulators >= falls[rows, i, channel]).astype(np.int64) for i in range(falls.shape[1]))
    return np.where(flip.astype(bool), levels - reached, reached).astype(np.uint8)
