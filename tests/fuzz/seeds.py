"""Small valid models, a few layers each, of every way ONNX files have to write a quantiser.

Steps are powers of two and inputs multiples of half a step, so that float32 sums are exact and every runtime agrees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F = np.float32
QONNX = "qonnx.custom_op.general"


class Writer:
    """Nodes and constants, named as they are added."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.arrays: list[Any] = []

    def const(self, value: Any, dtype: Any = F) -> str:
        """An initialiser; ``dtype`` is NumPy's, or a number of TensorProto's for what NumPy lacks."""
        name = f"c{len(self.arrays)}"
        if isinstance(dtype, int):
            array = np.asarray(value)
            self.arrays.append(helper.make_tensor(name, dtype, array.shape, array.reshape(-1)))
        else:
            self.arrays.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, operator: str, *inputs: str, domain: str = "", **attrs: Any) -> str:
        """A node; gives the name of its result, which is its own as well."""
        name = f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, domain=domain, **attrs))
        return name

    def weights(self, *shape: int) -> str:
        """Random floats to be quantised."""
        return self.const(self.random.normal(size=shape))

    def model(self, output: str, shape: list[Any], rank: int = 2, opset: int = 13) -> onnx.ModelProto:
        """The checked model with input x and one output of that rank."""
        graph = helper.make_graph(
            self.nodes,
            "seed",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * rank)],
            self.arrays,
        )
        opsets = [helper.make_opsetid("", opset)]
        if any(node.domain == QONNX for node in self.nodes):
            opsets.append(helper.make_opsetid(QONNX, 1))
        made = helper.make_model(graph, opset_imports=opsets, ir_version=13 if opset > 20 else 8)
        onnx.checker.check_model(made)
        return made


Quantise = Callable[[Writer, str, float, int, int, float], str]


def _raw(w: Writer, x: str, scale: float, low: int, high: int, zero: float = 0.0) -> str:
    v = w.add("Div", x, s := w.const(scale))
    if zero:
        v = w.add("Add", v, z := w.const(zero))
    v = w.add("Round", w.add("Clip", v, w.const(low), w.const(high)))
    return w.add("Mul", w.add("Sub", v, z) if zero else v, s)


def _qdq(w: Writer, x: str, scale: float, low: int, high: int, zero: float = 0.0) -> str:
    parts = w.const(scale), w.const(zero, kind := np.int8 if low < 0 else np.uint8)
    v = w.add("Clip", w.add("QuantizeLinear", x, *parts), w.const(low, kind), w.const(high, kind))
    return w.add("DequantizeLinear", v, *parts)


def _qonnx(w: Writer, x: str, scale: float, low: int, high: int, zero: float = 0.0) -> str:
    parts = w.const(scale), w.const(zero), w.const((high - low).bit_length())
    return w.add("Quant", x, *parts, domain=QONNX, signed=int(low < 0), narrow=0, rounding_mode="ROUND")


SPELLINGS: Mapping[str, Quantise] = MappingProxyType({"raw": _raw, "qdq": _qdq, "qonnx": _qonnx})


def _network(quantise: Quantise) -> onnx.ModelProto:
    """Convolution, ReLU, convolution, dense layer."""
    w = Writer(1)
    a = quantise(w, "x", 0.5, -2, 1, 0.0)
    c = w.add("Conv", a, quantise(w, w.weights(3, 2, 3, 3), 0.5, -2, 1, 0.0), w.const([0.25, -0.5, 1]), pads=[1] * 4)
    a = quantise(w, w.add("Relu", c), 0.5, 0, 7, 0.0)
    a = w.add("Flatten", w.add("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2]))
    y = w.add("Gemm", a, quantise(w, w.weights(4, 12), 0.25, -4, 3, 0.0), w.const(w.random.normal(size=4)), transB=1)
    return w.model(y, ["N", 2, 4, 4])


def _asymmetric(quantise: Quantise) -> onnx.ModelProto:
    """Padding with the code of 0.0, a residual addition, an average."""
    w = Writer(2)
    a = quantise(w, "x", 0.5, 0, 15, 3.0)
    c = w.add("Conv", a, quantise(w, w.weights(2, 2, 3, 3), 0.5, -1, 1, 0.0), pads=[1] * 4)
    c = quantise(w, w.add("Add", c, a), 1.0, 0, 7, 2.0)
    return w.model(w.add("GlobalAveragePool", c), ["N", 2, 3, 3], 4)


def _norm() -> onnx.ModelProto:
    """Signs, batch normalisation, a dense layer."""
    w = Writer(3)
    a = w.add("Sign", w.add("Sub", "x", w.const([0.25, 0.5, -0.25, 1])))
    m = w.add("MatMul", a, w.add("Mul", w.add("Sign", w.weights(4, 3)), w.const(0.5)))
    parts = [w.const(v) for v in ([1, 0.5, -1], [0, 0.5, 0], [0.5, 0, 1], [1, 4, 1])]
    b = w.add("BatchNormalization", m, *parts, epsilon=0.0)
    zero = w.const(0.0)
    b = w.add("Where", w.add("GreaterOrEqual", b, zero), w.const(1.0), w.const(-1.0))
    return w.model(w.add("MatMul", b, w.const(w.random.integers(-2, 2, (3, 2)) * 0.5)), ["N", 4])


def _stored(kind: int, opset: int) -> onnx.ModelProto:
    """Integer weights in the file, with a bias of int32."""
    w = Writer(4)
    low, high = {TensorProto.INT8: (-128, 127), TensorProto.INT4: (-8, 7)}[kind]
    parts = w.const(0.5), w.const(1, TensorProto.UINT4 if kind == TensorProto.INT4 else TensorProto.UINT8)
    a = w.add("DequantizeLinear", w.add("QuantizeLinear", "x", *parts), *parts)
    codes = w.const(w.random.integers(low, high + 1, (3, 2, 2, 2)), kind)
    scale, zeros = w.const([0.25, 0.5, 1]), w.const([0, 0, 0], kind)
    weights = w.add("DequantizeLinear", codes, scale, zeros, axis=0)
    bias = w.add("DequantizeLinear", w.const([4, -8, 2], TensorProto.INT32), w.const(0.25))
    return w.model(w.add("Relu", w.add("Conv", a, weights, bias)), ["N", 2, 3, 3], 4, opset)


def _truncated() -> onnx.ModelProto:
    """Bipolar weights and Trunc behind an average pool."""
    w = Writer(5)
    a = w.add("AveragePool", _qonnx(w, "x", 0.5, 0, 7), kernel_shape=[2, 2], strides=[2, 2])
    parts = [w.const(v) for v in (0.125, 0.0, 5.0, 0.5, 3.0)]
    a = w.add("Trunc", a, *parts, domain=QONNX, signed=0, narrow=0, rounding_mode="FLOOR")
    c = w.add("Conv", a, w.add("BipolarQuant", w.weights(3, 2, 1, 1), w.const(0.5), domain=QONNX))
    return w.model(_qonnx(w, c, 0.5, -2, 1), ["N", 2, 4, 4], 4)


SEEDS: Mapping[str, Callable[[], onnx.ModelProto]] = MappingProxyType(
    {
        "raw": lambda: _network(_raw),
        "raw_asymmetric": lambda: _asymmetric(_raw),
        "qdq": lambda: _network(_qdq),
        "qdq_asymmetric": lambda: _asymmetric(_qdq),
        "qonnx": lambda: _network(_qonnx),
        "qonnx_trunc": _truncated,
        "sign": _norm,
        "int8": lambda: _stored(TensorProto.INT8, 13),
        "int4": lambda: _stored(TensorProto.INT4, 21),
    }
)
