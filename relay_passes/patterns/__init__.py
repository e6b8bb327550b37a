"""``QUANT_PATTERNS``: the ways of writing a quantiser, one file each; earlier rows are tried first."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from relay_passes.patterns.base import QuantPattern
from relay_passes.patterns.div_clip_round_mul import DIV_CLIP_ROUND_MUL
from relay_passes.patterns.integer_weights import INTEGER_WEIGHTS
from relay_passes.patterns.quantize_clip_dequantize import QUANTIZE_CLIP_DEQUANTIZE
from relay_passes.patterns.scale_at_run_time import SCALE_AT_RUN_TIME
from relay_passes.patterns.sign import SIGN
from relay_passes.patterns.steps import STEPS

__all__ = ["QUANT_PATTERNS", "QuantPattern", "register"]

_TABLE: dict[str, QuantPattern] = {}
QUANT_PATTERNS: Mapping[str, QuantPattern] = MappingProxyType(_TABLE)


def register(pattern: QuantPattern) -> None:
    """Add a row. A name that is taken is refused with ``ValueError``."""
    if pattern.name in _TABLE:
        raise ValueError(f"quantiser pattern {pattern.name!r} is registered already")
    _TABLE[pattern.name] = pattern


for _row in (QUANTIZE_CLIP_DEQUANTIZE, INTEGER_WEIGHTS, DIV_CLIP_ROUND_MUL, SIGN, STEPS, SCALE_AT_RUN_TIME):
    register(_row)
