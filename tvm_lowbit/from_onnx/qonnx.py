"""QONNX's ``Quant``, ``IntQuant``, ``BipolarQuant`` and ``Trunc`` as ``fake_quant``: converters for TVM's front end."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from relay_passes.coverage import Coverage, Spelling
from relay_passes.ops import constant, fake_quant, literal, shape_of
from relay_passes.patterns.base import scale_and_zero
from relay_passes.quant_forms import FORMS, Maths
from relay_passes.quant_spec import NoMatch, QuantSpec
from schedules.errors import LowbitError
from tvm_lowbit.from_onnx import qonnx_trunc

# Brevitas wrote the first until QONNX got a home of its own.
DOMAINS = frozenset({"onnx.brevitas", "qonnx.custom_op.general"})

# QONNX's names of rounding modes (and Brevitas' ROUND_TO_ZERO) to rows of `FORMS`.
ROUNDING_MODES: Mapping[str, str] = MappingProxyType(
    {
        "ROUND": "divide_shifted",
        "HALF_EVEN": "divide_shifted",
        "FLOOR": "floor",
        "CEIL": "ceil",
        "DOWN": "to_zero",
        "ROUND_TO_ZERO": "to_zero",
        "UP": "away",
        "HALF_UP": "half_away",
        "HALF_DOWN": "half_to_zero",
    }
)
MAX_BITS = 32


def _where(x: Any, a: Any, b: Any) -> Any:
    return relax.op.where(relax.op.greater_equal(x, literal(np.float32(0))), a, b)


def _no_beside(x: Any, ulp: int) -> Any:
    raise NotImplementedError("no rounding mode of QONNX multiplies by a stored reciprocal")


_RELAX = Maths(
    relax.op.round, relax.op.floor, relax.op.ceil, _where, lambda value: literal(np.float32(value)), _no_beside
)


def _constant(node: str, what: str, value: Any, params: Any) -> npt.NDArray[np.float32]:
    array = None if value is None else constant(onnx_frontend.get_constant(value, params))
    if array is None:
        raise LowbitError(
            f"quantiser {node}", f"a constant {what}", "none" if value is None else "one computed at run time"
        )
    return np.asarray(array, np.float32)


def code_range(node: str, bits: npt.NDArray[np.float32], signed: bool, narrow: bool) -> tuple[int, int]:
    """Smallest and largest code of a width that must be one whole number.

    Raises
    ------
    LowbitError
        If it is not.
    """
    if bits.size != 1 or bits.flat[0] != np.rint(bits.flat[0]) or not 1 <= bits.flat[0] <= MAX_BITS:
        got = ", ".join(f"{value:g}" for value in bits.reshape(-1)[:4])
        raise LowbitError(f"bit width of quantiser {node}", f"one whole number from 1 to {MAX_BITS}", got)
    codes = 1 << int(bits.flat[0])
    return (-codes // 2 + narrow, codes // 2 - 1) if signed else (0, codes - 1 - narrow)


def _flag(node: str, attr: Mapping[str, Any], name: str, default: int) -> bool:
    value = attr.get(name, default)
    if value not in (0, 1):
        raise LowbitError(f"{name} of quantiser {node}", "0 or 1", str(value))
    return bool(value)


def _rounding(node: str, mode: Any) -> str:
    """The row of `FORMS` that a rounding mode, in upper or lower case, stands for."""
    mode = (mode.decode() if isinstance(mode, bytes) else str(mode)).upper()
    if mode not in ROUNDING_MODES:
        raise LowbitError(f"rounding_mode of quantiser {node}", f"one of {', '.join(ROUNDING_MODES)}", mode)
    return ROUNDING_MODES[mode]


def _quantised(bb: Any, x: Any, scale: Any, zero: Any, limits: tuple[int, int], form: str) -> Any:
    """A ``fake_quant``; or, where scale and zero point run along more than one axis, the same in plain arithmetic."""
    scale, zero = literal(scale), literal(zero)
    parts = scale_and_zero(scale, zero, shape_of(x))
    if not isinstance(parts, NoMatch):
        s, z, axis = parts
        return fake_quant(x, QuantSpec(s, z, *limits, axis, form))
    unclipped = FORMS[form](_RELAX, x, scale, zero)
    code = relax.op.clip(unclipped, float(limits[0]), float(limits[1]))
    return bb.normalize(relax.op.multiply(relax.op.subtract(code, zero), scale))


def _bipolar(bb: Any, node: str, x: Any, scale: Any, form: str) -> Any:
    """Values ``-scale`` and ``scale`` as ``(code - 1/2) * 2 scale``."""
    QuantSpec(scale, np.zeros_like(scale), 0, 1).checked(node)  # names a senseless scale before it is doubled
    return _quantised(bb, x, scale * np.float32(2), np.full_like(scale, 0.5), (0, 1), form)


class Quant(onnx_frontend.OnnxOpConverter):  # type: ignore[misc]
    """``Quant(x, scale, zero_point, bit_width)``, which newer exporters call ``IntQuant``."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        node = attr["tvm_custom"]["name"] or cls.__name__
        named = zip(("scale", "zero point", "bit width"), inputs[1:4], strict=True)
        scale, zero, bits = (_constant(node, what, value, params) for what, value in named)
        rounding = _rounding(node, attr.get("rounding_mode", b"ROUND"))
        signed, narrow = _flag(node, attr, "signed", 1), _flag(node, attr, "narrow", 0)
        limits = code_range(node, bits, signed, narrow)
        if signed and bits == 1:
            # One signed bit: QONNX takes it for bipolar, whatever the rounding.
            if np.any(zero):
                raise LowbitError(f"zero point of quantiser {node}", "0 with 1 signed bit", f"{zero.flat[0]:g}")
            return _bipolar(bb, node, inputs[0], scale, "sign_scaled")
        return _quantised(bb, inputs[0], scale, zero, limits, rounding)


class BipolarQuant(onnx_frontend.OnnxOpConverter):  # type: ignore[misc]
    """``BipolarQuant(x, scale)``: ``scale`` where ``x >= 0``, else ``-scale``."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        node = attr["tvm_custom"]["name"] or cls.__name__
        return _bipolar(bb, node, inputs[0], _constant(node, "scale", inputs[1], params), "at_least_zero")


class Trunc(onnx_frontend.OnnxOpConverter):  # type: ignore[misc]
    """``Trunc(x, scale, zero_point, bit_width, [output_scale,] output_bit_width)``; see `qonnx_trunc`."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        node = attr["tvm_custom"]["name"] or cls.__name__
        given = [value for value in inputs if value is not None]
        if len(given) not in (5, 6):
            raise LowbitError(f"quantiser {node}", "5 or 6 inputs", str(len(given)))
        names = (
            "scale",
            "zero point",
            "bit width",
            *(("output scale",) if len(given) == 6 else ()),
            "output bit width",
        )
        named = zip(names, given[1:], strict=True)
        scale, zero, bits_in, *out_scale, bits = (_constant(node, what, value, params) for what, value in named)
        for each in (scale, *out_scale):
            QuantSpec(each, zero, 0, 1).checked(node)  # names a senseless scale or zero point
        rounding = _rounding(node, attr.get("rounding_mode", b"FLOOR"))
        limits = code_range(node, bits, _flag(node, attr, "signed", 1), _flag(node, attr, "narrow", 0))
        code_range(node, bits_in, True, False)
        x = inputs[0]
        if out_scale:
            digits = qonnx_trunc.digits_dropped(node, scale, out_scale[0])
            taken = qonnx_trunc.scaled(x, scale, zero, out_scale[0], limits, digits, rounding)
        else:
            digits = np.asarray(int(bits_in.flat[0]) - int(bits.flat[0]))
            taken = qonnx_trunc.kept(bb, x, scale, zero, int(digits), rounding)
        if not isinstance(taken, NoMatch):
            return taken
        attr["tvm_custom"]["declined"][node] = f"is no quantiser of 1 to 8 bits: {taken.reason}"
        out = (out_scale[0], limits) if out_scale else None
        return bb.normalize(qonnx_trunc.in_float(x, scale, zero, digits, rounding, _RELAX, out))


CONVERTERS: Mapping[str, Any] = MappingProxyType(
    {"Quant": Quant, "IntQuant": Quant, "BipolarQuant": BipolarQuant, "Trunc": Trunc}
)
SPELLINGS = (
    Spelling(
        "qonnx_quant",
        "QONNX Quant (IntQuant), every rounding mode, narrow or not",
        Coverage(("ONNX",), signs=("unsigned", "signed", "asymmetric", "bipolar")),
        Quant._impl_v1,
        ("Quant", "IntQuant"),
    ),
    Spelling(
        "qonnx_bipolar",
        "QONNX BipolarQuant",
        Coverage(("ONNX",), weights=(1,), activations=(1,), signs=("bipolar",)),
        BipolarQuant._impl_v1,
        ("BipolarQuant",),
    ),
    Spelling(
        "qonnx_trunc",
        "QONNX Trunc behind a sum of codes, both definitions",
        Coverage(("ONNX",), signs=("unsigned", "signed")),
        Trunc._impl_v1,
        ("Trunc",),
    ),
)
