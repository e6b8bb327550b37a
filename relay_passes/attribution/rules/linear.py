"""Linear operators: the multiplier goes through the transposed map (DeepLIFT, 1704.02685, section 3.5.1).

A product of two tensors that both vary takes each factor's mean over the two runs, which is exact:
``a b - a0 b0 = (a - a0) mean(b) + (b - b0) mean(a)``.
"""

from __future__ import annotations

from typing import Any

from tvm import relax

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
    negative = context.emit(relax.op.negative(g))
    return [context.sum_to(g, shape_of(call.args[0])), context.sum_to(negative, shape_of(call.args[1]))]


def multiply(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """G times the other factor's mean."""
    partials: list[Any] = []
    for this, other in ((0, 1), (1, 0)):
        if call.args[this] not in context.active:
            partials.append(None)
            continue
        product = context.emit(relax.op.multiply(g, context.mean(call.args[other])))
        partials.append(context.sum_to(product, shape_of(call.args[this])))
    return partials


def divide(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """G over a divisor that does not vary."""
    if call.args[1] in context.active:
        raise NotImplementedError("its divisor depends on the input")
    return [context.sum_to(context.emit(relax.op.divide(g, call.args[1])), shape_of(call.args[0])), None]


def matmul(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """``g W^T``, or ``W^T g`` where the weights stand on the left; they must not vary."""
    left = call.args[0] not in context.active
    x, weights = call.args[::-1] if left else call.args
    if weights in context.active:
        raise NotImplementedError("only a product with weights that do not depend on the input has a rule yet")
    # Vectors are matrices of one column on the right, of one row on the left.
    g = _unsqueezed(g, [a for a, e in ((-2, call.args[0]), (-1, call.args[1])) if len(shape_of(e)) == 1], context)
    w = _unsqueezed(weights, [0 if left else -1] if len(shape_of(weights)) == 1 else [], context)
    shape = shape_of(x) if len(shape_of(x)) > 1 else (*shape_of(x), 1) if left else (1, *shape_of(x))
    turned = context.emit(relax.op.permute_dims(w, [*range(len(shape_of(w)) - 2), -1, -2]))
    partial = context.sum_to(context.emit(relax.op.matmul(*((turned, g) if left else (g, turned)))), shape)
    partial = _reshaped(partial, shape_of(x), context)
    return [None, partial] if left else [partial, None]


def _unsqueezed(expr: Any, axes: list[int], context: Context) -> Any:
    return context.emit(relax.op.expand_dims(expr, axes)) if axes else expr


def _reshaped(expr: Any, shape: tuple[int, ...], context: Context) -> Any:
    return expr if shape_of(expr) == shape else context.emit(relax.op.reshape(expr, relax.ShapeExpr(list(shape))))


def _with_height(expr: Any, context: Context) -> Any:
    """A tensor of one spatial axis as an image of height 1; others as they are."""
    shape = shape_of(expr)
    return _reshaped(expr, (*shape[:2], 1, *shape[2:]) if len(shape) == 3 else shape, context)


def convolution(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """The transposed convolution with the effective (dequantised) weights."""
    _plain(call, context)
    x = shape_of(call.args[0])
    image = (*x[:2], 1, *x[2:]) if len(x) == 3 else x
    g, weights = (_with_height(e, context) for e in (g, call.args[1]))
    partial = context.emit(conv2d_input_multiplier(g, weights, image, Geometry.of(call.attrs)))
    return [_reshaped(partial, x, context), None]


def transposed(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """The convolution that this one is the transpose of: its weights IOHW are that one's OIHW."""
    _plain(call, context)
    x, at = shape_of(call.args[0]), Geometry.of(call.attrs)
    g, weights = (_with_height(e, context) for e in (g, call.args[1]))
    back = relax.op.nn.conv2d(g, weights, strides=at.stride, padding=at.padding, dilation=at.dilation, groups=at.groups)
    partial = context.emit(back)
    return [_reshaped(partial, x, context), None]


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
    "relax.divide": divide,
    "relax.matmul": matmul,
    "relax.nn.conv1d": convolution,
    "relax.nn.conv2d": convolution,
    "relax.nn.conv1d_transpose": transposed,
    "relax.nn.conv2d_transpose": transposed,
}
