"""Small ONNX models, made here so that nothing is needed to read a test."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def model(
    nodes: list[Any], arrays: dict[str, Any], shape: list[Any], outputs: list[str], opset: int = 13
) -> onnx.ModelProto:
    """A model with one float input ``x``."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [f"{n}{i}" for i in range(len(shape))])
            for n in outputs
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return made


def raw_quantiser(x: str, prefix: str, lo: float, hi: float) -> list[Any]:
    """Div, Clip, Round, Mul; initialisers ``{prefix}_s``, ``{prefix}_lo``, ``{prefix}_hi``, result ``{prefix}``."""
    return [
        helper.make_node("Div", [x, f"{prefix}_s"], [f"{prefix}_d"], f"{prefix}/Div"),
        helper.make_node("Clip", [f"{prefix}_d", f"{prefix}_lo", f"{prefix}_hi"], [f"{prefix}_c"], f"{prefix}/Clip"),
        helper.make_node("Round", [f"{prefix}_c"], [f"{prefix}_r"], f"{prefix}/Round"),
        helper.make_node("Mul", [f"{prefix}_r", f"{prefix}_s"], [prefix], f"{prefix}/Mul"),
    ]


def dense(scale: Any = 0.25, width: int = 6, classes: int = 3, batch: Any = "N") -> onnx.ModelProto:
    """A quantised dense layer, input scale as given (bad ones too)."""
    rng = np.random.default_rng(0)
    f = np.float32
    arrays = {
        "w": rng.normal(size=(width, classes)).astype(f),
        "a_s": f(scale), "a_lo": f(0), "a_hi": f(3),
        "q_s": f(0.5), "q_lo": f(-2), "q_hi": f(1),
    }  # fmt: skip
    nodes = [
        *raw_quantiser("x", "a", 0, 3),
        *raw_quantiser("w", "q", -2, 1),
        helper.make_node("MatMul", ["a", "q"], ["y"], "classifier"),
    ]
    return model(nodes, arrays, [batch, width], ["y"])
