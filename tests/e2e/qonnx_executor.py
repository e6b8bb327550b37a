"""The `qonnx` package, which defines QONNX's quantisers, as an oracle that shares nothing with this project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes

Array = npt.NDArray[Any]


@contextmanager
def _readable_models() -> Iterator[None]:
    """It makes a model of each node, in an IR version that is newer than ONNX Runtime reads."""
    make = onnx.helper.make_model
    onnx.helper.make_model = lambda *args, **more: make(*args, **{"ir_version": 10, **more})
    try:
        yield
    finally:
        onnx.helper.make_model = make


def executed(model: onnx.ModelProto, x: Array) -> Array:
    """The first output; the model's batch is made that of ``x``."""
    stored = {tensor.name for tensor in model.graph.initializer}
    (given,) = [value for value in model.graph.input if value.name not in stored]
    del model.graph.value_info[:]
    for value in (given, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = len(x)
    with _readable_models():
        outputs = execute_onnx(ModelWrapper(model).transform(InferShapes()), {given.name: x})
    return np.asarray(outputs[model.graph.output[0].name])
