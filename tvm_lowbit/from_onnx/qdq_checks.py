"""What must hold of ``QuantizeLinear`` and ``DequantizeLinear``; TVM's front end takes it for granted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relay_passes.ops import shape_of
from schedules.errors import LowbitError

OPERATORS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def check_linear(where: str, inputs: Sequence[Any], axis: int) -> None:
    """Scale and zero point are one number, or one for each index of the axis.

    Raises
    ------
    LowbitError
        If they are not, or there is no scale.
    """
    if len(inputs) < 2 or any(value is None for value in inputs[:2]):
        raise LowbitError(where, "a tensor and a scale", "none")
    x, scale = (shape_of(value) for value in inputs[:2])
    zero = scale if len(inputs) < 3 or inputs[2] is None else shape_of(inputs[2])
    if len(scale) > 1:
        raise LowbitError(f"scale of {where}", "one number, or one for each index of an axis", f"shape {scale}")
    if zero != scale and not (_is_one(zero) and _is_one(scale)):
        raise LowbitError(f"zero point of {where}", f"the scale's shape {scale}", f"shape {zero}")
    if _is_one(scale):
        return
    if not -len(x) <= axis < len(x):
        raise LowbitError(f"axis of {where}", f"one of {len(x)} dimensions", str(axis))
    if scale[0] != x[axis]:
        raise LowbitError(f"scale of {where}", f"{x[axis]} numbers, one for each index of axis {axis}", str(scale[0]))


def _is_one(shape: tuple[int, ...]) -> bool:
    return shape in ((), (1,))
