"""PyTorch operators that move or resize, where TVM's front end lacks them or chooses other pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.ops import shape_of
from schedules.errors import LowbitError
from tvm_lowbit.resampling import linear, linear_by_ratio, nearest

_F = np.float32


def _sizes(x: Any, size: Any, factors: Any) -> tuple[list[int], list[np.float32]]:
    """Extents of the result, and the input's pixels to one of it, as torch's ``area_pixel_compute_scale`` has them."""
    extents = shape_of(x)[2:]
    if size:
        out = [int(v) for v in size]
        return out, [_F(n) / _F(o) for n, o in zip(extents, out, strict=True)]
    out = [int(np.floor(n * float(f))) for n, f in zip(extents, factors, strict=True)]
    return out, [_F(1.0 / float(f)) for f in factors]


def _upsample_nearest(node: Any, importer: Any) -> Any:
    x, size, factors = (*importer.retrieve_args(node), None)[:3]
    out, steps = _sizes(x, size, factors)
    indices = {
        axis: np.floor(np.arange(o, dtype=np.float32) * step).astype(np.int64)
        for axis, (o, step) in enumerate(zip(out, steps, strict=True), 2)
    }
    return importer.block_builder.emit(nearest(importer.block_builder, x, indices))


def _upsample_bilinear(node: Any, importer: Any) -> Any:
    x, size, aligned, factors = (*importer.retrieve_args(node), None)[:4]
    out, steps = _sizes(x, size, factors)
    ratios = [_F(n) / _F(o) for n, o in zip(shape_of(x)[2:], out, strict=True)]
    emit = importer.block_builder.emit
    if aligned or all(step == ratio for step, ratio in zip(steps, ratios, strict=True)):
        return emit(linear_by_ratio(x, (out[0], out[1]), "align_corners" if aligned else "half_pixel"))
    coordinates = {
        axis: (np.arange(o, dtype=np.float32) + _F(0.5)) * step - _F(0.5)
        for axis, (o, step) in enumerate(zip(out, steps, strict=True), 2)
    }
    return emit(linear(importer.block_builder, x, coordinates))


def _antialiased(node: Any, importer: Any) -> Any:
    raise LowbitError(f"node {node.name}", "a resizing without antialiasing", "antialias=True")


def _amax(node: Any, importer: Any) -> Any:
    x, axes, keep = (*importer.retrieve_args(node), False)[:3]
    axes = list(axes) if isinstance(axes, Sequence) else [axes]
    return importer.block_builder.emit(relax.op.max(x, [int(a) for a in axes] or None, bool(keep)))


def _adaptive_max_pool(node: Any, importer: Any) -> Any:
    """Windows as torch cuts them; torch returns indices as well, which nothing reads."""
    x, size = importer.retrieve_args(node)[:2]
    emit = importer.block_builder.emit
    extents = shape_of(x)[-2:]
    if all(int(count) == 1 for count in size):
        return emit(relax.op.max(x, [-2, -1], keepdims=True)), None
    if all(extent % count == 0 for extent, count in zip(extents, size, strict=True)):
        window = [extent // count for extent, count in zip(extents, size, strict=True)]
        return emit(relax.op.nn.max_pool2d(x, pool_size=window, strides=window)), None
    for axis, (extent, count) in enumerate(zip(extents, size, strict=True), start=len(shape_of(x)) - 2):
        parts = []
        for i in range(count):
            ends = i * extent // count, -(-(i + 1) * extent // count)
            part = emit(relax.op.strided_slice(x, [axis], [ends[0]], [ends[1]]))
            parts.append(emit(relax.op.max(part, axis=[axis], keepdims=True)))
        x = emit(relax.op.concat(parts, axis))
    return x, None


CONVERTERS = {
    "upsample_nearest2d.vec": _upsample_nearest,
    "upsample_bilinear2d.vec": _upsample_bilinear,
    "_upsample_bilinear2d_aa.default": _antialiased,
    "amax.default": _amax,
    "adaptive_max_pool2d.default": _adaptive_max_pool,
}
