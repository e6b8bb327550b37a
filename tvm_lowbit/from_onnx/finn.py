"""FINN's ``MultiThreshold`` as ``fake_quant``: a converter for TVM's front end."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from relay_passes import dataflow
from relay_passes.coverage import Coverage, Spelling
from relay_passes.ops import constant, fake_quant, literal, shape_of
from relay_passes.quant_spec import QuantSpec
from schedules.errors import LowbitError

# FINN's own until QONNX took the operator over.
DOMAINS = frozenset({"finn.custom_op.general", "qonnx.custom_op.general"})
# Where the channels are if the node does not say: QONNX's guess by the rank.
LAYOUTS: Mapping[int, str] = MappingProxyType({2: "NC", 3: "NWC", 4: "NCHW"})


def _thresholds(node: str, value: Any, params: Any, channels: int) -> npt.NDArray[np.float32]:
    array = constant(onnx_frontend.get_constant(value, params))
    if array is None:
        raise LowbitError(f"thresholds of {node}", "a constant", "computed at run time")
    if array.ndim != 2 or array.shape[0] not in (1, channels) or array.shape[1] < 1 or np.isnan(array).any():
        got = "NaN" if np.isnan(array).any() else f"shape {array.shape}"
        raise LowbitError(f"thresholds of {node}", f"numbers of shape (1 or {channels}, steps)", got)
    return np.asarray(array, np.float32)


def _count(bb: Any, x: Any, thresholds: npt.NDArray[np.float32], axis: int) -> Any:
    """How many thresholds each element reaches, in float32."""
    shape = [1] * len(shape_of(x)) + [thresholds.shape[1]]
    shape[axis] = thresholds.shape[0]
    reached = relax.op.greater_equal(relax.op.expand_dims(x, -1), literal(thresholds.reshape(shape)))
    return bb.normalize(relax.op.sum(relax.op.astype(reached, "float32"), axis=-1))


class MultiThreshold(onnx_frontend.OnnxOpConverter):  # type: ignore[misc]
    """``MultiThreshold(x, thresholds)``: ``out_scale * (number of thresholds at or below x) + out_bias``.

    One step is the sign of ``x - threshold``, which is exact in float32; more are counted in float, then quantised.
    """

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        node = attr["tvm_custom"]["name"] or cls.__name__
        x, rank = inputs[0], len(shape_of(inputs[0]))
        layout = attr.get("data_layout", b"") or LAYOUTS.get(rank, "NC")
        layout = layout.decode() if isinstance(layout, bytes) else str(layout)
        axis = layout.find("C")
        if not 0 <= axis < rank:
            raise LowbitError(f"data_layout of {node}", f"one with C among {rank} dimensions", layout)
        thresholds = _thresholds(node, inputs[1], params, shape_of(x)[axis])
        scale, bias = np.float32(attr.get("out_scale", 1.0)), np.float32(attr.get("out_bias", 0.0))
        steps = thresholds.shape[1]
        zero = np.asarray(-bias / scale if scale else bias)
        spec = QuantSpec(np.asarray(scale), zero, 0, steps, form="at_least_zero" if steps == 1 else "divide_shifted")
        spec.checked(node)  # names a senseless scale or bias
        if steps > 1:
            value = relax.op.multiply(_count(bb, x, thresholds, axis), literal(scale))
            return fake_quant(bb.emit(relax.op.add(value, literal(bias)), dataflow.hint(f"{node}/count")), spec)
        if np.any(thresholds):
            shape = [-1 if i == axis else 1 for i in range(rank)]
            x = bb.emit(relax.op.subtract(x, literal(thresholds.reshape(shape))), dataflow.hint(f"{node}/shifted"))
        return fake_quant(x, spec)


CONVERTERS: Mapping[str, Any] = MappingProxyType({"MultiThreshold": MultiThreshold})
SPELLINGS = (
    Spelling(
        "finn_multithreshold",
        "FINN MultiThreshold",
        Coverage(("ONNX",), weights=(), grains=(), signs=("unsigned", "signed", "asymmetric", "bipolar")),
        MultiThreshold._impl_v1,
        ("MultiThreshold",),
    ),
)
