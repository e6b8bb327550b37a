"""Converters of pairs: quantise to integers, dequantise (torch's ``quantized_decomposed``, torchao's affine operators).

Integer tensors between the two appear nowhere in the result; where the two do not belong together, both are plain float
arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import fx
from tvm import relax

from relay_passes.coverage import Coverage, Spelling
from relay_passes.ops import constant, fake_quant, literal
from relay_passes.quant_spec import QuantSpec
from schedules.errors import LowbitError
from tvm_lowbit.from_torch.constants import is_blocked
from tvm_lowbit.from_torch.grids import (
    Array,
    Grid,
    Quantised,
    along,
    codes_of,
    dequantised,
    emitted,
    grid_of,
    limits_of,
)


def _quantised(node: fx.Node, importer: Any, made: Quantised, dtype: torch.dtype) -> Any:
    """The integer tensor of a quantising operator, remembered for its dequantising one."""
    integers = importer.emit(relax.op.astype(codes_of(importer, made), str(dtype).removeprefix("torch.")))
    importer.quantised[integers] = made
    return integers


def _quantize_per_tensor(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, low, high, dtype = node.args[:6]
    grid = grid_of(node, importer, scale, zero)
    with np.errstate(divide="ignore"):
        factor = np.asarray(np.float64(1) / np.float64(grid.scale)).astype(np.float32)  # of a Python number
    made = Quantised(importer.env[node.args[0]], grid, factor, limits_of(node, importer, low, high))
    return _quantised(node, importer, made, dtype)


def _in_float32(node: fx.Node, importer: Any, made: Grid) -> Array:
    if made.scale.dtype != np.float32:
        raise LowbitError(importer.where(node), "scales of float32", str(made.scale.dtype), "cast them")
    with np.errstate(divide="ignore"):
        return np.asarray(np.float32(1) / made.scale)


def _quantize_per_channel(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, axis, low, high, dtype = node.args[:7]
    grid = grid_of(node, importer, scale, zero, axis)
    factor = _in_float32(node, importer, grid)
    made = Quantised(importer.env[node.args[0]], grid, factor, limits_of(node, importer, low, high))
    return _quantised(node, importer, made, dtype)


def _dequantised_of(node: fx.Node, importer: Any, grid: Grid, limits: tuple[int, int]) -> Any:
    """Of a quantising operator on the same grid, of stored integers, or plain arithmetic."""
    integers = importer.env[node.args[0]]
    made, stored = importer.quantised.get(integers), constant(integers)
    if made is not None and made.grid.same(grid):
        # pt2e dequantises once for each reader; they share one quantiser.
        if integers not in importer.dequantised:
            importer.dequantised[integers] = emitted(importer, made)
        return importer.dequantised[integers]
    if stored is None:
        return dequantised(importer, importer.emit(relax.op.astype(integers, "float32")), grid)
    if stored.size and not limits[0] <= stored.min() <= stored.max() <= limits[1]:
        limits = int(np.iinfo(stored.dtype).min), int(np.iinfo(stored.dtype).max)
    scale, zero = (along(v, grid.axis, stored.ndim) for v in (grid.scale, grid.zero))
    values = literal((stored.astype(np.float32) - zero) * scale)
    if limits[1] - limits[0] > 255:
        return values  # a bias
    # Quantising the weights again gives back the integers, which are at most 255 steps from zero.
    spec = QuantSpec(grid.scale.astype(np.float32), grid.zero.astype(np.float32), *limits, grid.axis)
    return importer.emit(fake_quant(values, spec))


def _dequantize_per_tensor(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, low, high, dtype = node.args[:6]
    grid = grid_of(node, importer, scale, zero)
    return _dequantised_of(node, importer, grid, limits_of(node, importer, low, high, dtype))


def _dequantize_per_channel(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, axis, low, high, dtype = node.args[:7]
    grid = grid_of(node, importer, scale, zero, axis)
    return _dequantised_of(node, importer, grid, limits_of(node, importer, low, high, dtype))


def _affine(node: fx.Node, importer: Any) -> tuple[Grid, tuple[int, int]]:
    """Grid and range of a torchao operator, whose blocks say along which axis its scale runs."""
    _, blocks, scale, zero, dtype, low, high = (*node.args, None, None)[:7]
    if is_blocked(node):
        hint = "quantise per tensor or per channel"
        raise LowbitError(importer.where(node), "one scale a tensor or channel", f"blocks of {list(blocks)}", hint)
    shape = node.args[0].meta["val"].shape
    axes = [i for i, (block, extent) in enumerate(zip(blocks, shape, strict=True)) if int(block) != int(extent)]
    grid = grid_of(node, importer, scale, zero, axes[0] if axes else None)
    return grid, limits_of(node, importer, low, high, dtype)


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


CONVERTERS: Mapping[str, Callable[[fx.Node, Any], Any]] = MappingProxyType(
    {
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
SPELLINGS = (
    Spelling(
        "torch_quantize_dequantize",
        "quantise and dequantise pairs of pt2e (quantized_decomposed) and torchao",
        Coverage(("torch",)),
        _affine,
        tuple(CONVERTERS),
    ),
)
