"""Converters of torch's fake-quantising operators to ``fake_quant``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import fx

from relay_passes.coverage import Coverage, Spelling
from schedules.errors import LowbitError
from tvm_lowbit.from_torch.grids import Grid, Quantised, codes_of, dequantised, emitted, grid_of, limits_of, number


def _fake(node: fx.Node, importer: Any, grid: Grid, limits: tuple[int, int]) -> Any:
    """The aten operators: ``1 / scale`` in float32."""
    with np.errstate(divide="ignore"):
        factor = np.float32(1) / grid.scale.astype(np.float32)
    made = Quantised(importer.env[node.args[0]], grid, factor, limits)
    if grid.axis is not None and grid.zero.dtype.kind == "f" and np.any(grid.zero):
        # Float zero points are added before rounding, where no form multiplies.
        return dequantised(importer, codes_of(importer, made, shifted=True), grid)
    return emitted(importer, made)


def _per_tensor(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, low, high = node.args[:5]
    return _fake(node, importer, grid_of(node, importer, scale, zero), limits_of(node, importer, low, high))


def _per_tensor_switched(node: fx.Node, importer: Any) -> Any:
    x, scale, zero, enabled, low, high = node.args[:6]
    if not np.all(number(node, importer, enabled, "switch")):
        return importer.env[x], None
    return _fake(node, importer, grid_of(node, importer, scale, zero), limits_of(node, importer, low, high)), None


def _per_channel(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, axis, low, high = node.args[:6]
    return _fake(node, importer, grid_of(node, importer, scale, zero, axis), limits_of(node, importer, low, high))


def _rounded(grid: Grid, low: int, high: int) -> Grid:
    """A learnt zero point as torch's kernel has it: to the nearest integer, ties to even, then into the range."""
    return Grid(grid.scale, np.clip(np.rint(grid.zero), low, high).astype(np.int64), grid.axis)


def _learnable_per_tensor(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, low, high = node.args[:5]
    grid = grid_of(node, importer, scale, zero)
    return _fake(node, importer, _rounded(grid, low, high), (low, high))


def _learnable_per_channel(node: fx.Node, importer: Any) -> Any:
    _, scale, zero, axis, low, high = node.args[:6]
    grid = grid_of(node, importer, scale, zero, axis)
    return _fake(node, importer, _rounded(grid, low, high), (low, high))


def _observed(node: fx.Node, importer: Any) -> Any:
    """``FusedMovingAvgObsFakeQuantize``: its observer must be off."""
    x, observes, quantises = node.args[:3]
    scale, zero, _, low, high, axis, per_channel = node.args[5:12]
    if np.any(number(node, importer, observes, "switch")):
        where = importer.where(node).replace("node", "quantiser", 1)
        hint = "model.apply(torch.ao.quantization.disable_observer)"
        raise LowbitError(where, "a fixed scale", "an observer that is on and changes it with every input", hint)
    if not np.all(number(node, importer, quantises, "switch")):
        return importer.env[x], None
    grid = grid_of(node, importer, scale, zero, axis if per_channel else None)
    return _fake(node, importer, grid, limits_of(node, importer, low, high)), None


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
    }
)
SPELLINGS = (
    Spelling(
        "torch_fake_quantize",
        "torch's fake_quantize operators and FakeQuantize modules, learnable ones too",
        Coverage(("torch",)),
        _fake,
        tuple(CONVERTERS),
    ),
)
