"""``WRITERS``: how each spelling of the table is written in ONNX. A row of the table without one fails a test.

``weights(net, w)`` gives quantised constant weights, ``activations(net, x, step, codes, name, variant)`` a quantiser,
noting its codes; None where the spelling has none. ``writes(codes)`` says which codes it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cells import Codes, Weights
from onnx import TensorProto, helper
from qonnx_oracle import ROUNDINGS

QONNX = "qonnx.custom_op.general"
FINN = "finn.custom_op.general"


def everything(codes: Codes) -> bool:
    return True


def one_bit_or_signs(codes: Codes) -> bool:
    return codes.sign != "unsigned" or codes.bits == 1


@dataclass(frozen=True)
class Writer:
    """See the module."""

    weights: Callable[..., str] | None = None
    activations: Callable[..., str] | None = None
    writes: Callable[[Codes], bool] = everything
    # ONNX Runtime wraps around where a value over its step is beyond int32 and the type has less than 8 bits.
    largest: float = 1e30


def raw(net: Any, x: str, step: Any, limits: tuple[int, int], zero: float, name: str, variant: int) -> tuple[str, str]:
    """Raw arithmetic in six ways: the last node, and the tensor of codes."""
    way = variant % 6
    s, lo, hi, z = (net.constant(v) for v in (step, *limits, zero))
    if way == 0:
        v = net.add("Mul", x, net.constant(np.float32(1) / step)) if not zero else net.add("Div", x, s)
    else:
        v = net.add("Div", x, s)
    late = zero == round(zero) and way in (2, 3)  # added after rounding
    if zero and not late:
        v = net.add("Add", v, z)
    if way == 1:
        v = net.add("Clip", net.add("Round", v), lo, hi)
    elif way == 2:
        v = net.add("Round", v)
        v = net.add("Clip", net.add("Add", v, z) if late and zero else v, lo, hi)
    elif way == 3:
        v = net.add("Round", v)
        v = net.add("Max", net.add("Min", net.add("Add", v, z) if late and zero else v, hi), lo)
    elif way == 4:
        v = net.add("Round", net.add("Min", net.add("Max", v, lo), hi))
    else:
        v = net.add("Round", net.add("Clip", v, lo, hi))
    codes = v
    v = net.add("Sub", v, z) if zero else v
    if way == 5 and not zero:
        return net.add("Div", v, net.constant(np.float32(1) / step), name=name), codes
    return net.add("Mul", v, s, name=name), codes


def raw_weights(net: Any, w: Weights) -> str:
    if w.bits == 1:
        return raw(net, net.constant(w.array), w.steps, (0, 1), 0.5, "", 5)[0]
    return raw(net, net.constant(w.array), w.steps, w.limits, 0.0, "", 1 + w.bits)[0]


def raw_activations(net: Any, x: str, step: Any, codes: Codes, name: str, variant: int) -> str:
    result, at = raw(net, x, np.float32(step), codes.limits, codes.zero, name, variant)
    return net.note(result, at)


def _integer(limits: tuple[int, int]) -> Any:
    return np.int8 if limits[0] < 0 else np.uint8


def qdq(net: Any, x: str, steps: Any, axis: int | None, limits: tuple[int, int], zero: float, name: str) -> Any:
    """QuantizeLinear, Clip unless the type has just these codes, DequantizeLinear."""
    dtype = _integer(limits)
    s = np.asarray(steps, np.float32).reshape(() if axis is None else -1)
    parts = [net.constant(s), net.constant(np.full(s.shape, zero), dtype)]
    extra = {} if axis is None else {"axis": axis}
    codes = net.add("QuantizeLinear", x, *parts, **extra)
    if limits != (np.iinfo(dtype).min, np.iinfo(dtype).max):
        codes = net.add("Clip", codes, *(net.constant(v, dtype) for v in limits))
    return net.add("DequantizeLinear", codes, *parts, name=name, **extra), codes


def qdq_weights(net: Any, w: Weights) -> str:
    return qdq(net, net.constant(w.array), w.steps, w.axis, w.limits, 0, "")[0]


def qdq_activations(net: Any, x: str, step: Any, codes: Codes, name: str, variant: int) -> str:
    return net.note(*qdq(net, x, step, None, codes.limits, codes.zero, name))


def integer_weights(net: Any, w: Weights) -> str:
    """Stored as int8 or, with a zero point in the middle, as uint8."""
    low = w.limits[0] if w.bits % 2 else 0
    limits = (low, low + 2 * -w.limits[0] - 1)
    dtype = _integer(limits)
    stored: Any = net.constant(w.integers.astype(np.int16) - w.limits[0] + low, dtype)
    if limits != (np.iinfo(dtype).min, np.iinfo(dtype).max):
        stored = net.add("Clip", stored, *(net.constant(v, dtype) for v in limits))
    s = w.steps.reshape(() if w.axis is None else -1)
    parts = [net.constant(s), net.constant(np.full(s.shape, low - w.limits[0]), dtype)]
    return net.add("DequantizeLinear", stored, *parts, **({} if w.axis is None else {"axis": w.axis}))


def _sub_byte_type(limits: tuple[int, int]) -> int:
    width = 2 if limits[1] - limits[0] == 3 else 4
    return int(getattr(TensorProto, f"{'INT' if limits[0] < 0 else 'UINT'}{width}"))


def sub_byte_weights(net: Any, w: Weights) -> str:
    kind, s = _sub_byte_type(w.limits), w.steps.reshape(() if w.axis is None else -1)
    parts = [net.constant(s), net.stored(helper.make_tensor("", kind, s.shape, np.zeros(s.shape, int).reshape(-1)))]
    stored = net.stored(helper.make_tensor("", kind, w.array.shape, w.integers.reshape(-1)))
    return net.add("DequantizeLinear", stored, *parts, **({} if w.axis is None else {"axis": w.axis}))


def sub_byte_activations(net: Any, x: str, step: Any, codes: Codes, name: str, variant: int) -> str:
    kind = _sub_byte_type(codes.limits)
    parts = [net.constant(np.float32(step)), net.stored(helper.make_tensor("", kind, (), [int(codes.zero)]))]
    at = net.add("QuantizeLinear", x, *parts)
    return net.note(net.add("DequantizeLinear", at, *parts, name=name), at)


def _signs(net: Any, x: str, variant: int) -> str:
    """1 where x >= 0, else -1, in five ways."""
    zero, one, minus = (net.constant(v) for v in (0.0, 1.0, -1.0))
    if variant % 5 == 4:  # Larq
        return net.add("Sign", net.add("Add", net.add("Sign", x), net.constant(0.1)))
    operator, first = [("GreaterOrEqual", x), ("Less", x), ("LessOrEqual", zero), ("Greater", zero)][variant % 5]
    compared = net.add(operator, first, zero if first == x else x)
    rising = operator in ("GreaterOrEqual", "LessOrEqual")
    return net.add("Where", compared, *((one, minus) if rising else (minus, one)))


def sign_weights(net: Any, w: Weights) -> str:
    x = net.constant(w.array)
    level = _signs(net, x, w.array.size) if w.bits == 1 else net.add("Sign", x)
    return net.add("Mul", level, net.constant(w.steps))


def sign_activations(net: Any, x: str, step: Any, codes: Codes, name: str, variant: int) -> str:
    if codes.sign == "ternary":
        at = net.add("Sign", x)
    elif codes.sign == "unsigned":
        # Greater: 0 itself is not above 0.
        compared = net.add(("GreaterOrEqual", "Greater")[variant % 2], x, net.constant(0.0))
        at = net.add("Where", compared, net.constant(1.0), net.constant(0.0))
    else:
        at = _signs(net, x, variant)
    return net.note(net.add("Mul", at, net.constant(np.float32(step)), name=name), at)


COMPARED = {
    ("above", 0): "Greater",
    ("above", 1): "GreaterOrEqual",
    ("below", 0): "Less",
    ("below", 1): "LessOrEqual",
}


def _compared(net: Any, x: str, side: str, threshold: float, variant: int) -> str:
    """True on one side of a threshold, with or without it; written from either side."""
    t, reached = net.constant(threshold), variant // 2 % 2
    if variant % 2:
        return net.add(COMPARED[side, reached], x, t)
    return net.add(COMPARED["below" if side == "above" else "above", reached], t, x)


def _steps(net: Any, x: str, threshold: float, codes: str, variant: int) -> str:
    """Levels as comparisons give them, in a few ways for each kind of codes."""

    def number(side: str, at: float, way: int) -> str:
        return net.add("Cast", _compared(net, x, side, at, way), to=TensorProto.FLOAT)

    one, minus, zero, way = net.constant(1.0), net.constant(-1.0), net.constant(0.0), variant // 3
    if codes == "unsigned":
        return number("above", threshold, variant)
    if codes == "ternary" and variant % 2:
        inner = net.add("Where", _compared(net, x, "below", -threshold, way), minus, zero)
        return net.add("Where", _compared(net, x, "above", threshold, way + 1), one, inner)
    if codes == "ternary":
        return net.add("Sub", number("above", threshold, way), number("below", -threshold, way + 1))
    if variant % 3 == 0:  # Brevitas
        return net.add("Sub", net.add("Mul", number("above", 0, way), net.constant(2.0)), one)
    if variant % 3 == 1:
        return net.add("Add", minus, net.add("Mul", net.constant(2.0), number("above", threshold, way)))
    return net.add("Add", net.add("Mul", number("below", 0, way), net.constant(-2.0)), one)


def step_weights(net: Any, w: Weights) -> str:
    codes = "bipolar" if w.bits == 1 else "ternary"
    return net.add("Mul", _steps(net, net.constant(w.array), 0.125, codes, w.array.size), net.constant(w.steps))


def step_activations(net: Any, x: str, step: Any, codes: Codes, name: str, variant: int) -> str:
    at = _steps(net, x, step / 2, codes.sign, variant)
    return net.note(net.add("Mul", at, net.constant(np.float32(step)), name=name), at)


def quant(net: Any, x: str, steps: Any, zero: float, bits: int, name: str, variant: int, **attrs: Any) -> str:
    """QONNX, in both of its names and domains."""
    parts = [net.constant(v) for v in (np.asarray(steps, np.float32), zero, float(bits))]
    domain = (QONNX, "onnx.brevitas")[variant % 2]
    operator = ("Quant", "IntQuant")[variant // 2 % 2]
    return net.add(operator, x, *parts, name=name, domain=domain, **attrs)


def quant_weights(net: Any, w: Weights) -> str:
    return quant(net, net.constant(w.array), w.steps, 0.0, w.bits, "", w.bits, signed=1, narrow=int(w.bits > 5))


def quant_activations(net: Any, x: str, step: Any, codes: Codes, name: str, variant: int) -> str:
    signed = int(codes.sign in ("signed", "bipolar"))
    zero = 0.0 if codes.sign == "bipolar" else codes.zero
    mode = list(ROUNDINGS)[variant % len(ROUNDINGS)]
    return net.note(quant(net, x, step, zero, codes.bits, name, variant, signed=signed, rounding_mode=mode), None)


def bipolar_weights(net: Any, w: Weights) -> str:
    return net.add("BipolarQuant", net.constant(w.array), net.constant(w.steps), domain=QONNX)


def bipolar_activations(net: Any, x: str, step: Any, codes: Codes, name: str, variant: int) -> str:
    return net.note(net.add("BipolarQuant", x, net.constant(np.float32(step)), name=name, domain=QONNX), None)


def trunc(net: Any, x: str, steps: Any, zero: float, bits: int, name: str, **attrs: Any) -> str:
    """QONNX's second definition: two digits of an integer of two bits more are dropped."""
    inner = (np.asarray(steps, np.float32) / 4).astype(np.float32)
    parts = [net.constant(v) for v in (inner, 4 * zero, float(bits + 2), np.asarray(steps, np.float32), float(bits))]
    return net.add("Trunc", x, *parts, name=name, domain=QONNX, **attrs)


def trunc_weights(net: Any, w: Weights) -> str:
    return trunc(net, net.constant(w.array), w.steps, 0.0, w.bits, "", signed=1)


def trunc_activations(net: Any, x: str, step: Any, codes: Codes, name: str, variant: int) -> str:
    mode = ("FLOOR", "ROUND", "CEIL")[variant % 3]
    signed = int(codes.sign == "signed")
    return net.note(trunc(net, x, step, codes.zero, codes.bits, name, signed=signed, rounding_mode=mode), None)


def threshold_activations(net: Any, x: str, step: Any, codes: Codes, name: str, variant: int) -> str:
    """Counts the boundaries between codes; a tie counts as reached."""
    low, high = codes.limits
    bounds = (np.arange(low + 1, high + 1) - 0.5 - codes.zero) * step
    scale, bias = np.float32(step), np.float32((low - codes.zero) * step)
    attrs = {"out_scale": float(scale), "out_bias": float(bias), "data_layout": net.layout(x)}
    return net.note(net.add("MultiThreshold", x, net.constant(bounds[None]), name=name, domain=FINN, **attrs), None)


def folded_weights(net: Any, w: Weights) -> str:
    """What an exporter leaves: floats on a grid; of odd multiples of half a step with 1 bit."""
    return net.constant((w.integers + np.float32(0.5 * (w.bits == 1))).astype(np.float32) * w.steps)


WRITERS = {
    "div_clip_round_mul": Writer(raw_weights, raw_activations),
    "quantize_clip_dequantize": Writer(qdq_weights, qdq_activations),
    "integer_weights": Writer(integer_weights),
    "sub_byte": Writer(sub_byte_weights, sub_byte_activations, largest=1e6),
    "sign": Writer(sign_weights, sign_activations, one_bit_or_signs),
    "steps": Writer(step_weights, step_activations, one_bit_or_signs),
    "qonnx_quant": Writer(quant_weights, quant_activations, lambda codes: (codes.bits, codes.sign) != (1, "signed")),
    "qonnx_bipolar": Writer(bipolar_weights, bipolar_activations),
    "qonnx_trunc": Writer(trunc_weights, trunc_activations),
    "finn_multithreshold": Writer(None, threshold_activations),
    "recover_grid": Writer(folded_weights),
}
