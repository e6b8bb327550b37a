"""Converters of torch's and torchao's quantising operators to ``fake_quant``.

All of them multiply by a reciprocal of the scale, hence the forms. Integer tensors between a quantise and its dequantise
appear nowhere in the result; where the two do not belong together, both are plain float arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx
from tvm import relax

from relay_passes.ops import constant, fake_quant, literal, shape_of
from relay_passes.quant_spec import QuantSpec
from schedules.errors import LowbitError
from tvm_lowbit.torch_import_constants import is_blocked

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Grid:
    """Scale and zero point, ``()`` or ``(channels,)``, in the types that the operator has them in."""

    scale: Array
    zero: Array
    axis: int | None

    def same(self, other: Grid) -> bool:
        """Whether two operators mean the same grid."""
        pairs = ((self.scale, other.scale), (self.zero, other.zero))
        return self.axis == other.axis and all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


@dataclass(frozen=True)
class Quantised:
    """What an integer tensor was quantised from, and how; ``factor`` is what torch multiplies by."""

    x: Any
    grid: Grid
    factor: Array
    limits: tuple[int, int]


def _number(node: fx.Node, importer: Any, value: Any, what: str) -> Array:
    """A constant argument as an array."""
    value = importer.env[value] if isinstance(value, fx.Node) else value
    array = constant(value) if isinstance(value, relax.Expr) else np.asarray(value)
    if array is None:
        name = importer.where(node).replace("node", "quantiser", 1)
        hint = "calibrate it once and store the result; dynamic quantisation is not supported"
        raise LowbitError(name, f"a constant {what}", f"one computed at run time ({node.target})", hint)
    return array


def _grid(node: fx.Node, importer: Any, scale: Any, zero: Any, axis: int | None = None) -> Grid:
    s = _number(node, importer, scale, "scale")
    z = np.zeros_like(s, np.int64) if zero is None else _number(node, importer, zero, "zero point")
    if axis is None:
        return Grid(s.reshape(-1)[:1].reshape(()), z.reshape(-1)[:1].reshape(()), None)
    rank = len(shape_of(importer.env[node.args[0]]))
    return Grid(s.reshape(-1), np.broadcast_to(z.reshape(-1), (s.size,)), axis % rank)


def _limits(node: fx.Node, importer: Any, low: Any, high: Any, dtype: Any = None) -> tuple[int, int]:
    if low is None or high is None:
        info = torch.iinfo(dtype)
        low, high = (info.min if low is None else low), (info.max if high is None else high)
    return int(_number(node, importer, low, "quant_min").reshape(())), int(
        _number(node, importer, high, "quant_max").reshape(())
    )


def _emitted(importer: Any, made: Quantised) -> Any:
    """The fake-quantised tensor: a ``fake_quant``, or plain arithmetic where no form multiplies by that factor."""
    scale, zero = made.grid.scale.astype(np.float32), made.grid.zero.astype(np.float32)
    for form, factor in _factors(scale).items():
        if np.array_equal(made.factor, factor, equal_nan=True):
            return importer.emit(fake_quant(made.x, QuantSpec(scale, zero, *made.limits, made.grid.axis, form)))
    return _dequantised(importer, _codes(importer, made), made.grid)


def _factors(scale: Array) -> dict[str, Array]:
    with np.errstate(all="ignore"):
        reciprocal = np.float32(1) / scale
        return {
            "reciprocal": reciprocal,
            "reciprocal_above": np.nextafter(reciprocal, np.float32(np.inf)),
            "reciprocal_below": np.nextafter(reciprocal, np.float32(-np.inf)),
        }


def _along(array: Array, axis: int | None, rank: int) -> Any:
    shape = [1] * rank
    if axis is not None:
        shape[axis] = -1
    return literal(array.astype(np.float32).reshape(shape if axis is not None else ()))


def _codes(importer: Any, made: Quantised, shifted: bool = False) -> Any:
    """The codes as float32; ``shifted`` adds the zero point before rounding."""
    rank, axis = len(shape_of(made.x)), made.grid.axis
    zero = _along(made.grid.zero, axis, rank)
    scaled = importer.emit(relax.op.multiply(made.x, _along(made.factor, axis, rank)))
    if shifted:
        code = importer.emit(relax.op.round(importer.emit(relax.op.add(scaled, zero))))
    else:
        code = importer.emit(relax.op.add(importer.emit(relax.op.round(scaled)), zero))
    return importer.emit(relax.op.clip(code, *map(float, made.limits)))


def _dequantised(importer: Any, codes: Any, grid: Grid) -> Any:
    rank = len(shape_of(codes))
    centred = importer.emit(relax.op.subtract(codes, _along(grid.zero, grid.axis, rank)))
    return importer.emit(relax.op.multiply(centred, _along(grid.scale, grid.axis, rank)))


def _fake(node: fx.Node, importer: Any, grid: Grid, limits: tuple[int, int]) -> Any:
    """The aten operators: ``1 / scale`` in float32."""
    with np.errstate(divide="ignore"):
        factor = np.float32(1) / grid.scale.astype(np.float32)
    made = Quantised(importer.env[node.args[0]], grid, factor, limits)
    if grid.axis is not None and grid.zero.dtype.kind == "f" and np.any(grid.zero):
        # Float zero points are added before rounding, where no form multiplies.
        return _dequantised(importer, _codes(importer, made, shifted=True), grid)
    return _emitted(importer, made)


def _per_tensor(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, low, high = node.args[:5]
    return _fake(node, importer, _grid(node, importer, scale, zero), _limits(node, importer, low, high))


def _per_tensor_switched(node: fx.Node, importer: Any) -> Any:
    x, scale, zero, enabled, low, high = node.args[:6]
    if not np.all(_number(node, importer, enabled, "switch")):
        return importer.env[x], None
    return _fake(node, importer, _grid(node, importer, scale, zero), _limits(node, importer, low, high)), None


def _per_channel(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, axis, low, high = node.args[:6]
    return _fake(node, importer, _grid(node, importer, scale, zero, axis), _limits(node, importer, low, high))


def _rounded(grid: Grid, low: int, high: int) -> Grid:
    """A learnt zero point as torch's kernel has it: to the nearest integer, ties to even, then into the range."""
    return Grid(grid.scale, np.clip(np.rint(grid.zero), low, high).astype(np.int64), grid.axis)


def _learnable_per_tensor(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, low, high = node.args[:5]
    grid = _grid(node, importer, scale, zero)
    return _fake(node, importer, _rounded(grid, low, high), (low, high))


def _learnable_per_channel(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, axis, low, high = node.args[:6]
    grid = _grid(node, importer, scale, zero, axis)
    return _fake(node, importer, _rounded(grid, low, high), (low, high))


def _observed(node: fx.Node, importer: Any) -> Any:
    """``FusedMovingAvgObsFakeQuantize``: its observer must be off."""
    x, observes, quantises = node.args[:3]
    scale, zero, _, low, high, axis, per_channel = node.args[5:12]
    if np.any(_number(node, importer, observes, "switch")):
        where = importer.where(node).replace("node", "quantiser", 1)
        hint = "model.apply(torch.ao.quantization.disable_observer)"
        raise LowbitError(where, "a fixed scale", "an observer that is on and changes it with every input", hint)
    if not np.all(_number(node, importer, quantises, "switch")):
        return importer.env[x], None
    grid = _grid(node, importer, scale, zero, axis if per_channel else None)
    return _fake(node, importer, grid, _limits(node, importer, low, high)), None


def _quantised(node: fx.Node, importer: Any, made: Quantised, dtype: torch.dtype) -> Any:
    """The integer tensor of a quantising operator, remembered for its dequantising one."""
    integers = importer.emit(relax.op.astype(_codes(importer, made), str(dtype).removeprefix("torch.")))
    importer.quantised[integers] = made
    return integers


def _quantize_per_tensor(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, low, high, dtype = node.args[:6]
    grid = _grid(node, importer, scale, zero)
    with np.errstate(divide="ignore"):
        factor = np.asarray(np.float64(1) / np.float64(grid.scale)).astype(np.float32)  # of a Python number
    made = Quantised(importer.env[node.args[0]], grid, factor, _limits(node, importer, low, high))
    return _quantised(node, importer, made, dtype)


def _in_float32(node: fx.Node, importer: Any, made: Grid) -> Array:
    if made.scale.dtype != np.float32:
        raise LowbitError(importer.where(node), "scales of float32", str(made.scale.dtype), "cast them")
    with np.errstate(divide="ignore"):
        return np.asarray(np.float32(1) / made.scale)


def _quantize_per_channel(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, axis, low, high, dtype = node.args[:7]
    grid = _grid(node, importer, scale, zero, axis)
    factor = _in_float32(node, importer, grid)
    made = Quantised(importer.env[node.args[0]], grid, factor, _limits(node, importer, low, high))
    return _quantised(node, importer, made, dtype)


def _dequantised_of(node: fx.Node, importer: Any, grid: Grid, limits: tuple[int, int]) -> Any:
    """Of a quantising operator on the same grid, of stored integers, or plain arithmetic."""
    integers = importer.env[node.args[0]]
    made, stored = importer.quantised.get(integers), constant(integers)
    if made is not None and made.grid.same(grid):
        # pt2e dequantises once for each reader; they share one quantiser.
        if integers not in importer.dequantised:
            importer.dequantised[integers] = _emitted(importer, made)
        return importer.dequantised[integers]
    if stored is None:
        return _dequantised(importer, importer.emit(relax.op.astype(integers, "float32")), grid)
    if stored.size and not limits[0] <= stored.min() <= stored.max() <= limits[1]:
        limits = int(np.iinfo(stored.dtype).min), int(np.iinfo(stored.dtype).max)
    spec = QuantSpec(grid.scale.astype(np.float32), grid.zero.astype(np.float32), *limits, grid.axis)
    # The weights' values; quantising them again gives back the integers, which are at most 255 steps from zero.
    integers_of = stored.astype(np.float32) - spec._shaped(spec.zero_point, stored.ndim)
    return importer.emit(fake_quant(literal(integers_of * spec._shaped(spec.scale, stored.ndim)), spec))


def _dequantize_per_tensor(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, low, high, dtype = node.args[:6]
    grid = _grid(node, importer, scale, zero)
    return _dequantised_of(node, importer, grid, _limits(node, importer, low, high, dtype))


def _dequantize_per_channel(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, axis, low, high, dtype = node.args[:7]
    grid = _grid(node, importer, scale, zero, axis)
    return _dequantised_of(node, importer, grid, _limits(node, importer, low, high, dtype))


def _affine(node: fx.Node, importer: Any) -> tuple[Grid, tuple[int, int]]:
    """Grid and range of a torchao operator, whose blocks say along which axis its scale runs."""
    _, blocks, scale, zero, dtype, low, high = (*node.args, None, None)[:7]
    if is_blocked(node):
        hint = "quantise per tensor or per channel"
        raise LowbitError(importer.where(node), "one scale a tensor or channel", f"blocks of {list(blocks)}", hint)
    shape = shape_of(importer.env[node.args[0]])
    axes = [i for i, (block, extent) in enumerate(zip(blocks, shape, strict=True)) if block != extent]
    grid = _grid(node, importer, scale, zero, axes[0] if axes else None)
    return grid, _limits(node, importer, low, high, dtype)


def _quantize_affine(node: fx.Node, importer: Any) -> Any:
    grid, limits = _affine(node, importer)
    made = Quantised(importer.env[node.args[0]], grid, _in_float32(node, importer, grid), limits)
    return _quantised(node, importer, made, node.args[4])


def _dequantize_affine(node: fx.Node, importer: Any) -> Any:
    return _dequantised_of(node, importer, *_affine(node, importer))


def _computed(node: fx.Node, importer: Any) -> Any:
    where = importer.where(node).replace("node", "quantiser", 1)
    hint = "calibrate it once and store the result; dynamic quantisation is not supported"
    raise LowbitError(where, "a constant scale and zero point", f"ones computed at run time ({node.target})", hint)


def _first_of(convert: Callable[[fx.Node, Any], Any]) -> Callable[[fx.Node, Any], Any]:
    """With the mask of what is inside the range, which only training reads."""
    return lambda node, importer: (convert(node, importer), None)


CONVERTERS: Mapping[str, Callable[[fx.Node, Any], Any]] = MappingProxyType(
    {
        "fake_quantize_per_tensor_affine.default": _per_tensor,
        "fake_quantize_per_tensor_affine.tensor_qparams": _per_tensor,
        "fake_quantize_per_tensor_affine_cachemask.default": _first_of(_per_tensor),
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default": _per_tensor_switched,
        "fake_quantize_per_channel_affine.default": _per_channel,
        "fake_quantize_per_channel_affine_cachemask.default": _first_of(_per_channel),
        "_fake_quantize_learnable_per_tensor_affine.default": _learnable_per_tensor,
        "_fake_quantize_learnable_per_channel_affine.default": _learnable_per_channel,
        "fused_moving_avg_obs_fake_quant.default": lambda node, importer: _observed(node, importer)[0],
        "_fused_moving_avg_obs_fq_helper_functional.default": _observed,
        **{f"quantize_per_tensor.{kind}": _quantize_per_tensor for kind in ("default", "tensor", "tensor2")},
        **{f"dequantize_per_tensor.{kind}": _dequantize_per_tensor for kind in ("default", "tensor", "tensor2")},
        "quantize_per_channel.default": _quantize_per_channel,
        "dequantize_per_channel.default": _dequantize_per_channel,
        "quantize_affine.default": _quantize_affine,
        "dequantize_affine.default": _dequantize_affine,
        **{f"{name}.tensor": _computed for name in ("choose_qparams", "choose_qparams_symmetric")},
        **{f"{name}.default": _computed for name in ("choose_qparams_affine", "choose_qparams_per_token")},
        "_choose_qparams_per_token_asymmetric_impl.default": _computed,
        "choose_qparams_per_token_asymmetric.default": _computed,
    }
)
