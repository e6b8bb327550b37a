"""Converters of aten operators that TVM's torch front end gets wrong, lacks, or writes so that patterns cannot see it.

``CONVERTERS`` maps the name of an operator with its overload to ``converter(node, importer)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import fx
from tvm import relax

from relay_passes.ops import constant, literal

Converter = Callable[[fx.Node, Any], Any]


def _dtype(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _meta(argument: Any) -> Any:
    return argument.meta["val"] if isinstance(argument, fx.Node) else argument


def as_dtype(importer: Any, value: Any, dtype: str) -> Any:
    """A number or tensor expression as a tensor expression of a type."""
    if not isinstance(value, relax.Expr):
        return literal(np.asarray(value, dtype))
    if constant(value) is not None:
        return literal(constant(value).astype(dtype))
    return value if str(value.ty.dtype) == dtype else importer.emit(relax.op.astype(value, dtype))


def _promoted(compute: Callable[[fx.Node], torch.dtype], operation: Callable[[Any, Any], Any]) -> Converter:
    """A binary operator with torch's promotion of types, numbers and ``alpha`` included."""

    def convert(node: fx.Node, importer: Any) -> Any:
        dtype = _dtype(compute(node))
        a, b = (as_dtype(importer, value, dtype) for value in importer.retrieve_args(node)[:2])
        alpha = node.kwargs.get("alpha", 1)
        if alpha != 1:
            b = importer.emit(relax.op.multiply(b, literal(np.asarray(alpha, dtype))))
        return importer.emit(operation(a, b))

    return convert


def _arithmetic(operation: Callable[[Any, Any], Any]) -> Converter:
    return _promoted(lambda node: _meta(node).dtype, operation)


def _comparison(operation: Callable[[Any, Any], Any]) -> Converter:
    return _promoted(lambda node: torch.result_type(*map(_meta, node.args[:2])), operation)


def _reversed_subtract(a: Any, b: Any) -> Any:
    return relax.op.subtract(b, a)


def _clamp(node: fx.Node, importer: Any) -> Any:
    """One ``relax.clip`` where the bounds are numbers; tensors of bounds stay visible as minimum and maximum."""
    arguments = (*importer.retrieve_args(node), None, None)[:3]
    named = {key: importer.env[v] if isinstance(v, fx.Node) else v for key, v in node.kwargs.items()}
    return _clipped(node, importer, arguments[0], named.get("min", arguments[1]), named.get("max", arguments[2]))


def _clamp_max(node: fx.Node, importer: Any) -> Any:
    x, high = importer.retrieve_args(node)[:2]
    return _clipped(node, importer, x, None, high)


def _clipped(node: fx.Node, importer: Any, x: Any, low: Any, high: Any) -> Any:
    dtype = _dtype(_meta(node).dtype)
    x = as_dtype(importer, x, dtype)
    numbers = [_uniform(bound, default) for bound, default in ((low, -np.inf), (high, np.inf))]
    if all(number is not None for number in numbers) and shape_or_none(x) == shape_or_none(_meta(node)):
        return importer.emit(relax.op.clip(x, *numbers))
    for bound, operation in ((low, relax.op.maximum), (high, relax.op.minimum)):
        if bound is not None:
            x = importer.emit(operation(x, as_dtype(importer, bound, dtype)))
    return x


def shape_or_none(value: Any) -> tuple[int, ...] | None:
    """A static shape of an expression or a fake tensor, else None."""
    try:
        return tuple(int(d) for d in (value.ty.shape if isinstance(value, relax.Expr) else value.shape))
    except (TypeError, ValueError):
        return None


def _uniform(bound: Any, default: float) -> float | None:
    """The number that a bound is everywhere; None if it varies, is NaN or computed."""
    if bound is None:
        return default
    array = constant(bound) if isinstance(bound, relax.Expr) else np.asarray(bound)
    if array is None or array.size == 0 or not np.all(array == array.flat[0]):
        return None
    return float(array.flat[0])


# Comparisons that choose an operand of theirs: (comparison, first operand chosen) to what they compute.
_CHOICES = {
    **{(name, True): relax.op.maximum for name in ("gt", "ge")},
    **{(name, False): relax.op.minimum for name in ("gt", "ge")},
    **{(name, True): relax.op.minimum for name in ("lt", "le")},
    **{(name, False): relax.op.maximum for name in ("lt", "le")},
}


def _where(node: fx.Node, importer: Any) -> Any:
    """``where``, types promoted; ``where(x > b, b, x)`` is a minimum, as Brevitas writes its clamps."""
    dtype = _dtype(_meta(node).dtype)
    condition, chosen, other = node.args
    x, y = (as_dtype(importer, importer.retrieve_args(node)[i], dtype) for i in (1, 2))
    compared = getattr(condition, "args", (None, None))[:2]
    name = getattr(condition.target, "__name__", "").split(".")[0]
    for first in (True, False):
        if (chosen, other) == (compared if first else compared[::-1]) and (name, first) in _CHOICES:
            return importer.emit(_CHOICES[name, first](x, y))
    return importer.emit(relax.op.where(importer.env[condition], x, y))


def _select(node: fx.Node, importer: Any) -> Any:
    x, axis, index = importer.retrieve_args(node)[:3]
    axis %= len(x.ty.shape)
    index = index + int(x.ty.shape[axis]) if index < 0 else index
    return importer.emit(relax.op.take(x, literal(np.int64(index)), axis))


def _slice(node: fx.Node, importer: Any) -> Any:
    """Brevitas takes all of a weight's channels; the rest is TVM's."""
    if shape_or_none(_meta(node)) == shape_or_none(_meta(node.args[0])) is not None:
        return importer.env[node.args[0]]
    return importer._slice(node)


def _extreme(operation: Callable[..., Any]) -> Converter:
    def convert(node: fx.Node, importer: Any) -> Any:
        x, axes, keep = (*importer.retrieve_args(node), [], False)[:3]
        return importer.emit(operation(x, axis=list(axes) or None, keepdims=bool(keep)))

    return convert


def _avg_pool2d(node: fx.Node, importer: Any) -> Any:
    """TVM's, and the divisor that it ignores."""
    divisor = node.args[6] if len(node.args) > 6 else node.kwargs.get("divisor_override")
    if divisor is None:
        return importer._avg_pool2d(node)
    given = list(node.args[1:5])
    kernel, stride, padding, ceil_mode = given + [None, None, 0, False][len(given) :]
    pooled = importer._avg_pool2d_impl(importer.env[node.args[0]], kernel, stride, padding, ceil_mode, True)
    return importer.emit(relax.op.multiply(pooled, literal(np.float32(kernel[0] * kernel[-1] / divisor))))


def _elu(node: fx.Node, importer: Any) -> Any:
    """TVM's, and the two scales that it ignores: SELU is one with both."""
    x, *numbers = importer.retrieve_args(node)
    alpha, scale, input_scale = (float(v) for v in (numbers + [1, 1, 1][len(numbers) :]))
    if scale == input_scale == 1:
        return importer._elu(node)
    below = importer.emit(relax.op.clip(x, -np.inf, 0))
    bent = importer.emit(relax.op.exp(importer.emit(relax.op.multiply(below, literal(np.float32(input_scale))))))
    bent = importer.emit(relax.op.subtract(bent, literal(np.float32(1))))
    bent = importer.emit(relax.op.multiply(bent, literal(np.float32(alpha * scale))))
    straight = importer.emit(relax.op.multiply(importer.emit(relax.op.nn.relu(x)), literal(np.float32(scale))))
    return importer.emit(relax.op.add(straight, bent))


def _same(node: fx.Node, importer: Any) -> Any:
    return importer.env[node.args[0]]


_BINARY: dict[str, Converter] = {
    "add": _arithmetic(relax.op.add),
    "sub": _arithmetic(relax.op.subtract),
    "mul": _arithmetic(relax.op.multiply),
    "div": _arithmetic(relax.op.divide),
    "rsub": _arithmetic(_reversed_subtract),
    "gt": _comparison(relax.op.greater),
    "ge": _comparison(relax.op.greater_equal),
    "lt": _comparison(relax.op.less),
    "le": _comparison(relax.op.less_equal),
    "eq": _comparison(relax.op.equal),
    "ne": _comparison(relax.op.not_equal),
}
CONVERTERS: Mapping[str, Converter] = MappingProxyType(
    {
        **{f"{name}.{kind}": convert for name, convert in _BINARY.items() for kind in ("Tensor", "Scalar")},
        "minimum.default": _arithmetic(relax.op.minimum),
        "maximum.default": _arithmetic(relax.op.maximum),
        "clamp.default": _clamp,
        "clamp.Tensor": _clamp,
        "clamp_min.default": _clamp,
        "clamp_min.Tensor": _clamp,
        "clamp_max.default": _clamp_max,
        "clamp_max.Tensor": _clamp_max,
        "where.self": _where,
        "select.int": _select,
        "slice.Tensor": _slice,
        "amin.default": _extreme(relax.op.min),
        "avg_pool2d.default": _avg_pool2d,
        "elu.default": _elu,
        "alias.default": _same,
        "detach.default": _same,
        "_assert_tensor_metadata.default": _same,
    }
)
