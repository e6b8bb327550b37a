"""ONNX Runtime on the fake-quant graph, optimisations off: outputs, and the integer codes of every quantiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

Array = npt.NDArray[Any]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session that computes the graph as it is written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def run(model: onnx.ModelProto, x: Array) -> Array:
    """The first output."""
    s = session(model)
    return np.asarray(s.run(None, {s.get_inputs()[0].name: x})[0])


def codes(model: onnx.ModelProto, x: Array, names: list[str]) -> dict[str, Array]:
    """Integer codes of quantisers whose last node (Mul or DequantizeLinear) has one of these names.

    They are read where they appear in the graph: after the Clip and Round, whichever comes last, or before the
    DequantizeLinear.
    """
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    nodes = {node.name: node for node in probed.graph.node}
    made_by = {output: node for node in probed.graph.node for output in node.output}
    tensors = {}
    for name in names:
        tensor = nodes[name].input[0]
        if made_by[tensor].op_type == "Sub":
            tensor = made_by[tensor].input[0]
        tensors[name] = tensor
    for tensor in tensors.values():
        integer = made_by[tensor].op_type in ("QuantizeLinear", "Clip")
        kind = _integer_type(probed, made_by, tensor) if integer else onnx.TensorProto.FLOAT
        probed.graph.output.append(onnx.helper.make_tensor_value_info(tensor, kind, None))
    s = session(probed)
    values = s.run(list(tensors.values()), {s.get_inputs()[0].name: x})
    return {name: np.asarray(value).astype(np.int32) for name, value in zip(tensors, values, strict=True)}


def _integer_type(model: onnx.ModelProto, made_by: dict[str, Any], tensor: str) -> int:
    node = made_by[tensor]
    while node.op_type == "Clip":
        node = made_by[node.input[0]]
    if node.op_type != "QuantizeLinear":
        return int(onnx.TensorProto.FLOAT)
    return int(next(t for t in model.graph.initializer if t.name == node.input[2]).data_type)


def load(path: Path) -> onnx.ModelProto:
    """The model of a file."""
    return onnx.load(str(path))
