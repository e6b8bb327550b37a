"""``FloatKernels``: products that stay float, and those of explanations, get kernels that round alike everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax, tirx

from relay_passes import ops
from relay_passes.attribution.kernels import CONV2D_TRANSPOSED, MAX_POOL_GRADIENT, MAX_POOL_RESCALE
from relay_passes.dataflow import Scope
from relay_passes.forms import call_kernel
from relay_passes.integer_forms.products import wrong_layout
from relay_passes.ops import constant, literal, op_name, quant_spec, shape_of
from relay_passes.problem import Geometry
from schedules import float_block, float_dense
from schedules.cores import CoreSpec
from schedules.float_block import conv_kernel, width
from schedules.float_dense import dense_kernel, pack_dense
from schedules.float_pack import named_sources, pack_block, pack_dense_kernel, pack_kernel
from schedules.float_pool import max_pool_kernel, pool_plan
from schedules.float_taps import FloatConv, TapPlan, forward, pack, packed_shape, transpose

# What makes an expression of one weight code from a buffer of packed ones, and that constant.
CodeAt = Callable[..., Any]
Unpacking = Callable[[Any], "tuple[npt.NDArray[Any], CodeAt] | None"]


def _unread(buffers: Any, *at: Any) -> Any:
    raise AssertionError("constants are packed when they are compiled")


@dataclass(frozen=True)
class _Weights:
    """Where a product's weights are.

    Either the ``array`` of a constant, to which kernels apply ``function``; or ``sources``, arrays and variables, and
    ``read(buffers, *place)``, one weight as an expression of them.
    """

    shape: tuple[int, ...]
    sources: tuple[Any, ...] = ()
    read: Callable[..., Any] = _unread
    array: npt.NDArray[np.float32] | None = None
    function: Callable[[Any], Any] | None = None

    @property
    def finite(self) -> bool:
        """Whether none is infinite or no number, as far as is known when they are compiled."""
        return all(isinstance(source, np.ndarray) and np.isfinite(source).all() for source in self.sources)

    def permuted(self, axes: Sequence[int]) -> _Weights:
        """With their axes in another order."""
        back = [list(axes).index(i) for i in range(len(axes))]
        array = None if self.array is None else self.array.transpose(axes)
        shape, read = tuple(self.shape[axis] for axis in axes), self.read
        return replace(self, shape=shape, array=array, read=lambda b, *at: read(b, *(at[i] for i in back)))

    def with_height(self) -> _Weights:
        """A kernel of one dimension as one of height 1."""
        o, c, taps = self.shape
        array, read = None if self.array is None else self.array.reshape(o, c, 1, taps), self.read
        return replace(self, shape=(o, c, 1, taps), array=array, read=lambda b, o, c, y, x: read(b, o, c, x))

    def absolute(self) -> _Weights:
        """Their magnitudes."""
        read = self.read
        return replace(self, function=tirx.abs, read=lambda b, *at: tirx.abs(read(b, *at)))


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
        taken = operator in _PRODUCTS and (self.width is not None or operator in _ANYWHERE)
        if not taken or {str(e.ty.dtype) for e in (call, *call.args)} != {"float32"}:
            return None
        return _PRODUCTS[operator](self, self.values[var], call, name, scope)

    def convolution(self, old: Any, call: Any, name: str, scope: Scope) -> Any:
        """A convolution of one or two dimensions."""
        if wrong_layout(call) is not None:
            return None
        weights = self.weights(old.args[1]) or _given(call.args[1])
        x, shape, flat = call.args[0], shape_of(call), len(weights.shape) == 3
        if flat:
            weights = weights.with_height()
            n, c, size = shape_of(x)
            x = scope.emit(relax.op.reshape(x, relax.ShapeExpr([n, c, 1, size])), f"{name}/image")
        result = self._convolve(forward(_conv(shape_of(x), weights, Geometry.of(call.attrs))), x, weights, name, scope)
        return scope.emit(relax.op.reshape(result, relax.ShapeExpr(list(shape))), name) if flat else result

    def transposed(self, old: Any, call: Any, name: str, scope: Scope) -> Any:
        """The multipliers at a convolution's input from those at its output."""
        weights, a = self.weights(old.args[1]) or _given(call.args[1]), call.attrs
        (sy, sx), (dy, dx), sides = ([int(v) for v in a[key]] for key in ("stride", "dilation", "padding"))
        at = Geometry((sy, sx), (dy, dx), (sides[0], sides[1], sides[2], sides[3]), int(a["groups"]))
        conv = _conv(shape_of(call), weights, at)
        if shape_of(call.args[0])[2:] != conv.out_size:
            return None
        # Float weights are the constant of the convolution itself, so that the library holds them once.
        stored = None if weights.array is None else forward(conv)
        return self._convolve(transpose(conv), call.args[0], weights, name, scope, stored)

    def max_pool(self, old: Any, call: Any, name: str, scope: Scope) -> Any:
        """The multipliers at a max pooling's input, with or without a reference."""
        a, (g, x, *reference) = call.attrs, call.args
        kernel, stride, dilation = ((int(v[0]), int(v[1])) for v in (a["kernel"], a["stride"], a["dilation"]))
        top, left, bottom, right = (int(v) for v in a["padding"])
        (n, c, height, width), (_, _, rows, columns) = shape_of(x), shape_of(g)
        window = FloatConv(n, c, height, width, c, kernel, stride, dilation, (top, left, bottom, right), c)
        there = shape_of(reference[0]) if reference else None
        kernel = max_pool_kernel(pool_plan(window, (rows, columns)), there, self.core)
        return call_kernel(scope, kernel, "max_pool_backwards", list(call.args), shape_of(x), "float32", name)

    def product(self, old: Any, call: Any, name: str, scope: Scope) -> Any:
        """A matrix product with weights on the right."""
        weights = self.weights(old.args[1]) or _given(call.args[1])
        x, shape = call.args[0], shape_of(call)
        if len(weights.shape) != 2 or len(shape_of(x)) < 2 or self.width is None:
            return None
        k, outputs = weights.shape
        rows = prod(shape[:-1])
        if len(shape) > 2:
            x = scope.emit(relax.op.reshape(x, relax.ShapeExpr([rows, k])), f"{name}/rows")
        channels = float_dense.block(rows, outputs, self.width)[1] * self.width.lanes
        unpacked, panels = None, _sources(weights)
        if weights.array is not None:
            array = weights.array if weights.function is None else np.abs(weights.array)
            panels = [literal(pack_dense(array, channels))]
        elif float_dense.rows_at_once(rows, outputs, self.width) and weights.finite:
            unpacked = named_sources(_named(weights)), weights.read
        else:
            kernel = pack_dense_kernel(k, outputs, channels, _named(weights), weights.read)
            panels = [_panel(kernel, weights, (-(-outputs // channels), k, channels), name, scope)]
        kernel = dense_kernel(rows, k, outputs, self.core, unpacked)
        result = call_kernel(scope, kernel, "float_dense", [x, *panels], (rows, outputs), "float32", name)
        if len(shape) == 2:
            return result
        return scope.emit(relax.op.reshape(result, relax.ShapeExpr(list(shape))), name)

    def _convolve(
        self, plan: TapPlan, x: Any, weights: _Weights, name: str, scope: Scope, stored: TapPlan | None = None
    ) -> Any:
        assert self.width is not None
        packed = stored or plan
        channels = float_block.block(packed, self.width)[1]
        applied, unpacked = None, None
        if weights.array is not None:
            panels, applied = [literal(pack(packed, weights.array, channels))], weights.function
        elif plan.batch == float_block.images_beside(plan):  # all images read a block while it is in the caches
            unpacked = named_sources(_named(weights)), pack_block(plan, channels, weights.read)
            panels = _sources(weights)
        else:  # image after image reads all of them
            kernel = pack_kernel(packed, channels, _named(weights), weights.read)
            panels = [_panel(kernel, weights, packed_shape(packed, channels), name, scope)]
        shape = (plan.batch, plan.groups * plan.outputs, *plan.out_size)
        kernel = conv_kernel(plan, self.core, stored, applied, unpacked)
        hint = "float_conv_transposed" if plan.transposed else "float_conv"
        return call_kernel(scope, kernel, hint, [x, *panels], shape, "float32", name)

    def weights(self, expr: Any) -> _Weights | None:
        """What is known of a product's weights; ``expr`` is of the old program."""
        array = constant(expr)
        if array is not None:
            return None if str(array.dtype) != "float32" else _Weights(array.shape, array=array)
        value: Any = self.values.get(expr)
        operator = op_name(value)
        if operator == "relax.abs":
            found = self.weights(value.args[0])
            return None if found is None else found.absolute()
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


def _given(expr: Any) -> _Weights:
    """Weights that the program computes."""
    # A factor of 1: of a kernel that reads one argument only, TVM asks whether it is a reshape, and fails on loops.
    factor = np.ones(1, np.float32)
    return _Weights(shape_of(expr), (expr, factor), lambda buffers, *at: buffers[0][at] * buffers[1][0])


def _named(weights: _Weights) -> list[tuple[tuple[int, ...], str]]:
    """Shapes and types of what weights are read from."""
    return [
        (a.shape, str(a.dtype)) if isinstance(a, np.ndarray) else (shape_of(a), str(a.ty.dtype))
        for a in weights.sources
    ]


def _panel(kernel: Any, weights: _Weights, shape: tuple[int, ...], name: str, scope: Scope) -> Any:
    """Emit the packing of weights into a scratch panel."""
    return call_kernel(scope, kernel, "float_weights", _sources(weights), shape, "float32", f"{name}/weights")


def _sources(weights: _Weights) -> list[Any]:
    return [literal(a) if isinstance(a, np.ndarray) else a for a in weights.sources]


def _conv(shape: tuple[int, ...], weights: _Weights, at: Geometry) -> FloatConv:
    n, c, height, width = shape
    o, _, kh, kw = weights.shape
    return FloatConv(n, c, height, width, o, (kh, kw), at.stride, at.dilation, at.padding, at.groups)


# They multiply no sums: cores without fused multiply-adds have them too.
_ANYWHERE = frozenset({MAX_POOL_RESCALE, MAX_POOL_GRADIENT})
_PRODUCTS: Mapping[str, Callable[..., Any]] = {
    "relax.nn.conv1d": FloatKernels.convolution,
    "relax.nn.conv2d": FloatKernels.convolution,
    CONV2D_TRANSPOSED: FloatKernels.transposed,
    MAX_POOL_RESCALE: FloatKernels.max_pool,
    MAX_POOL_GRADIENT: FloatKernels.max_pool,
    "relax.matmul": FloatKernels.product,
}
