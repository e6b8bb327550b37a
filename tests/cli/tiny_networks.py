"""Fake-quantised networks small enough to compile in a second."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 3


def _fake_quant(
    source: str, scale: float, low: int, high: int, out: str, stored: list[onnx.TensorProto]
) -> list[onnx.NodeProto]:
    for name, value in (("scale", scale), ("low", low), ("high", high)):
        stored.append(numpy_helper.from_array(np.float32(value), f"{out}.{name}"))
    return [
        helper.make_node("Div", [source, f"{out}.scale"], [f"{out}.divided"]),
        helper.make_node("Clip", [f"{out}.divided", f"{out}.low", f"{out}.high"], [f"{out}.clipped"]),
        helper.make_node("Round", [f"{out}.clipped"], [f"{out}.rounded"]),
        helper.make_node("Mul", [f"{out}.rounded", f"{out}.scale"], [out]),
    ]


def network(shape: tuple[int, ...], quantised: bool = True) -> onnx.ModelProto:
    """Conv (for images), ReLU, flatten, dense with 3 classes; weights of 2 bits, activations of 2."""
    rng = np.random.default_rng(1)
    stored: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *shape])

    def weights(name: str, *size: int) -> str:
        values = rng.integers(-2, 2, size).astype(np.float32) * np.float32(0.25)
        stored.append(numpy_helper.from_array(values, f"{name}.stored"))
        if not quantised:
            return f"{name}.stored"
        nodes.extend(_fake_quant(f"{name}.stored", 0.25, -2, 1, name, stored))
        return name

    def activations(name: str) -> str:
        if quantised:
            nodes.extend(_fake_quant(name, 0.5, 0, 3, f"{name}.codes", stored))
        return f"{name}.codes" if quantised else name

    last = "image"
    if len(shape) == 3:
        kernel = weights("kernel", 4, shape[0], 3, 3)
        conv = helper.make_node("Conv", [activations(last), kernel], ["conv"], name="conv", pads=[1, 1, 1, 1])
        nodes += [conv, helper.make_node("Relu", ["conv"], ["relu"])]
        shape, last = (4, *shape[1:]), "relu"
    flat = activations(last)
    nodes.append(helper.make_node("Flatten", [flat], ["flat"]))
    matrix = weights("matrix", int(np.prod(shape)), CLASSES)
    nodes.append(helper.make_node("Gemm", ["flat", matrix], ["logits"], name="dense"))
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])
    graph = helper.make_graph(nodes, "tiny", [image], [logits], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
