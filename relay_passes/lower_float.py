"""``FloatKernels``: products that stay float, and those of explanations, get kernels that round alike everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes import ops
from relay_passes.attribution.kernels import CONV2D_TRANSPOSED, MAX_POOL_RESCALE
from relay_passes.dataflow import Scope
from relay_passes.forms import call_kernel
from relay_passes.integer_forms.products import wrong_layout
from relay_passes.ops import constant, literal, op_name, quant_spec, shape_of
from relay_passes.problem import Geometry
from schedules import float_block, float_dense
from schedules.cores import CoreSpec
from schedules.float_block import conv_kernel, width
from schedules.float_dense import dense_kernel, pack_dense
from schedules.float_pack import pack_dense_kernel, pack_kernel
from schedules.float_pool import max_pool_kernel, pool_plan
from schedules.float_taps import FloatConv, TapPlan, forward, pack, packed_shape, transpose

# What makes an expression of one weight code from a buffer of packed ones, and that constant.
CodeAt = Callable[..., Any]
Unpacking = Callable[[Any], "tuple[npt.NDArray[Any], CodeAt] | None"]


@dataclass(frozen=True)
class _Weights:
    """Where a product's weights are: constants, and how one weight is read from them; an array where they are float."""

    shape: tuple[int, ...]
    sources: tuple[npt.NDArray[Any], ...]
    read: Callable[..., Any]
    array: npt.NDArray[np.float32] | None = None

    def permuted(self, axes: Sequence[int]) -> _Weights:
        """With their axes in another order."""
        back = [list(axes).index(i) for i in range(len(axes))]
        array = None if self.array is None else self.array.transpose(axes)
        shape = tuple(self.shape[axis] for axis in axes)
        return _Weights(shape, self.sources, lambda b, *at: self.read(b, *(at[i] for i in back)), array)

    def with_height(self) -> _Weights:
        """A kernel of one dimension as one of height 1."""
        o, c, taps = self.shape
        array = None if self.array is None else self.array.reshape(o, c, 1, taps)
        return _Weights((o, c, 1, taps), self.sources, lambda b, o, c, y, x: self.read(b, o, c, x), array)


class FloatKernels:
    """What lowers one product of floats after another.

    Parameters
    ----------
    core : CoreSpec
        What to compile for; one without fused multiply-adds keeps TVM's loops.
    values : mapping
        The program as it was: variable to value.
    unpacking : callable
        Of a ``dequantize`` of constant codes: the constant that a kernel reads them from and how, or None.
    """

    def __init__(self, core: CoreSpec, values: Mapping[Any, Any], unpacking: Unpacking) -> None:
        self.core, self.values, self.unpacking = core, values, unpacking
        self.width = width(core)

    def lowered(self, var: Any, call: Any, name: str, scope: Scope) -> Any:
        """What takes the place of a product, or None if it is left to TVM.

        Parameters
        ----------
        var : Var
            Of the old program.
        call : expression
            Its value in the program that is being written.
        name : str
            What the result is called.
        scope : Scope
            Where to emit.
        """
        operator = op_name(call)
        if (
            (self.width is None and operator != MAX_POOL_RESCALE)
            or operator not in _PRODUCTS
            or str(call.ty.dtype) != "float32"
        ):
            return None
        return _PRODUCTS[operator](self, self.values[var], call, name, scope)

    def convolution(self, old: Any, call: Any, name: str, scope: Scope) -> Any:
        """A convolution of one or two dimensions."""
        weights = None if wrong_layout(call) is not None else self.weights(old.args[1])
        if weights is None:
            return None
        x, shape, flat = call.args[0], shape_of(call), len(weights.shape) == 3
        if flat:
            weights = weights.with_height()
            n, c, size = shape_of(x)
            x = scope.emit(relax.op.reshape(x, relax.ShapeExpr([n, c, 1, size])), f"{name}/image")
        result = self._convolve(forward(_conv(shape_of(x), weights, Geometry.of(call.attrs))), x, weights, name, scope)
        return scope.emit(relax.op.reshape(result, relax.ShapeExpr(list(shape))), name) if flat else result

    def transposed(self, old: Any, call: Any, name: str, scope: Scope) -> Any:
        """The multipliers at a convolution's input from those at its output."""
        weights = self.weights(old.args[1])
        if weights is None:
            return None
        a = call.attrs
        (sy, sx), (dy, dx), sides = ([int(v) for v in a[key]] for key in ("stride", "dilation", "padding"))
        at = Geometry((sy, sx), (dy, dx), (sides[0], sides[1], sides[2], sides[3]), int(a["groups"]))
        conv = _conv(shape_of(call), weights, at)
        if shape_of(call.args[0])[2:] != conv.out_size:
            return None
        # Float weights are the constant of the convolution itself, so that the library holds them once.
        stored = None if weights.array is None else forward(conv)
        return self._convolve(transpose(conv), call.args[0], weights, name, scope, stored)

    def max_pool(self, old: Any, call: Any, name: str, scope: Scope) -> Any:
        """The multipliers at a max pooling's input."""
        a, (g, x, x0) = call.attrs, call.args
        kernel, stride, dilation = ((int(v[0]), int(v[1])) for v in (a["kernel"], a["stride"], a["dilation"]))
        top, left, bottom, right = (int(v) for v in a["padding"])
        (n, c, height, width), (_, _, rows, columns) = shape_of(x), shape_of(g)
        window = FloatConv(n, c, height, width, c, kernel, stride, dilation, (top, left, bottom, right), c)
        kernel = max_pool_kernel(pool_plan(window, (rows, columns)), shape_of(x0)[0], self.core)
        return call_kernel(scope, kernel, "max_pool_input_multiplier", [g, x, x0], shape_of(x), "float32", name)

    def product(self, old: Any, call: Any, name: str, scope: Scope) -> Any:
        """A matrix product with weights on the right."""
        weights = self.weights(old.args[1])
        x, shape = call.args[0], shape_of(call)
        if weights is None or len(weights.shape) != 2 or len(shape_of(x)) < 2 or self.width is None:
            return None
        k, outputs = weights.shape
        rows = prod(shape[:-1])
        if len(shape) > 2:
            x = scope.emit(relax.op.reshape(x, relax.ShapeExpr([rows, k])), f"{name}/rows")
        channels = float_dense.block(rows, outputs, self.width)[1] * self.width.lanes
        panel: Any
        if weights.array is not None:
            panel = literal(pack_dense(weights.array, channels))
        else:
            sources = [(a.shape, str(a.dtype)) for a in weights.sources]
            kernel = pack_dense_kernel(k, outputs, channels, sources, weights.read)
            extents = (-(-outputs // channels), k, channels)
            panel = self._panel(kernel, weights, extents, name, scope)
        kernel = dense_kernel(rows, k, outputs, self.core)
        result = call_kernel(scope, kernel, "float_dense", [x, panel], (rows, outputs), "float32", name)
        if len(shape) == 2:
            return result
        return scope.emit(relax.op.reshape(result, relax.ShapeExpr(list(shape))), name)

    def _convolve(
        self, plan: TapPlan, x: Any, weights: _Weights, name: str, scope: Scope, stored: TapPlan | None = None
    ) -> Any:
        assert self.width is not None
        packed = stored or plan
        channels = float_block.block(packed, self.width)[1]
        panel: Any
        if weights.array is not None:
            panel = literal(pack(packed, weights.array, channels))
        else:
            kernel = pack_kernel(packed, channels, [(a.shape, str(a.dtype)) for a in weights.sources], weights.read)
            panel = self._panel(kernel, weights, packed_shape(packed, channels), name, scope)
        shape = (plan.batch, plan.groups * plan.outputs, *plan.out_size)
        kernel = conv_kernel(plan, self.core, stored)
        hint = "float_conv_transposed" if plan.transposed else "float_conv"
        return call_kernel(scope, kernel, hint, [x, panel], shape, "float32", name)

    def _panel(self, kernel: Any, weights: _Weights, shape: tuple[int, ...], name: str, scope: Scope) -> Any:
        args = [literal(array) for array in weights.sources]
        return call_kernel(scope, kernel, "float_weights", args, shape, "float32", f"{name}/weights")

    def weights(self, expr: Any) -> _Weights | None:
        """What is known of a product's weights; ``expr`` is of the old program."""
        array = constant(expr)
        if array is not None:
            return None if str(array.dtype) != "float32" else _Weights(array.shape, (), _never, array)
        value: Any = self.values.get(expr)
        operator = op_name(value)
        if operator == "relax.permute_dims":
            found, axes = self.weights(value.args[0]), value.attrs.axes
            if found is None:
                return None
            rank = len(found.shape)
            return found.permuted(list(range(rank))[::-1] if axes is None else [int(axis) % rank for axis in axes])
        if operator == "relax.reshape":
            found, shape = self.weights(value.args[0]), shape_of(value)
            if found is None or len(shape) != 4 or (*shape[:2], *shape[3:]) != found.shape or shape[2] != 1:
                return None
            return found.with_height()
        codes = constant(value.args[0]) if operator == ops.DEQUANTIZE else None
        return None if codes is None else self._low_bit(value, codes)

    def _low_bit(self, call: Any, codes: npt.NDArray[Any]) -> _Weights:
        spec, found = quant_spec(call), self.unpacking(call)
        packed, code_at = found or (codes, lambda at, *i: at(*i))
        arrays = (packed, *(np.asarray(constant(a)).reshape(-1) for a in call.args[1:3]))

        def read(buffers: Any, *at: Any) -> Any:
            packed, scale, zero = buffers
            code = code_at(lambda *i: packed[i], *at)
            return ops.value_of(
                code, ops.along_axis(scale, spec.axis or 0, at), ops.along_axis(zero, spec.axis or 0, at), spec
            )

        return _Weights(codes.shape, arrays, read)


def _never(*at: Any) -> Any:
    raise AssertionError("weights that are constants are packed before")


def _conv(shape: tuple[int, ...], weights: _Weights, at: Geometry) -> FloatConv:
    n, c, height, width = shape
    o, _, kh, kw = weights.shape
    return FloatConv(n, c, height, width, o, (kh, kw), at.stride, at.dilation, at.padding, at.groups)


_PRODUCTS: Mapping[str, Callable[..., Any]] = {
    "relax.nn.conv1d": FloatKernels.convolution,
    "relax.nn.conv2d": FloatKernels.convolution,
    CONV2D_TRANSPOSED: FloatKernels.transposed,
    MAX_POOL_RESCALE: FloatKernels.max_pool,
    "relax.matmul": FloatKernels.product,
}
