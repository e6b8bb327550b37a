"""ONNX's Conv, ConvTranspose and Gemm where TVM's converters hide the codes, or leave out an attribute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from relay_passes.ops import constant, literal, shape_of
from schedules.errors import LowbitError

SAME = ("SAME_UPPER", "SAME_LOWER")


class Gemm(onnx_frontend.Gemm):  # type: ignore[misc]
    """``alpha A B + beta C`` with alpha behind the product, as ONNX defines it; TVM scales A, which hides its codes."""

    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        a, b, c = inputs[0], inputs[1], inputs[2]
        dtype = str(a.ty.dtype)
        for name in ("transA", "transB"):
            if attr.get(name, 0) not in (0, 1):
                raise LowbitError(f"{name} of {attr['tvm_custom']['label']}", "0 or 1", str(attr[name]))
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


class Conv(onnx_frontend.Conv):  # type: ignore[misc]
    """``auto_pad`` as the numbers it stands for; TVM pads the tensor itself."""

    @classmethod
    def _impl_v11(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        mode = _auto_pad(attr)
        if mode in SAME:
            del attr["auto_pad"]
            sizes, kernel, stride, dilation = _geometry(inputs, attr)
            spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
            totals = [
                max(0, (-(-size // s) - 1) * s + span - size)
                for size, s, span in zip(sizes, stride, spans, strict=True)
            ]
            attr["pads"] = _pads(totals, mode == "SAME_UPPER")
        return super()._impl_v11(bb, inputs, attr, params)


class ConvTranspose(onnx_frontend.ConvTranspose):  # type: ignore[misc]
    """``output_shape``, which TVM does not read, decides padding as the specification says."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        wanted = attr.pop("output_shape", None)
        if wanted is not None:
            mode = _auto_pad(attr)
            attr.pop("auto_pad", None)
            sizes, kernel, stride, dilation = _geometry(inputs, attr)
            extra = attr.get("output_padding", [0] * len(sizes))
            totals = [
                (size - 1) * s + more + (k - 1) * d + 1 - int(want)
                for size, s, more, k, d, want in zip(
                    sizes, stride, extra, kernel, dilation, wanted[-len(sizes) :], strict=True
                )
            ]
            # More outputs than there are without padding: positions at the end that no input reaches.
            attr["output_padding"] = [more - min(total, 0) for more, total in zip(extra, totals, strict=True)]
            attr["pads"] = _pads([max(total, 0) for total in totals], mode == "SAME_UPPER")
        return super()._impl_v1(bb, inputs, attr, params)


def _auto_pad(attr: Any) -> str:
    mode = attr.get("auto_pad", b"NOTSET")
    return mode.decode() if isinstance(mode, bytes) else str(mode)


def _geometry(inputs: Any, attr: Any) -> tuple[Sequence[int], ...]:
    """Extents of the image and of the kernel, strides and dilations."""
    sizes, kernel = shape_of(inputs[0])[2:], shape_of(inputs[1])[2:]
    ones = [1] * len(sizes)
    return sizes, kernel, attr.get("strides", ones), attr.get("dilations", ones)


def _pads(totals: Sequence[int], upper: bool) -> list[int]:
    """Begins, then ends; the odd one goes to the end if ``upper``."""
    begins = [total // 2 if upper else total - total // 2 for total in totals]
    return [*begins, *(total - begin for total, begin in zip(totals, begins, strict=True))]


class Einsum(onnx_frontend.Einsum):  # type: ignore[misc]
    """It stays visible as ``relax.einsum``; TVM's converter hides it in a TIR call."""

    @classmethod
    def _impl_v12(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        return relax.op.einsum(tuple(inputs), attr["equation"].decode())


CONVERTERS = {"Conv": Conv, "ConvTranspose": ConvTranspose, "Einsum": Einsum, "Gemm": Gemm}
