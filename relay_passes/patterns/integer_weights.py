"""Weights stored as integers: ``constant -> [Clip] -> DequantizeLinear``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.relax.dpl import is_const, is_op, wildcard

from relay_passes.coverage import Coverage
from relay_passes.ops import constant
from relay_passes.patterns.base import Found, Match, QuantPattern
from relay_passes.patterns.quantize_clip_dequantize import integer_range, qdq_spec
from relay_passes.quant_spec import NoMatch


def _make() -> tuple[Any, Callable[[Match], Found | NoMatch]]:
    integers, scale, zero = is_const(), is_const(), is_const()
    clipped = is_op("relax.clip")(integers, wildcard(), wildcard())
    pattern = is_op("relax.dequantize")(integers | clipped, scale, zero)

    def to_spec(match: Match) -> Found | NoMatch:
        stored = constant(match[integers])
        if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 1:
            return NoMatch(f"its weights are stored as {stored.dtype}; 8-bit integers are supported")
        limits = integer_range(str(stored.dtype), match.get(clipped))
        if isinstance(limits, NoMatch):
            return limits
        spec = qdq_spec(match[scale], match[zero], int(match[pattern].attrs.axis), stored.ndim, limits)
        if isinstance(spec, NoMatch):
            return spec
        # The weights' values; quantising them again gives back the integers, which are at most 255 steps from zero.
        codes = np.clip(stored.astype(np.int64), *limits) - limits[0]
        return Found(spec.values(codes.astype(np.uint8)), spec)

    return pattern, to_spec


INTEGER_WEIGHTS = QuantPattern(
    "integer_weights",
    "8-bit integer constant, Clip (optional), DequantizeLinear",
    _make,
    Coverage(("ONNX", "torch", "Relax"), activations=(), signs=()),
)
