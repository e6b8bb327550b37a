"""Linear operators: the multiplier goes through the transposed map (DeepLIFT, 1704.02685, section 3.5.1).

A product of two tensors that both vary takes each factor's mean over the two runs, which is exact:
``a b - a0 b0 = (a - a0) mean(b) + (b - b0) mean(a)``.
"""

from __future__ import annotations

from typing import Any

from tvm import relax

from relay_passes.attribution.kernels import conv2d_input_multiplier
from relay_passes.attribution.rules.base import Context
from relay_passes.ops import shape_of


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
    """``g W^T`` with weights that do not vary."""
    if call.args[1] in context.active or call.args[0] not in context.active or len(shape_of(call.args[1])) != 2:
        raise NotImplementedError("only a product with constant weights of two dimensions on the right has a rule yet")
    return [context.emit(relax.op.matmul(g, context.emit(relax.op.permute_dims(call.args[1])))), None]


def conv2d(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """The transposed convolution with the effective (dequantised) weights."""
    if call.attrs.data_layout != "NCHW" or call.args[1] in context.active:
        raise NotImplementedError("only NCHW convolutions with constant weights have a rule yet")
    return [context.emit(conv2d_input_multiplier(g, call.args[1], shape_of(call.args[0]), call.attrs)), None]


LINEAR = {
    "relax.add": add,
    "relax.subtract": subtract,
    "relax.multiply": multiply,
    "relax.divide": divide,
    "relax.matmul": matmul,
    "relax.nn.conv2d": conv2d,
}
