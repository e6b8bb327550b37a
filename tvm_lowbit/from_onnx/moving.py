"""ONNX operators that move values, where TVM's converters compute at run time what is constant, or pad wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from relay_passes.ops import constant, literal, shape_of
from schedules.errors import LowbitError
from tvm_lowbit.from_onnx import resize


class _ConstantIndices:
    """Constant indices stay constant: TVM's converters count negative ones from the end at run time."""

    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        indices = _constant_indices(inputs, params)
        if indices is None:
            return super()._impl_v13(bb, inputs, attr, params)  # type: ignore[misc]  # the converter that stands beside it
        return cls.picked(inputs[0], indices, attr)

    @classmethod
    def picked(cls, x: Any, indices: Any, attr: Any) -> Any:
        """What they pick of a tensor."""
        raise NotImplementedError


class _Gather(_ConstantIndices, onnx_frontend.Gather):  # type: ignore[misc]
    @classmethod
    def picked(cls, x: Any, indices: Any, attr: Any) -> Any:
        axis = int(attr.get("axis", 0)) % len(shape_of(x))
        return relax.op.take(x, literal(_from_the_start(indices, x, axis, attr)), axis=axis, mode="clip")


class _GatherElements(_ConstantIndices, onnx_frontend.GatherElements):  # type: ignore[misc]
    @classmethod
    def picked(cls, x: Any, indices: Any, attr: Any) -> Any:
        axis = int(attr.get("axis", 0)) % len(shape_of(x))
        return relax.op.gather_elements(x, literal(_from_the_start(indices, x, axis, attr)), axis)


class _GatherND(_ConstantIndices, onnx_frontend.GatherND):  # type: ignore[misc]
    @classmethod
    def picked(cls, x: Any, indices: Any, attr: Any) -> Any:
        lead = int(attr.get("batch_dims", 0))
        columns = [_from_the_start(indices[..., k], x, lead + k, attr) for k in range(indices.shape[-1])]
        return relax.op.gather_nd(x, literal(np.stack(columns, -1)), lead)


def _constant_indices(inputs: Any, params: Any) -> Any | None:
    """The indices, where they are constant and what they are of is a tensor of static shape, none itself."""
    x, indices = inputs[0], constant(onnx_frontend.get_constant(inputs[1], params))
    static = isinstance(getattr(getattr(x, "ty", None), "shape", None), relax.ShapeExpr) and constant(x) is None
    return indices if static and not isinstance(x, relax.ShapeExpr) else None


def _from_the_start(indices: Any, x: Any, axis: int, attr: Any) -> Any:
    """Negative ones count from the end."""
    extent = shape_of(x)[axis]
    at = np.where(indices < 0, indices + extent, indices).astype(np.int64)
    if np.any(at < 0) or np.any(at >= extent):
        where, outside = f"indices of {attr['tvm_custom']['label']}", indices[(at < 0) | (at >= extent)]
        raise LowbitError(where, f"{-extent} to {extent - 1}, for axis {axis}", str(outside.flat[0]))
    return at


class _MaxPool(onnx_frontend.MaxPool):  # type: ignore[misc]
    """``SAME_LOWER`` gives as many windows as ``SAME_UPPER``: TVM's converter rounds their number down."""

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        if attr.get("auto_pad", b"NOTSET") != b"SAME_LOWER":
            return super()._impl_v1(bb, inputs, attr, params)
        extents, kernel = shape_of(inputs[0])[2:], attr["kernel_shape"]
        ones = [1] * len(extents)
        begins, ends = [], []
        for n, k, s, d in zip(extents, kernel, attr.get("strides", ones), attr.get("dilations", ones), strict=True):
            total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
            begins.append(total - total // 2)
            ends.append(total // 2)
        return super()._impl_v1(bb, inputs, {**attr, "auto_pad": b"NOTSET", "pads": begins + ends}, params)


# ONNX's names of what is there, by those of ``relax.nn.pad``.
_MODES = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate", b"wrap": "circular"}


class _Pad(onnx_frontend.Pad):  # type: ignore[misc]
    """A pad stays visible as ``relax.nn.pad``; TVM's converter hides it in a TIR call."""

    @classmethod
    def _lower_pad(cls, bb: Any, inputs: Any, attr: Any, params: Any, allowed_modes: Any) -> Any:
        if attr.get("mode", b"constant").decode() not in allowed_modes:
            return super()._lower_pad(bb, inputs, attr, params, allowed_modes)
        before, after, value = cls._parse_pads_and_axes(inputs, params)
        padded = cls._visible(inputs[0], before, after, value, attr)
        return super()._lower_pad(bb, inputs, attr, params, allowed_modes) if padded is None else padded

    @classmethod
    def _impl_v2(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        half = len(attr["pads"]) // 2
        padded = cls._visible(inputs[0], attr["pads"][:half], attr["pads"][half:], attr.get("value", 0.0), attr)
        return super()._impl_v2(bb, inputs, attr, params) if padded is None else padded

    @staticmethod
    def _visible(x: Any, before: Any, after: Any, value: float, attr: Any) -> Any:
        """The pad; None where negative widths, which take away, leave nothing to pad, or there is no such mode."""
        mode = _MODES.get(attr.get("mode", b"constant"))
        if mode is None:
            return None
        if min(*before, *after, 0) < 0:
            ends = [extent + min(int(a), 0) for extent, a in zip(shape_of(x), after, strict=True)]
            begins = [max(-int(b), 0) for b in before]
            if any(end <= begin for begin, end in zip(begins, ends, strict=True)):
                return None
            x = relax.op.strided_slice(x, list(range(len(ends))), begins, ends)
        widths = [max(int(width), 0) for pair in zip(before, after, strict=True) for width in pair]
        return relax.op.nn.pad(x, widths, mode, value) if any(widths) else x


class _Tile(onnx_frontend.Tile):  # type: ignore[misc]
    """Constant repeats stay visible as ``relax.tile``; TVM's converter hides them in a TIR call."""

    @classmethod
    def _impl_v13(cls, bb: Any, inputs: Any, attr: Any, params: Any) -> Any:
        repeats = constant(onnx_frontend.get_constant(inputs[1], params))
        if repeats is None or np.any(repeats < 1) or constant(inputs[0]) is not None:
            return super()._impl_v13(bb, inputs, attr, params)
        return relax.op.tile(inputs[0], [int(r) for r in repeats])


CONVERTERS = {
    "Gather": _Gather,
    "GatherElements": _GatherElements,
    "GatherND": _GatherND,
    "MaxPool": _MaxPool,
    "Pad": _Pad,
    "Tile": _Tile,
    **resize.CONVERTERS,
}
