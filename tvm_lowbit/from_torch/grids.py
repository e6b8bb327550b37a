"""What torch's quantising operators have in common: their constant parameters, and a ``fake_quant`` of them.

All of them multiply by a reciprocal of the scale, hence the forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx
from tvm import relax

from relay_passes.ops import constant, fake_quant, literal
from relay_passes.quant_spec import QuantSpec
from schedules.errors import LowbitError

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


def rank_of(expr: Any) -> int:
    """Number of dimensions, also where one is symbolic."""
    return len(expr.ty.shape)


def number(node: fx.Node, importer: Any, value: Any, what: str) -> Array:
    """A constant argument as an array; a `LowbitError` that names the quantiser if it is computed."""
    value = importer.env[value] if isinstance(value, fx.Node) else value
    array = constant(value) if isinstance(value, relax.Expr) else np.asarray(value)
    if array is None:
        name = importer.where(node).replace("node", "quantiser", 1)
        hint = "calibrate it once and store the result; dynamic quantisation is not supported"
        raise LowbitError(name, f"a constant {what}", f"one computed at run time ({node.target})", hint)
    return array


def grid_of(node: fx.Node, importer: Any, scale: Any, zero: Any, axis: int | None = None) -> Grid:
    """The grid of a node from its arguments; per tensor without an axis."""
    s = number(node, importer, scale, "scale")
    z = np.zeros_like(s, np.int64) if zero is None else number(node, importer, zero, "zero point")
    if axis is None:
        return Grid(s.reshape(-1)[:1].reshape(()), z.reshape(-1)[:1].reshape(()), None)
    rank = rank_of(importer.env[node.args[0]])
    return Grid(s.reshape(-1), np.broadcast_to(z.reshape(-1), (s.size,)), axis % rank)


def limits_of(node: fx.Node, importer: Any, low: Any, high: Any, dtype: Any = None) -> tuple[int, int]:
    """Smallest and largest code; those of the type where none are given."""
    if low is None or high is None:
        info = torch.iinfo(dtype)
        low, high = (info.min if low is None else low), (info.max if high is None else high)
    return int(number(node, importer, low, "quant_min").reshape(())), int(
        number(node, importer, high, "quant_max").reshape(())
    )


def emitted(importer: Any, made: Quantised) -> Any:
    """The fake-quantised tensor: a ``fake_quant``, or plain arithmetic where no form multiplies by that factor."""
    scale, zero = made.grid.scale.astype(np.float32), made.grid.zero.astype(np.float32)
    for form, factor in _factors(scale).items():
        if np.array_equal(made.factor, factor, equal_nan=True):
            return importer.emit(fake_quant(made.x, QuantSpec(scale, zero, *made.limits, made.grid.axis, form)))
    return dequantised(importer, codes_of(importer, made), made.grid)


def _factors(scale: Array) -> dict[str, Array]:
    with np.errstate(all="ignore"):
        reciprocal = np.float32(1) / scale
        return {
            "reciprocal": reciprocal,
            "reciprocal_above": np.nextafter(reciprocal, np.float32(np.inf)),
            "reciprocal_below": np.nextafter(reciprocal, np.float32(-np.inf)),
        }


def along(array: Array, axis: int | None, rank: int) -> Array:
    """A parameter in float32, shaped to meet a tensor of ``rank`` dimensions along its axis."""
    if axis is None:
        return array.astype(np.float32).reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return array.astype(np.float32).reshape(shape)


def codes_of(importer: Any, made: Quantised, shifted: bool = False) -> Any:
    """The codes as float32; ``shifted`` adds the zero point before rounding."""
    rank, axis = rank_of(made.x), made.grid.axis
    zero = literal(along(made.grid.zero, axis, rank))
    scaled = importer.emit(relax.op.multiply(made.x, literal(along(made.factor, axis, rank))))
    if shifted:
        code = importer.emit(relax.op.round(importer.emit(relax.op.add(scaled, zero))))
    else:
        code = importer.emit(relax.op.add(importer.emit(relax.op.round(scaled)), zero))
    return importer.emit(relax.op.clip(code, *map(float, made.limits)))


def dequantised(importer: Any, codes: Any, grid: Grid) -> Any:
    """Codes in float32 back to values."""
    rank = rank_of(codes)
    centred = importer.emit(relax.op.subtract(codes, literal(along(grid.zero, grid.axis, rank))))
    return importer.emit(relax.op.multiply(centred, literal(along(grid.scale, grid.axis, rank))))
