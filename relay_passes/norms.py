"""``NORMS``: normalisations written out: centred, squared, averaged, inverse root, product, scaled and shifted.

TVM's kernels take a variance for the mean of squares less the square of the mean, in float32. Where values lie far from
0 that leaves little of it: rows between 1000 and 1001 come out wrong in the second digit. Written out, operators fuse
as any others, explanations need no rule but those of the parts, and their differences are those of the outputs.

Means are summed in float64, for a mean that is off by its rounding shifts all that it is taken from alike: behind a
small deviation, that is no rounding error of the output any more. A sum is one addition after the other in either type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.ops import constant, literal, op_name, shape_of

# emit(expr, part) binds an expression under the name of a part; programs return their last one unbound.
Emit = Callable[[Any, str], Any]
Program = Callable[..., Any]


def layer_norm(emit: Emit, call: Any, x: Any, gamma: Any, beta: Any) -> Any:
    """Along axes that scale and shift have, too."""
    axes = _axes(call.attrs.axes, x)
    return _affine(emit, call, _normalised(emit, call, x, axes), gamma, beta, axes)


def instance_norm(emit: Emit, call: Any, x: Any, gamma: Any, beta: Any) -> Any:
    """Along the pixels; scale and shift by channels."""
    axes, channel = _axes(call.attrs.axes, x), _axes([call.attrs.channel_axis], x)
    return _affine(emit, call, _normalised(emit, call, x, axes), gamma, beta, channel)


def group_norm(emit: Emit, call: Any, x: Any, gamma: Any, beta: Any) -> Any:
    """Along the pixels and channels of each group; scale and shift by channels."""
    shape, groups = shape_of(x), int(call.attrs.num_groups)
    (channel,) = _axes([call.attrs.channel_axis], x)
    wide = [*shape[:channel], groups, shape[channel] // groups, *shape[channel + 1 :]]
    axes = [channel + 1, *(a + (a > channel) for a in _axes(call.attrs.axes, x) if a != channel)]
    y = _normalised(emit, call, emit(relax.op.reshape(x, relax.ShapeExpr(wide)), "groups"), sorted(axes))
    y = relax.op.reshape(emit(y, "normalised"), relax.ShapeExpr(list(shape)))
    return _affine(emit, call, y, gamma, beta, [channel])


def rms_norm(emit: Emit, call: Any, x: Any, weight: Any) -> Any:
    """By the mean square, not centred; scaled."""
    axes = _axes(call.attrs.axes, x)
    y = emit(_scaled(emit, call, x, axes), "normalised")
    return relax.op.multiply(y, _along(emit, weight, y, axes))


def variance(emit: Emit, call: Any, x: Any) -> Any:
    """Centred, squared, averaged."""
    axes = _axes(call.attrs.axis, x)
    return _mean_square(emit, emit(_less_mean(emit, x, axes), "centred"), axes, bool(call.attrs.keepdims))


def deviation(emit: Emit, call: Any, x: Any) -> Any:
    """The root of the variance."""
    return relax.op.sqrt(emit(variance(emit, call, x), "variance"))


NORMS: Mapping[str, Program] = {
    "relax.nn.layer_norm": layer_norm,
    "relax.nn.instance_norm": instance_norm,
    "relax.nn.group_norm": group_norm,
    "relax.nn.rms_norm": rms_norm,
    "relax.variance": variance,
    "relax.std": deviation,
}


def is_norm(value: Any) -> bool:
    """Whether a value is to be written out."""
    return op_name(value) in NORMS and all(str(e.ty.dtype) == "float32" for e in value.args)


def centred(value: Any, lookup: Any) -> Any:
    """``x - mean(x)`` as norms have it. A row of `canonicalize.REWRITES`."""
    if op_name(value) != "relax.subtract" or not isinstance(value.args[1], relax.Var):
        return value
    x, mean = value.args[0], lookup(value.args[1])
    averaged = op_name(mean) == "relax.mean" and mean.args[0].same_as(x) and mean.attrs.keepdims
    if not averaged or str(x.ty.dtype) != "float32":
        return value
    return _less_mean(lambda expr, part: expr, x, _axes(mean.attrs.axis, x))


def written_out(call: Any, emit: Emit) -> Any | None:
    """What a normalisation computes.

    Parameters
    ----------
    call : expression
        Any call.
    emit : callable
        ``emit(expr, part)`` binds one of its parts.

    Returns
    -------
    expression or None
        Of the call's shape, not bound yet; None where it is no row of `NORMS`, or not float32.
    """
    return NORMS[op_name(call)](emit, call, *call.args) if is_norm(call) else None


def _axes(axes: Any, x: Any) -> list[int]:
    rank = len(shape_of(x))
    return sorted(int(a) % rank for a in axes) if axes is not None else list(range(rank))


def _wide(emit: Emit, x: Any) -> Any:
    """In float64: a cast for each reader, which becomes a part of its loop."""
    return emit(relax.op.astype(x, "float64"), "wide")


def _less_mean(emit: Emit, x: Any, axes: list[int]) -> Any:
    mean = emit(relax.op.mean(_wide(emit, x), axes, keepdims=True), "mean")
    return relax.op.astype(emit(relax.op.subtract(_wide(emit, x), mean), "difference"), "float32")


def _mean_square(emit: Emit, x: Any, axes: list[int], keepdims: bool = True) -> Any:
    squares = _wide(emit, emit(relax.op.multiply(x, x), "squares"))
    return relax.op.astype(emit(relax.op.mean(squares, axes, keepdims=keepdims), "mean"), "float32")


def _normalised(emit: Emit, call: Any, x: Any, axes: list[int]) -> Any:
    return _scaled(emit, call, emit(_less_mean(emit, x, axes), "centred"), axes)


def _scaled(emit: Emit, call: Any, x: Any, axes: list[int]) -> Any:
    squares = emit(_mean_square(emit, x, axes), "variance")
    shifted = emit(relax.op.add(squares, literal(np.float32(call.attrs.epsilon))), "shifted")
    return relax.op.multiply(x, emit(relax.op.rsqrt(shifted), "inverse"))


def _affine(emit: Emit, call: Any, y: Any, gamma: Any, beta: Any, axes: list[int]) -> Any:
    if call.attrs.scale:
        y = emit(y, "normalised")
        y = relax.op.multiply(y, _along(emit, gamma, y, axes))
    if call.attrs.center:
        y = emit(y, "scaled")
        y = relax.op.add(y, _along(emit, beta, y, axes))
    return y


def _along(emit: Emit, factors: Any, x: Any, axes: Sequence[int]) -> Any:
    """A tensor of the extents of these axes, to broadcast with x."""
    shape = [extent if i in axes else 1 for i, extent in enumerate(shape_of(x))]
    array = constant(factors)
    if array is not None:
        return literal(array.reshape(shape))
    return emit(relax.op.reshape(factors, relax.ShapeExpr(shape)), "factors")
