"""Quantisers whose scale or zero point is computed from an input: never one here, and this row says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.relax.dpl import is_const, is_op, wildcard

from relay_passes.coverage import Coverage
from relay_passes.patterns.base import Found, Match, QuantPattern
from relay_passes.quant_spec import NoMatch

REASON = NoMatch("its scale or zero point is computed at run time")


def _clipped(x: Any) -> Any:
    return is_op("relax.clip")(x, wildcard(), wildcard()) | x


def _either(operator: str, x: Any, other: Any) -> Any:
    return is_op(operator)(x, other) | is_op(operator)(other, x)


def _make() -> tuple[Any, Callable[[Match], Found | NoMatch]]:
    # No pattern of variables would do: matching looks through them to what they are bound to.
    there, back = ~is_const(), ~is_const()
    scaled = is_op("relax.divide")(wildcard(), there) | is_op("relax.multiply")(wildcard(), there)
    shifted = _either("relax.add", scaled, wildcard()) | scaled
    code = _clipped(is_op("relax.round")(_clipped(shifted)))
    centred = is_op("relax.subtract")(code, wildcard()) | code
    raw = _either("relax.multiply", centred, back) | is_op("relax.divide")(centred, back)
    codes = _quantize(~is_const(), wildcard()) | _quantize(wildcard(), ~is_const())
    qdq = is_op("relax.dequantize")(_clipped(codes), wildcard(), wildcard())
    integers = is_op("relax.dequantize")(wildcard(), ~is_const(), wildcard())
    return raw | qdq | integers, lambda match: REASON


def _quantize(scale: Any, zero: Any) -> Any:
    return is_op("relax.quantize")(wildcard(), scale, zero)


SCALE_AT_RUN_TIME = QuantPattern(
    "scale_at_run_time",
    "declined: a scale or zero point computed from an input",
    _make,
    Coverage(("ONNX", "torch", "Relax"), (), (), (), ()),
    of_inputs=True,
)
