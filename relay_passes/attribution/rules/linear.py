"""Linear operators: the multiplier goes through the transposed map (DeepLIFT, 1704.02685, section 3.5.1).

A product of two tensors that both vary takes each factor's mean over the two runs, which is exact:
``a b - a0 b0 = (a - a0) mean(b) + (b - b0) mean(a)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax

from relay_passes.attribution.carriers.base import LinearMap
from relay_passes.attribution.kernels import conv2d_input_multiplier
from relay_passes.attribution.rules.base import Context
from relay_passes.integer_forms.products import wrong_layout
from relay_passes.ops import shape_of
from relay_passes.problem import Geometry


def add(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """Both summands get g, summed over broadcast axes."""
    return [context.sum_to(g, shape_of(a)) for a in call.args]


def subtract(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """G and -g."""
    return [context.sum_to(g, shape_of(call.args[0])), context.sum_to(context.negative(g), shape_of(call.args[1]))]


def multiply(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """G times what stands for the other factor."""
    partials: list[Any] = []
    for this, other in ((0, 1), (1, 0)):
        if call.args[this] not in context.active:
            partials.append(None)
            continue
        product = context.scale(g, context.middle(call.args[other]))
        partials.append(context.sum_to(product, shape_of(call.args[this])))
    return partials


def negative(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """-g."""
    return [context.negative(g)]


def matmul(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """``g B^T`` at A and ``A^T g`` at B, with what stands for the other factor."""
    partials: list[Any] = [None, None]
    for this, other in ((0, 1), (1, 0)):
        if call.args[this] in context.active:
            through = _factor(call, this, context.middle(call.args[other]))
            partials[this] = context.linear(g, through, call.args[this])
    return partials


def _factor(call: Any, this: int, weights: Any) -> LinearMap:
    """The product as a map of its first (0) or second (1) operand."""

    def transpose(context: Context, g: Any, w: Any) -> Any:
        # Vectors are matrices of one row on the left, of one column on the right.
        g = _unsqueezed(g, [a for a, e in ((-2, call.args[0]), (-1, call.args[1])) if len(shape_of(e)) == 1], context)
        x = shape_of(call.args[this])
        w = _unsqueezed(w, [-1 if this == 0 else 0] if len(shape_of(w)) == 1 else [], context)
        whole = x if len(x) > 1 else (1, *x) if this == 0 else (*x, 1)
        turned = context.emit(relax.op.permute_dims(w, [*range(len(shape_of(w)) - 2), -1, -2]))
        partial = context.emit(relax.op.matmul(*((g, turned) if this == 0 else (turned, g))))
        lead = len(shape_of(partial)) - len(whole)
        along = [i for i, e in enumerate(shape_of(partial)) if i < lead or (whole[i - lead] == 1 and e > 1)]
        partial = context.emit(relax.op.sum(partial, along)) if along else partial
        return relax.op.reshape(partial, relax.ShapeExpr(list(x)))

    def forward(context: Context, x: Any, w: Any) -> Any:
        return relax.op.matmul(*((x, w) if this == 0 else (w, x)))

    return LinearMap("matmul", weights, transpose, forward, call, (this,))


def _unsqueezed(expr: Any, axes: list[int], context: Context) -> Any:
    return context.emit(relax.op.expand_dims(expr, axes)) if axes else expr


def _reshaped(expr: Any, shape: tuple[int, ...], context: Context) -> Any:
    return expr if shape_of(expr) == shape else context.emit(relax.op.reshape(expr, relax.ShapeExpr(list(shape))))


def _with_height(expr: Any, context: Context) -> Any:
    """A tensor of one spatial axis as an image of height 1; others as they are."""
    shape = shape_of(expr)
    return _reshaped(expr, (*shape[:2], 1, *shape[2:]) if len(shape) == 3 else shape, context)


def _again(call: Any) -> Callable[[Context, Any, Any], Any]:
    """The call with another operand and other weights."""
    return lambda context, x, w: type(call)(call.op, [x, w, *call.args[2:]], attrs=call.attrs)


def convolution(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """The transposed convolution with the effective (dequantised) weights."""
    _plain(call, context)
    x = shape_of(call.args[0])
    image = (*x[:2], 1, *x[2:]) if len(x) == 3 else x

    def transpose(context: Context, g: Any, w: Any) -> Any:
        g, w = (_with_height(e, context) for e in (g, w))
        back = conv2d_input_multiplier(g, w, image, Geometry.of(call.attrs))
        return back if image == x else relax.op.reshape(context.emit(back), relax.ShapeExpr(list(x)))

    through = LinearMap("conv", call.args[1], transpose, _again(call), call)
    return [context.linear(g, through, call.args[0]), None]


def transposed(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """The convolution that this one is the transpose of: its weights IOHW are that one's OIHW."""
    _plain(call, context)
    x, at = shape_of(call.args[0]), Geometry.of(call.attrs)

    def transpose(context: Context, g: Any, w: Any) -> Any:
        g, w = (_with_height(e, context) for e in (g, w))
        back = relax.op.nn.conv2d(g, w, strides=at.stride, padding=at.padding, dilation=at.dilation, groups=at.groups)
        return back if len(x) == 4 else relax.op.reshape(context.emit(back), relax.ShapeExpr(list(x)))

    through = LinearMap("conv_transpose", call.args[1], transpose, _again(call), call)
    return [context.linear(g, through, call.args[0]), None]


def _plain(call: Any, context: Context) -> None:
    reason = wrong_layout(call)
    if reason is not None:
        raise NotImplementedError(reason.reason)
    if call.args[1] in context.active:
        raise NotImplementedError("only a convolution with weights that do not depend on the input has a rule yet")


LINEAR = {
    "relax.add": add,
    "relax.subtract": subtract,
    "relax.multiply": multiply,
    "relax.negative": negative,
    "relax.matmul": matmul,
    "relax.nn.conv1d": convolution,
    "relax.nn.conv2d": convolution,
    "relax.nn.conv1d_transpose": transposed,
    "relax.nn.conv2d_transpose": transposed,
}
