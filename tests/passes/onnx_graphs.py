"""Small fake-quantised ONNX graphs, and what ONNX Runtime makes of them without optimisations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort  # type: ignore[import-untyped] - it has no types
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]


@dataclass
class GraphBuilder:
    """Nodes added one by one; ``codes`` maps each activation quantiser's last node to the tensor of its codes."""

    spelling: str = "raw"
    opset: int = 13
    seed: int = 0
    nodes: list[Any] = field(default_factory=list)
    initializers: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    codes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def input(self, *shape: int, name: str = "x") -> str:
        """A float32 input; its batch, symbolic, comes before ``shape``."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]))
        return name

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        """An initialiser."""
        name = f"constant{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def add(self, operator: str, *inputs: str, name: str = "", **attrs: Any) -> str:
        """A node with one output of the node's own name."""
        name = name or f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attrs))
        return name

    def quantiser(
        self,
        x: str,
        scale: Any,
        qmin: int,
        qmax: int,
        zero: float = 0.0,
        name: str = "",
        axis: int | None = None,
        weight: bool = False,
    ) -> str:
        """A quantiser in this graph's spelling; half-integer zero points are spelled in raw arithmetic."""
        name = name or f"quant{len(self.nodes)}"
        if self.spelling == "qdq" and zero == round(zero):
            dtype = np.int8 if qmin < 0 else np.uint8
            s = np.asarray(scale, np.float32)
            s = s.reshape(()) if s.size == 1 else s.reshape(-1)
            extra = {} if axis is None else {"axis": axis}
            parts = [self.constant(s), self.constant(np.full(s.shape, zero), dtype)]
            codes = self.add("QuantizeLinear", x, *parts, name=f"{name}/q", **extra)
            limits = [self.constant(v, dtype) for v in (qmin, qmax)]
            codes = self.add("Clip", codes, *limits, name=f"{name}/clip")
            result = self.add("DequantizeLinear", codes, *parts, name=name, **extra)
        else:
            s = self.constant(scale)
            value = self.add("Div", x, s, name=f"{name}/div")
            if zero:
                value = self.add("Add", value, self.constant(zero), name=f"{name}/add")
            limits = [self.constant(v) for v in (qmin, qmax)]
            codes = self.add("Round", self.add("Clip", value, *limits, name=f"{name}/clip"), name=f"{name}/round")
            value = codes
            if zero:
                value = self.add("Sub", value, self.constant(zero), name=f"{name}/sub")
            result = self.add("Mul", value, s, name=name)
        if not weight:
            self.codes[name] = codes
        return result

    def weights(self, *shape: int, bits: int = 2, axis: int | None = 0, name: str = "", exact: bool = False) -> str:
        """Quantised random weights; ``axis`` is that of the outputs, None for one scale. 1 bit is bipolar."""
        array = self.random.normal(size=shape).astype(np.float32)
        # Scales of no common measure with those of activations, so that no accumulator lies on a tie; or powers of two.
        scale = self.random.uniform(0.2, 0.5, 1 if axis is None else shape[axis])
        scale = np.float32(0.25) if exact else scale[0] if axis is None else scale
        if np.ndim(scale):
            scale = np.reshape(scale, [-1 if i == axis else 1 for i in range(len(shape))])
        if bits == 1:
            return self.quantiser(self.constant(array), scale, 0, 1, 0.5, name, weight=True)
        along = axis if np.ndim(scale) else None
        low = -(1 << (bits - 1))
        return self.quantiser(self.constant(array), scale, low, -low - 1, 0.0, name, along, weight=True)

    def batch_norm(self, x: str, channels: int, signs: bool = True, name: str = "") -> str:
        """Random batch normalisation, gammas of both signs and zero among them."""
        gamma = self.random.uniform(0.5, 1.5, channels)
        if signs:
            gamma[1::3] *= -1
            gamma[2::5] = 0
        beta, mean = self.random.normal(size=(2, channels)) * 0.3
        parts = [self.constant(v) for v in (gamma, beta, mean, self.random.uniform(0.5, 2, channels))]
        return self.add("BatchNormalization", x, *parts, name=name)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The checked model with shapes inferred."""
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "graph", self.inputs, results, self.initializers)
        opset = [helper.make_opsetid("", self.opset)]
        model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opset, ir_version=10))
        onnx.checker.check_model(model)
        return model


def run_onnx(model: onnx.ModelProto, inputs: Any, tensors: Sequence[str]) -> list[Array]:
    """Any tensors of a graph by ONNX Runtime, graph optimisations disabled."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    known = {output.name for output in model.graph.output}
    for name in tensors:
        if name not in known:
            model.graph.output.append(helper.make_empty_tensor_value_info(name))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # not that a constant is unused
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = inputs if isinstance(inputs, dict) else {session.get_inputs()[0].name: inputs}
    results: list[Array] = session.run(list(tensors), feeds)
    return results


def assert_like_onnx(artifact: Any, graph: GraphBuilder, model: onnx.ModelProto, inputs: Any) -> Any:
    """Codes of every quantiser equal, outputs within 1e-4 relative; gives the result."""
    result = artifact.run(inputs)
    outputs = [output.name for output in model.graph.output]
    expected = run_onnx(model, inputs, [*outputs, *graph.codes.values()])
    assert set(result.codes) == set(graph.codes)
    for (name, _), codes in zip(graph.codes.items(), expected[len(outputs) :], strict=True):
        np.testing.assert_array_equal(result.codes[name], codes.astype(np.int32), err_msg=name)
    for name, values in zip(outputs, expected, strict=False):
        scale = max(1e-6, float(np.abs(values).max()))
        np.testing.assert_allclose(result.outputs[name], values, rtol=1e-4, atol=1e-4 * scale, err_msg=name)
    return result
