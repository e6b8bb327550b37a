"""ONNX ``Resize`` and ``Upsample``, with the positions that ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from relay_passes.ops import constant, shape_of
from schedules.errors import LowbitError
from tvm_lowbit.resampling import linear, linear_by_ratio, nearest

Float32 = npt.NDArray[np.float32]
_F = np.float32
# ONNX Runtime 1.31 takes positions within this of a half, which are halves but for float32, as halves.
_TIE = _F(1e-6)


def _half_pixel(i: Float32, n: int, o: int, scale: np.float32) -> Float32:
    return (i + _F(0.5)) / scale - _F(0.5)


def _pytorch_half_pixel(i: Float32, n: int, o: int, scale: np.float32) -> Float32:
    return _half_pixel(i, n, o, scale) if o > 1 else np.zeros_like(i)


def _half_pixel_symmetric(i: Float32, n: int, o: int, scale: np.float32) -> Float32:
    offset = _F(n) / _F(2) * (_F(1) - _F(o) / (scale * _F(n)))
    positions: npt.NDArray[np.float64] = (i.astype(np.float64) + 0.5) / np.float64(scale) - 0.5
    return (np.float64(offset) + positions).astype(np.float32)


def _align_corners(i: Float32, n: int, o: int, scale: np.float32) -> Float32:
    return i * _F(n - 1) / _F(o - 1) if o > 1 else np.zeros_like(i)


# ``coordinate_transformation_mode``: positions float32 in the result -> positions in the input of n pixels.
COORDINATES: Mapping[str, Callable[[Float32, int, int, np.float32], Float32]] = {
    "half_pixel": _half_pixel,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "align_corners": _align_corners,
    "asymmetric": lambda i, n, o, scale: i / scale,
    "tf_half_pixel_for_nn": lambda i, n, o, scale: (i + _F(0.5)) / scale,
}
# ``nearest_mode``; "simple" is opset 10's, up to a scale of 1 and below.
ROUNDING: Mapping[str, Callable[[Float32, np.float32], Float32]] = {
    "floor": lambda x, scale: np.floor(x),
    "ceil": lambda x, scale: np.ceil(x),
    "round_prefer_floor": lambda x, scale: np.floor(x) + (x - np.floor(x) > _F(0.5) + _TIE),
    "round_prefer_ceil": lambda x, scale: np.floor(x) + (x - np.floor(x) >= _F(0.5) - _TIE),
    "simple": lambda x, scale: np.ceil(x) if scale < 1 else np.trunc(x),
}


def _text(attr: Any, key: str, default: str) -> str:
    value = attr.get(key, default)
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def _numbers(value: Any, params: Any) -> npt.NDArray[Any] | None:
    if value is None:
        return None
    value = onnx_frontend.get_constant(value, params)
    if isinstance(value, relax.ShapeExpr):
        return np.array([int(v) for v in value.values])
    array = constant(value)
    if array is None:
        raise LowbitError("Resize", "constant scales or sizes", "some computed from the input")
    return array if array.size else None


def _resized(
    bb: Any, x: Any, attr: Any, scales: npt.NDArray[Any] | None, sizes: npt.NDArray[Any] | None, old: bool
) -> Any:
    """Emit the resizing; the operators of opsets below 11 have no modes of coordinates."""
    shape, where = shape_of(x), attr["tvm_custom"]["label"]
    axes = [int(a) % len(shape) for a in attr.get("axes", range(len(shape)))]
    if (scales is None) == (sizes is None) or len(axes) != (sizes if scales is None else scales).size:  # type: ignore[union-attr]
        raise LowbitError(where, f"scales or sizes for {len(axes)} axes", f"scales {scales}, sizes {sizes}")
    mode = _text(attr, "mode", "nearest")
    coordinates = "asymmetric" if old else _text(attr, "coordinate_transformation_mode", "half_pixel")
    rounding = "simple" if old else _text(attr, "nearest_mode", "round_prefer_floor")
    extents = [shape[a] for a in axes]
    if scales is None:
        out = [int(v) for v in np.asarray(sizes)]
        factors = [_F(o) / _F(n) for o, n in zip(out, extents, strict=True)]
        if _text(attr, "keep_aspect_ratio_policy", "stretch") != "stretch":
            raise LowbitError(where, "keep_aspect_ratio_policy stretch", _text(attr, "keep_aspect_ratio_policy", ""))
    else:
        factors = [_F(s) for s in scales]
        out = [int(np.floor(s * _F(n))) for s, n in zip(factors, extents, strict=True)]
    if any(o < 1 for o in out):
        raise LowbitError(where, "sizes of at least 1", str(out))
    if out == extents:
        return x  # whatever the scales: that is how ONNX Runtime has it
    changed = [k for k in range(len(axes)) if out[k] != extents[k] or factors[k] != 1]
    if attr.get("antialias", 0) and any(out[k] < extents[k] for k in changed):
        raise LowbitError(where, "a Resize without antialiasing", "antialias=1")
    positions = {}
    if coordinates not in COORDINATES:
        raise LowbitError(where, f"coordinates of the modes {', '.join(COORDINATES)}", coordinates)
    for k in changed:
        i = np.arange(out[k], dtype=np.float32)
        positions[k] = COORDINATES[coordinates](i, extents[k], out[k], factors[k]).astype(np.float32)
    if mode == "nearest":
        rounded = {axes[k]: ROUNDING[rounding](at, factors[k]).astype(np.int64) for k, at in positions.items()}
        return nearest(bb, x, rounded)
    by_ratio = all(_F(out[k]) / _F(extents[k]) == factors[k] for k in changed)
    by_ratio = by_ratio or coordinates == "align_corners"
    known = coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    image = len(shape) == 4 and {axes[k] for k in changed} <= {2, 3} and by_ratio and known
    whole = dict(zip(axes, out, strict=True))
    size = (whole.get(2, shape[2]), whole.get(3, shape[3])) if image else (0, 0)
    if mode == "linear":
        if image:
            return linear_by_ratio(x, size, coordinates)
        return linear(bb, x, {axes[k]: at for k, at in positions.items()})
    if mode == "cubic" and image:
        return relax.op.image.resize2d(
            x,
            relax.ShapeExpr(list(size)),
            method="cubic",
            coordinate_transformation_mode=coordinates,
            cubic_alpha=float(attr.get("cubic_coeff_a", -0.75)),
            cubic_exclude=int(attr.get("exclude_outside", 0)),
        )
    raise LowbitError(where, "nearest or linear interpolation, or cubic of images by the ratio of sizes", mode)


class _Resize(onnx_frontend.OnnxOpConverter):  # type: ignore[misc]
    """Opset 10: scales only; from 11 on a region of interest, scales and sizes."""

    @classmethod
    def _impl_v10(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        return _resized(bb, inputs[0], attr, _numbers(inputs[1], params), None, old=True)

    @classmethod
    def _impl_v11(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        given = [inputs[i] if len(inputs) > i else None for i in (2, 3)]
        scales, sizes = (_numbers(value, params) for value in given)
        return _resized(bb, inputs[0], attr, None if sizes is not None else scales, sizes, old=False)


class _Upsample(onnx_frontend.OnnxOpConverter):  # type: ignore[misc]
    """Opset 7 has the scales as an attribute, 9 as an input."""

    @classmethod
    def _impl_v7(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        return _resized(bb, inputs[0], attr, np.asarray(attr["scales"], np.float32), None, old=True)

    @classmethod
    def _impl_v9(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        return _resized(bb, inputs[0], attr, _numbers(inputs[1], params), None, old=True)


CONVERTERS = {"Resize": _Resize, "Upsample": _Upsample}
