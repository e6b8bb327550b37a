"""Raw arithmetic: ``Div -> [Add] -> Clip -> Round -> [Sub] -> Mul``, Clip and Round in either order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.relax.dpl import is_const, is_op, wildcard

from relay_passes.ops import constant, shape_of
from relay_passes.patterns.base import Found, Match, QuantPattern, bounds, same, scale_and_zero, whole
from relay_passes.quant_spec import NoMatch, QuantSpec


def _make() -> tuple[Any, Callable[[Match], Found | NoMatch]]:
    scale, zero, scale_again, zero_again = is_const(), is_const(), is_const(), is_const()
    divided = is_op("relax.divide")(wildcard(), scale)
    shifted = is_op("relax.add")(divided, zero)
    scaled = divided | shifted
    clip_first = is_op("relax.clip")(scaled, wildcard(), wildcard())
    clip_last = is_op("relax.clip")(is_op("relax.round")(scaled), wildcard(), wildcard())
    code = is_op("relax.round")(clip_first) | clip_last
    centred = code | is_op("relax.subtract")(code, zero_again)
    pattern = is_op("relax.multiply")(centred, scale_again) | is_op("relax.multiply")(scale_again, centred)

    def to_spec(match: Match) -> Found | NoMatch:
        zeros = [constant(match[p]) if p in match else np.float32(0) for p in (zero, zero_again)]
        if not same(match[scale], match[scale_again]):
            return NoMatch("it divides by one scale and multiplies by another")
        if not np.array_equal(zeros[0], zeros[1], equal_nan=True):
            return NoMatch("it adds one zero point and subtracts another")
        limits = whole(*bounds(match[clip_first] if clip_first in match else match[clip_last]))
        if isinstance(limits, NoMatch):
            return limits
        source = match[divided].args[0]
        parts = scale_and_zero(match[scale], match.get(zero), shape_of(source))
        if isinstance(parts, NoMatch):
            return parts
        s, z, axis = parts
        return Found(source, QuantSpec(s, z, *limits, axis, "divide_shifted" if np.any(z) else "divide"))

    return pattern, to_spec


DIV_CLIP_ROUND_MUL = QuantPattern("div_clip_round_mul", "raw Div, Clip, Round, Mul, with or without zero point", _make)
