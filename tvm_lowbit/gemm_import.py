"""ONNX's Gemm: ``alpha A B + beta C`` with alpha behind the product, as ONNX defines it.

TVM's converter scales A before the product, which hides A's codes, and leaves ``beta C`` to be computed at run time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from relay_passes.ops import constant, literal


class Gemm(onnx_frontend.Gemm):  # type: ignore[misc]
    """The product first, then what scales it and what is added."""

    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        a, b, c = inputs[0], inputs[1], inputs[2]
        dtype = str(a.ty.dtype)
        if attr.get("transA", 0):
            a = relax.op.permute_dims(a, [1, 0])
        if attr.get("transB", 0):
            b = relax.op.permute_dims(b, [1, 0])
        result = _times(relax.op.matmul(a, b), attr.get("alpha", 1.0), dtype)
        return result if c is None else relax.op.add(result, _times(c, attr.get("beta", 1.0), dtype))


def _times(value: Any, factor: float, dtype: str) -> Any:
    if factor == 1.0:
        return value
    array = constant(value)
    if array is None:
        return relax.op.multiply(value, relax.const(factor, dtype))
    return literal(array * np.asarray(factor, dtype))
