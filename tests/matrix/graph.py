"""An ONNX graph of many branches, and its reference: custom operators spelled out, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from cells import Array
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import GraphBuilder, run_onnx
from qonnx_oracle import spelled_out


@dataclass
class Graph(GraphBuilder):
    """Nodes, and the operators of the matrix; ``codes`` maps a quantiser to its codes, None: known when spelled out."""

    opset: int = 25
    rank: dict[str, int] = field(default_factory=dict)

    def stored(self, tensor: Any) -> str:
        """An initialiser of any type."""
        tensor.name = f"constant{len(self.initializers)}"
        self.initializers.append(tensor)
        return str(tensor.name)

    def note(self, name: str, codes: str | None) -> str:
        """A quantiser of activations is complete."""
        self.codes[name] = codes  # type: ignore[assignment] - the base keeps names
        return name

    def layout(self, x: str) -> str:
        """How FINN calls the layout of a tensor."""
        return {2: "NC", 3: "NCW", 4: "NCHW"}[self.rank[x]]

    def _made(self, name: str, rank: int) -> str:
        self.rank[name] = rank
        return name

    def conv(self, a: str, w: str, pad: int, stride: int = 1, group: int = 1) -> str:
        """A convolution of any rank; padding is not the same on both sides."""
        spatial = self.rank[a] - 2
        pads = [pad] * spatial + [0, *[pad] * (spatial - 1)]
        name = self.add("Conv", a, w, pads=pads, strides=[stride] * spatial, group=group)
        return self._made(name, spatial + 2)

    def conv_transpose(self, a: str, w: str, stride: int) -> str:
        """A transposed convolution."""
        return self._made(self.add("ConvTranspose", a, w, strides=[stride] * 2, pads=[1, 0, 1, 0]), 4)

    def gemm(self, a: str, w: str) -> str:
        """``a w^T``."""
        return self._made(self.add("Gemm", a, w, transB=1), 2)

    def matmul(self, a: str, b: str) -> str:
        """``a b``, one of them of rank 3."""
        return self._made(self.add("MatMul", a, b), 3)

    def join(self, a: str, b: str) -> str:
        """A residual join."""
        return self._made(self.add("Add", a, b), self.rank[a])

    def max_pool(self, a: str) -> str:
        """Overlapping windows, so that the result is as large."""
        return self._made(self.add("MaxPool", a, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), 4)

    def average_pool(self, a: str) -> str:
        """A power of two pixels in each window: the average is exact."""
        return self._made(self.add("AveragePool", a, kernel_shape=[2, 2], strides=[2, 2]), 4)

    def global_average(self, a: str) -> str:
        """Over all pixels, flattened."""
        return self._made(self.add("Flatten", self.add("GlobalAveragePool", a), axis=1), 2)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The model; shapes of what follows a custom operator cannot be inferred."""
        results = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, [f"{n}{i}" for i in range(self.rank[n])])
            for n in outputs
        ]
        graph = helper.make_graph(self.nodes, "graph", self.inputs, results, self.initializers)
        domains = sorted({node.domain for node in self.nodes if node.domain})
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=13)


def counted_out(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model with each MultiThreshold as its definition: how many thresholds are at or below, scaled, shifted."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, nodes, codes = result.graph, [], {}
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def constant(value: Any, dtype: Any = np.float32) -> str:
        name = f"counted{len(graph.initializer)}"
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    last = constant([-1], np.int64)
    for node in model.graph.node:
        if node.op_type != "MultiThreshold":
            nodes.append(node)
            continue
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        made = [f"{node.name}/{part}" for part in ("wide", "reached", "number", "count", "scaled")]
        row = constant(arrays[node.input[1]].reshape(-1))
        nodes += [
            helper.make_node("Unsqueeze", [node.input[0], last], [made[0]]),
            helper.make_node("GreaterOrEqual", [made[0], row], [made[1]]),
            helper.make_node("Cast", [made[1]], [made[2]], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", [made[2], last], [made[3]], keepdims=0),
            helper.make_node("Mul", [made[3], constant(attrs["out_scale"])], [made[4]]),
            helper.make_node("Add", [made[4], constant(attrs["out_bias"])], list(node.output)),
        ]
        codes[node.name] = made[3]
    del graph.node[:]
    graph.node.extend(nodes)
    return result, codes


def reference(
    graph: Graph, x: Array, outputs: list[str], others: Sequence[str] = ()
) -> tuple[list[Array], dict[str, Array]]:
    """Outputs, other tensors, and the codes of every quantiser, by ONNX Runtime with all optimisations off."""
    model, quants = spelled_out(graph.model(*outputs))
    model, counts = counted_out(model)
    tensors = {name: at or quants.get(name) or counts[name] for name, at in graph.codes.items()}
    cast = {name: f"{name}/codes_as_float" for name in tensors}  # NumPy has no numbers of 2 bits
    model.graph.node.extend(
        helper.make_node("Cast", [at], [cast[name]], to=TensorProto.FLOAT) for name, at in tensors.items()
    )
    wanted = [*outputs, *others]
    values = run_onnx(model, x, [*wanted, *cast.values()])
    return values[: len(wanted)], dict(zip(tensors, values[len(wanted) :], strict=True))
