"""Write a trained network as ONNX with its quantisers spelled out, and measure the written file."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort  # type: ignore[import-untyped] - it has no types
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

OPSET = 13


def export_onnx(model: nn.Module, path: Path) -> None:
    """Write `model` to `path`: input "image" (batch, 1, 8, 8), output "logits" (batch, 10), both float32.

    Nothing is folded or fused: a reader finds float weights followed by the arithmetic of their quantiser, and
    batch normalisation as nodes of its own.
    """
    with warnings.catch_warnings():
        # The tracing exporter is deprecated, but the only one that leaves this graph alone.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (torch.zeros(1, 1, 8, 8),),
            path,
            dynamo=False,
            opset_version=OPSET,
            do_constant_folding=False,
            # EVAL would fuse batch normalisation into the convolutions; PRESERVE keeps the mode set above.
            training=torch.onnx.TrainingMode.PRESERVE,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )
    exported = onnx.load(path)
    fold_bound_casts(exported.graph)
    onnx.checker.check_model(exported, full_check=True)
    onnx.save(exported, path)


def fold_bound_casts(graph: onnx.GraphProto) -> None:
    """Turn each ``Constant -> Cast`` into a constant of the target type.

    The exporter writes Python floats as float64 and casts them, which hides the bounds of every Clip behind a node.
    """
    constants = {node.output[0]: node for node in graph.node if node.op_type == "Constant"}
    source: dict[str, str] = {}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.input[0] in constants]:
        tensor = constants[node.input[0]].attribute[0].t
        dtype = onnx.helper.tensor_dtype_to_np_dtype(onnx.helper.get_attribute_value(node.attribute[0]))
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype)))
        source[node.output[0]] = node.input[0]
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [source.get(name, name) for name in node.input]


def run_onnx(path: Path, images: NDArray[np.float32], outputs: list[str] | None = None) -> list[NDArray[np.float32]]:
    """Run the file as written, without graph optimisations.

    Parameters
    ----------
    path : Path
        The ONNX file.
    images : ndarray of float32, shape (N, 1, 8, 8)
        Images in [0, 1].
    outputs : list of str, optional
        Names of tensors to return, inner ones included. Default: the logits, shape (N, 10).

    Returns
    -------
    list of ndarray of float32
        One array per requested tensor.
    """
    model = onnx.load(path)
    known = {output.name for output in model.graph.output}
    for name in outputs or []:
        if name not in known:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[NDArray[np.float32]] = session.run(outputs, {"image": images})
    return results


def onnx_accuracy(path: Path, images: NDArray[np.float32], classes: NDArray[np.int64]) -> float:
    """Return the share of `images`, shape (N, 1, 8, 8), that the file puts in `classes`, shape (N,)."""
    (logits,) = run_onnx(path, images)
    return float(np.mean(logits.argmax(axis=1) == classes))
