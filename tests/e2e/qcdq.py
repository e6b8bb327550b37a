"""The same network in the other spelling: raw Div-Clip-Round-Mul to QuantizeLinear-Clip-DequantizeLinear."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def to_qcdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite every raw quantiser without zero point; weights per channel along axis 0, others per tensor."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph = new.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    made_by = {output: node for node in graph.node for output in node.output}
    nodes: list[Any] = []
    dropped = set()
    for node in graph.node:
        chain = _chain(node, made_by)
        if chain is None:
            nodes.append(node)
            continue
        div, clip, round_ = chain
        dropped |= {div.name, clip.name, round_.name}
        scale = constants[div.input[1]]
        lo, hi = (float(constants[clip.input[i]]) for i in (1, 2))
        dtype = np.int8 if lo < 0 else np.uint8
        per_channel = scale.size > 1
        arrays = {
            "scale": scale.reshape(-1) if per_channel else scale.reshape(()),
            "zero": np.zeros(scale.size if per_channel else (), dtype),
            "lo": np.array(lo, dtype),
            "hi": np.array(hi, dtype),
        }
        for key, array in arrays.items():
            graph.initializer.append(numpy_helper.from_array(array, f"{node.name}/{key}"))
        name = {key: f"{node.name}/{key}" for key in arrays}
        axis = {"axis": 0} if per_channel else {}
        quantized, clipped = f"{node.name}/q", f"{node.name}/c"
        inputs = [div.input[0], name["scale"], name["zero"]]
        nodes.append(helper.make_node("QuantizeLinear", inputs, [quantized], f"{node.name}/Q", **axis))
        nodes.append(helper.make_node("Clip", [quantized, name["lo"], name["hi"]], [clipped], f"{node.name}/C"))
        inputs = [clipped, name["scale"], name["zero"]]
        nodes.append(helper.make_node("DequantizeLinear", inputs, list(node.output), node.name, **axis))
    del graph.node[:]
    graph.node.extend(n for n in nodes if n.name not in dropped)
    return new


def _chain(node: Any, made_by: dict[str, Any]) -> tuple[Any, Any, Any] | None:
    """Div, Clip and Round of the quantiser that a Mul ends, or None."""
    found = []
    for wanted in ("Round", "Clip", "Div"):
        node = made_by.get(node.input[0]) if node.op_type in ("Mul", "Round", "Clip") else None
        if node is None or node.op_type != wanted:
            return None
        found.append(node)
    return found[2], found[1], found[0]
