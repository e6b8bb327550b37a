"""Ternary weights with a scale on either side of zero (TTQ, Zhu et al. 2017, section 3.1): two layers of one bit.

Where the two scales have no small common measure, weights ``{-n, 0, +p}`` lie on no grid. As ``p * P - n * N`` with
``P`` and ``N`` of 0 and 1 they are the difference of two layers, each exact in integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from relay_passes.quant_spec import QuantSpec

# Float32 numbers are equal by chance so seldom that a few repeated ones are no chance.
REPEATED = 4


def two_scales(array: npt.NDArray[np.float32], axis: int, tolerance: float) -> tuple[QuantSpec, QuantSpec] | None:
    """The quantisers of positive and of negative weights, one scale for each index along ``axis``.

    Parameters
    ----------
    array : float32 array
        A layer's weights.
    axis : int
        That of the outputs.
    tolerance : float
        How far magnitudes may lie from their mean, which is the scale, relative to it.

    Returns
    -------
    tuple of QuantSpec or None
        One of codes 0 and 1, one of codes -1 and 0; the array is the sum of what they give of its positive and its
        negative part. None where weights have other values.
    """
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).astype(np.float64)
    if not np.all(np.isfinite(rows)):
        return None
    repeated = 0
    scales = np.ones((2, len(rows)))
    for side, part in enumerate((rows, -rows)):
        for i, row in enumerate(part):
            values = row[row > 0]
            if not values.size:
                continue
            scales[side, i] = values.mean()
            if np.abs(values - scales[side, i]).max() > tolerance * scales[side, i]:
                return None
            repeated += values.size - 1
    if repeated < REPEATED:
        return None
    zero = np.zeros(len(rows), np.float32)
    up, down = scales.astype(np.float32)
    return QuantSpec(up, zero, 0, 1, axis), QuantSpec(down, zero, -1, 0, axis)


def halves(array: npt.NDArray[np.float32]) -> tuple[Any, Any]:
    """The positive and the negative part of weights; their sum is the array."""
    return np.maximum(array, np.float32(0)), np.minimum(array, np.float32(0))
