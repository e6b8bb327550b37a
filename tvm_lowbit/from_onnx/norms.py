"""ONNX's MeanVarianceNormalization as ONNX defines it, but for how the variance is summed."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from relay_passes.ops import literal, shape_of


class _MeanVariance(onnx_frontend.MeanVarianceNormalization):  # type: ignore[misc]
    """TVM's converter leaves out ONNX's epsilon, and takes the square of the mean from the mean of squares."""

    @classmethod
    def _impl_v9(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        x = inputs[0]
        axes = [int(axis) % len(shape_of(x)) for axis in attr.get("axes", (0, 2, 3))]
        centred = relax.op.subtract(x, relax.op.mean(x, axes, keepdims=True))
        deviation = relax.op.sqrt(relax.op.variance(x, axes, keepdims=True))
        return relax.op.divide(centred, relax.op.add(deviation, literal(np.float32(1e-9))))


CONVERTERS = {"MeanVarianceNormalization": _MeanVariance}
