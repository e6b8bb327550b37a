"""``CODE_FORMS``: further ways to compute a code from a value, each in NumPy and in TIR: the same float32 steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from tvm import tirx

Compute = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class CodeForm:
    """One row: ``numpy(x, scale, zero)`` on float32 arrays and ``tir(x, scale, zero)`` on expressions."""

    numpy: Compute
    tir: Compute


def _f32(value: float) -> Any:
    return tirx.const(float(value), "float32")


def _beside_reciprocal(ulp: int) -> CodeForm:
    def in_numpy(x: Any, scale: Any, zero: Any) -> Any:
        factor = np.nextafter(np.float32(1) / scale, np.float32(ulp * np.inf), dtype=np.float32)
        return np.rint(x * factor) + zero

    def in_tir(x: Any, scale: Any, zero: Any) -> Any:
        # Positive floats are in the order of their bits.
        bits = tirx.reinterpret("int32", _f32(1) / scale) + ulp
        return tirx.nearbyint(x * tirx.reinterpret("float32", bits)) + zero

    return CodeForm(in_numpy, in_tir)


def _if(condition: Any) -> Any:
    return tirx.Select(condition, _f32(1), _f32(0))


CODE_FORMS: Mapping[str, CodeForm] = MappingProxyType(
    {
        # A graph that stores both the step and its reciprocal rounds them apart: 1 / s is then the float beside.
        "reciprocal_above": _beside_reciprocal(1),
        "reciprocal_below": _beside_reciprocal(-1),
        # Signs: the scale says what a code is worth, not where codes change.
        "sign": CodeForm(lambda x, s, z: np.sign(x) + z, lambda x, s, z: _if(x > _f32(0)) - _if(x < _f32(0)) + z),
        "at_least_zero": CodeForm(lambda x, s, z: (x >= 0).astype(np.float32), lambda x, s, z: _if(x >= _f32(0))),
        "above_zero": CodeForm(lambda x, s, z: (x > 0).astype(np.float32), lambda x, s, z: _if(x > _f32(0))),
    }
)
