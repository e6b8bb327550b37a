"""QONNX quantisers spelled out in standard ONNX operators, so that ONNX Runtime can be their reference.

Written from the operators' definition (https://github.com/fastmachinelearning/qonnx, docs/qonnx-custom-ops): scale,
shift, clamp, round, and back; one signed bit and ``BipolarQuant`` take the sign, that of 0 being positive.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

# Operators and their constants from the clamped value to the code; those that start with Abs end with the sign.
ROUNDINGS: dict[str, list[tuple[str, float | None]]] = {
    "ROUND": [("Round", None)],
    "HALF_EVEN": [("Round", None)],
    "FLOOR": [("Floor", None)],
    "CEIL": [("Ceil", None)],
    "DOWN": [("Abs", None), ("Floor", None)],
    "ROUND_TO_ZERO": [("Abs", None), ("Floor", None)],
    "UP": [("Abs", None), ("Ceil", None)],
    "HALF_UP": [("Abs", None), ("Add", 0.5), ("Floor", None)],
    "HALF_DOWN": [("Abs", None), ("Sub", 0.5), ("Ceil", None)],
}
# Opsets before 11 have no Round: a float32 next to 1.5 * 2**23 has no digits behind the point, and ties go to even.
OLD_ROUND: list[tuple[str, float | None]] = [("Add", 12582912.0), ("Sub", 12582912.0)]


class Writer:
    """Nodes and constants of what replaces one node."""

    def __init__(self, graph: Any, prefix: str) -> None:
        self.graph, self.prefix, self.nodes = graph, prefix, []

    def constant(self, value: Any) -> str:
        name = f"{self.prefix}/c{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def add(self, operator: str, *inputs: str, output: str = "", **attrs: Any) -> str:
        output = output or f"{self.prefix}/{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], output, **attrs))
        return output

    def sign(self, x: str) -> str:
        """1 where x >= 0, else -1."""
        low = self.add("Less", x, self.constant(0))
        return self.add("Where", low, self.constant(-1), self.constant(1))


def truncated(write: Writer, node: Any, attrs: dict[str, Any], arrays: dict[str, Any]) -> str:
    """``Trunc``, both definitions, after ``trunc_v1`` and ``trunc_v2`` of qonnx 1.0; gives the tensor of codes."""
    x, scale, zero, bits_in, *out_scale, bits = node.input
    value = write.add("Round", write.add("Add", write.add("Div", x, scale), zero))
    if out_scale:
        divisor = 2 ** np.round(np.log2(arrays[out_scale[0]] / arrays[scale]))
        value = write.add("Div", value, write.constant(divisor))
        signed, narrow, width = attrs.get("signed", 1), attrs.get("narrow", 0), int(arrays[bits])
        low = -(2 ** (width - 1)) + narrow if signed else 0
        high = 2 ** (width - 1) - 1 if signed else 2**width - 1 - narrow
        value = write.add("Max", write.add("Min", value, write.constant(high)), write.constant(low))
        zero = write.add("Div", zero, write.constant(divisor))
    else:
        value = write.add("Div", value, write.constant(2.0 ** (arrays[bits_in] - arrays[bits])))
    code = value
    steps = ROUNDINGS[attrs.get("rounding_mode", b"FLOOR").decode().upper()]
    for operator, number in steps:
        code = write.add(operator, code, *([] if number is None else [write.constant(number)]))
    if steps[0][0] == "Abs":
        code = write.add("Mul", code, write.add("Sign", value))
    write.add("Mul", write.add("Sub", code, zero), out_scale[0] if out_scale else scale, output=node.output[0])
    return code


def spelled_out(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model in standard operators, and the tensor of codes of each quantiser by its node's name."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    kept = [opset for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    graph, nodes, codes = result.graph, [], {}
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("Quant", "IntQuant", "BipolarQuant", "Trunc"):
            nodes.append(node)
            continue
        write = Writer(graph, node.output[0])
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        x, scale = node.input[:2]
        if node.op_type == "Trunc":
            codes[node.name] = truncated(write, node, attrs, arrays)
            nodes += write.nodes
            continue
        if node.op_type == "BipolarQuant":
            codes[node.name] = code = write.sign(x)
            write.add("Mul", code, scale, output=node.output[0])
        else:
            zero, bits = node.input[2], int(arrays[node.input[3]])
            signed, narrow = attrs.get("signed", 1), attrs.get("narrow", 0)
            value = write.add("Add", write.add("Div", x, scale), zero)
            if signed and bits == 1:
                code = write.sign(value)
            else:
                low = (-(2 ** (bits - 1)) + narrow) if signed else 0
                high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
                value = write.add("Max", write.add("Min", value, write.constant(high)), write.constant(low))
                code = value
                steps = ROUNDINGS[attrs.get("rounding_mode", b"ROUND").decode()]
                if steps[0][0] == "Round" and kept[0].version < 11:
                    steps = OLD_ROUND
                for operator, number in steps:
                    code = write.add(operator, code, *([] if number is None else [write.constant(number)]))
                if steps[0][0] == "Abs":
                    code = write.add("Mul", code, write.add("Sign", value))
            codes[node.name] = code
            write.add("Mul", write.add("Sub", code, zero), scale, output=node.output[0])
        nodes += write.nodes
    del graph.node[:]
    graph.node.extend(nodes)
    del result.opset_import[:]
    result.opset_import.extend(kept)
    return result, codes
