"""ONNX QDQ: ``QuantizeLinear -> [Clip] -> DequantizeLinear``; a Clip narrows the width (Brevitas' QCDQ)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.relax.dpl import is_const, is_op, wildcard

from relay_passes.coverage import Coverage
from relay_passes.ops import constant, shape_of
from relay_passes.patterns.base import Found, Match, QuantPattern, bounds, same, whole
from relay_passes.quant_spec import NoMatch, QuantSpec


def integer_range(dtype: str, clip: Any | None) -> tuple[int, int] | NoMatch:
    """Codes that an integer type and an optional clip leave."""
    info = np.iinfo(dtype)
    if clip is None:
        return int(info.min), int(info.max)
    limits = whole(*bounds(clip))
    if isinstance(limits, NoMatch):
        return limits
    return max(limits[0], int(info.min)), min(limits[1], int(info.max))


def qdq_spec(scale: Any, zero: Any, axis: int, rank: int, limits: tuple[int, int]) -> QuantSpec | NoMatch:
    """Scale and zero point of a ``relax.quantize`` or ``relax.dequantize`` with its ``axis`` attribute."""
    s, z = (np.asarray(constant(e), np.float32) for e in (scale, zero))
    if s.ndim > 1 or z.ndim > 1:
        return NoMatch("blocked quantisation is not supported")
    run = None if max(s.size, z.size) == 1 else axis % rank
    if run is None:
        s, z = s.reshape(()), z.reshape(())
    else:
        s, z = (np.broadcast_to(v.reshape(-1), (max(s.size, z.size),)).copy() for v in (s, z))
    return QuantSpec(s, z, *limits, run)


def _make() -> tuple[Any, Callable[[Match], Found | NoMatch]]:
    scale, zero, scale_again, zero_again = is_const(), is_const(), is_const(), is_const()
    quantized = is_op("relax.quantize")(wildcard(), scale, zero)
    clipped = is_op("relax.clip")(quantized, wildcard(), wildcard())
    pattern = is_op("relax.dequantize")(quantized | clipped, scale_again, zero_again)

    def to_spec(match: Match) -> Found | NoMatch:
        if not (same(match[scale], match[scale_again]) and same(match[zero], match[zero_again])):
            return NoMatch("QuantizeLinear and DequantizeLinear differ in scale or zero point")
        call = match[quantized]
        limits = integer_range(str(call.attrs.out_dtype), match.get(clipped))
        if isinstance(limits, NoMatch):
            return limits
        source = call.args[0]
        spec = qdq_spec(match[scale], match[zero], int(call.attrs.axis), len(shape_of(source)), limits)
        return spec if isinstance(spec, NoMatch) else Found(source, spec)

    return pattern, to_spec


QUANTIZE_CLIP_DEQUANTIZE = QuantPattern(
    "quantize_clip_dequantize",
    "ONNX QuantizeLinear, Clip (optional), DequantizeLinear",
    _make,
    Coverage(("ONNX", "Relax")),
)
