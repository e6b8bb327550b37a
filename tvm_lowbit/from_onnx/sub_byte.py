"""QDQ models with 4- and 2-bit integer types, rewritten to 8-bit types and Clips: TVM's arrays know no smaller ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from relay_passes.coverage import Coverage, Spelling
from schedules.errors import LowbitError


@dataclass(frozen=True)
class Narrow:
    """A sub-byte integer type: the 8-bit type that carries it, and its range."""

    carrier: int
    lo: int
    hi: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """The carrier's NumPy type."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.carrier))


_ROWS = {
    "INT4": Narrow(TensorProto.INT8, -8, 7),
    "UINT4": Narrow(TensorProto.UINT8, 0, 15),
    "INT2": Narrow(TensorProto.INT8, -2, 1),
    "UINT2": Narrow(TensorProto.UINT8, 0, 3),
}
# By ONNX's number of the type; releases of onnx that lack a type cannot hold models of it either.
NARROW: Mapping[int, Narrow] = MappingProxyType(
    {number: _ROWS[name] for name, number in TensorProto.DataType.items() if name in _ROWS}
)


def widen(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model on 8-bit carriers; the same object if it has no sub-byte types.

    Every sub-byte constant takes its carrier's type. A Clip to the sub-byte range follows each QuantizeLinear and
    precedes each DequantizeLinear of a constant, so that the width stays readable: it is then Brevitas' QCDQ spelling.

    Raises
    ------
    LowbitError
        For blocked quantisation, and for sub-byte inputs, outputs and casts.
    """
    _refuse_blocks(model.graph)
    _refuse_interfaces(model.graph)
    stored = _stored(model.graph)
    widths = {name: NARROW[tensor.data_type] for name, tensor in stored.items() if tensor.data_type in NARROW}
    if not widths and not any(_output_type(node, stored) in NARROW for node in model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for tensor in _stored(graph).values():
        if tensor.data_type in NARROW:
            narrow = NARROW[tensor.data_type]
            tensor.CopyFrom(numpy_helper.from_array(_values(tensor).astype(narrow.dtype), tensor.name))
    for value in graph.value_info:
        if value.type.tensor_type.elem_type in NARROW:
            value.type.tensor_type.elem_type = NARROW[value.type.tensor_type.elem_type].carrier
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += _clipped(graph, node, stored, widths)
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def _values(tensor: onnx.TensorProto) -> Any:
    bits = (NARROW[tensor.data_type].hi - NARROW[tensor.data_type].lo).bit_length()
    # Several to a byte, and each entry of int32_data a byte; onnx itself takes more of them than the shape holds.
    stored, filled = len(tensor.raw_data) or len(tensor.int32_data), -(-int(np.prod(tensor.dims)) * bits // 8)
    if stored != filled:
        expected = f"values that fill its shape, {filled} bytes"
        raise LowbitError(f"tensor {tensor.name}", expected, f"{stored} bytes")
    try:
        return numpy_helper.to_array(tensor)
    except ValueError as error:
        raise LowbitError(f"tensor {tensor.name}", "values that fill its shape", str(error)) from error


def _stored(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The constants, initialisers or nodes, by the name of their tensor."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = attribute.t
    return found


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), 0)


def _output_type(node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto]) -> int:
    """The integer type that a QuantizeLinear makes; 0 for other nodes."""
    if node.op_type != "QuantizeLinear":
        return 0
    zero = stored.get(node.input[2]) if len(node.input) > 2 else None
    return _attribute(node, "output_dtype") or (TensorProto.UINT8 if zero is None else zero.data_type)


def _clipped(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    stored: Mapping[str, onnx.TensorProto],
    widths: Mapping[str, Narrow],
) -> list[onnx.NodeProto]:
    """A node, with a Clip behind or before it where it quantises to, or dequantises, a sub-byte type."""
    made = _output_type(node, stored)
    if made in NARROW:
        inner = f"{node.output[0]}/carrier"
        clip = _clip(graph, inner, node.output[0], NARROW[made])
        node.output[0] = inner
        for attribute in node.attribute:
            if attribute.name == "output_dtype" and attribute.i:
                attribute.i = NARROW[made].carrier
        return [node, clip]
    if node.op_type == "DequantizeLinear" and node.input[0] in widths:
        inner = f"{node.output[0]}/clipped"
        clip = _clip(graph, node.input[0], inner, widths[node.input[0]])
        node.input[0] = inner
        return [clip, node]
    return [node]


def _clip(graph: onnx.GraphProto, source: str, result: str, narrow: Narrow) -> onnx.NodeProto:
    bounds = []
    for end, value in (("lo", narrow.lo), ("hi", narrow.hi)):
        bounds.append(f"{result}/{end}")
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, narrow.dtype), bounds[-1]))
    return helper.make_node("Clip", [source, *bounds], [result], f"{result}/clip")


def _refuse_blocks(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and _attribute(node, "block_size"):
            raise LowbitError(
                f"node {node.name or node.output[0]}",
                "quantisation per tensor or per channel",
                f"blocked quantisation (block_size {_attribute(node, 'block_size')})",
                "quantise the model without blocks",
            )


def _refuse_interfaces(graph: onnx.GraphProto) -> None:
    for side, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            if value.type.tensor_type.elem_type in NARROW:
                name = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
                raise LowbitError(f"{side} {value.name}", "a type of at least 8 bits", name)
    for node in graph.node:
        if node.op_type == "Cast" and _attribute(node, "to") in NARROW:
            name = TensorProto.DataType.Name(_attribute(node, "to"))
            raise LowbitError(
                f"node {node.name or node.output[0]}", "QuantizeLinear for sub-byte types", f"Cast to {name}"
            )


SPELLINGS = (
    Spelling(
        "sub_byte",
        "ONNX QuantizeLinear and DequantizeLinear of 4- and 2-bit types",
        Coverage(("ONNX",), weights=(2, 4), activations=(2, 4)),
        widen,
    ),
)
