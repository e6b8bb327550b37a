"""Resizing along one axis at a time, with the positions that the exporting framework computes, fixed at import.

TVM's ``resize2d`` derives its positions from the two sizes alone, so it is wrong wherever a model gives scales that are
not exactly their ratio; and it rounds positions otherwise than the frameworks do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes.ops import literal, shape_of

Float32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def picked(x: Any, axis: int, indices: Indices) -> Any:
    """``x`` at constant indices along an axis."""
    if np.array_equal(indices, np.arange(shape_of(x)[axis])):
        return x
    return relax.op.take(x, literal(indices.astype(np.int64)), axis=axis, mode="clip")


def nearest(bb: Any, x: Any, indices: dict[int, Indices]) -> Any:
    """Nearest-neighbour resizing: along each axis the pixels at ``indices``, those beyond the edge being the edge."""
    for axis, at in indices.items():
        x = bb.normalize(picked(x, axis, np.clip(at, 0, shape_of(x)[axis] - 1)))
    return x


def linear(bb: Any, x: Any, coordinates: dict[int, Float32]) -> Any:
    """Linear interpolation along each axis at fractional positions, those beyond the edge being the edge."""
    for axis, at in coordinates.items():
        shape = shape_of(x)
        if np.array_equal(at, np.arange(shape[axis])):
            continue
        at = np.clip(at, np.float32(0), np.float32(shape[axis] - 1))
        low = np.minimum(at.astype(np.int64), shape[axis] - 1)
        share = (at - low.astype(np.float32)).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        parts = [
            bb.normalize(relax.op.multiply(bb.normalize(picked(x, axis, index)), literal(weight.astype(np.float32))))
            for index, weight in ((low, 1 - share), (np.minimum(low + 1, shape[axis] - 1), share))
        ]
        x = bb.normalize(relax.op.add(*parts))
    return x


def linear_by_ratio(x: Any, sizes: tuple[int, int], coordinates: str) -> Any:
    """Bilinear resizing of NCHW at positions that follow from the sizes, as one operator."""
    return relax.op.image.resize2d(
        x, relax.ShapeExpr(list(sizes)), method="linear", coordinate_transformation_mode=coordinates
    )
