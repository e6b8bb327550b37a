"""Derivatives and closed secants of smooth functions: rows of formulas in the operand x and the result y.

A closed secant equals ``(y - y0) / (x - x0)``, but nothing cancels in it: where x hardly differs from its reference the
quotient of rounded differences is noise, and noise times a large way around (a variance that hardly changes while all
of its elements do) is not small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.ops import literal

# formula(x, y, call): the derivative.
Formula = Callable[[Any, Any, Any], Any]
# formula(x, x0, y, y0, dx, call): the secant; y less y0 is not known without loss, dx is.
Closed = Callable[[Any, Any, Any, Any, Any, Any], Any]

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def number(value: float) -> Any:
    """A float32 constant."""
    return literal(np.float32(value))


def _bell(x: Any) -> Any:
    """The density of the normal distribution."""
    return relax.op.exp(x * x * number(-0.5)) * number(1 / math.sqrt(2 * math.pi))


def _gelu(x: Any, y: Any, call: Any) -> Any:
    below = (relax.op.erf(x * number(math.sqrt(0.5))) + number(1)) * number(0.5)
    return below + x * _bell(x)


def _gelu_tanh(x: Any, y: Any, call: Any) -> Any:
    k, c = math.sqrt(2 / math.pi), 0.044715
    t = relax.op.tanh((x + x * x * x * number(c)) * number(k))
    inner = (number(1) + x * x * number(3 * c)) * number(k)
    return (number(1) + t) * number(0.5) + x * (number(1) - t * t) * inner * number(0.5)


def _silu(x: Any, y: Any, call: Any) -> Any:
    s = relax.op.sigmoid(x)
    return s * (number(1) + x * (number(1) - s))


def _selu(x: Any, y: Any, call: Any) -> Any:
    whole = _SELU_SCALE * _SELU_ALPHA
    return relax.op.where(x > number(0), number(_SELU_SCALE), y + number(whole))


def _power(x: Any, y: Any, call: Any) -> Any:
    exponent = call.args[1]
    return relax.op.power(x, exponent - number(1)) * exponent


def _finite(y: Any) -> Any:
    """What is infinite as a large number: what comes behind may give it no weight, and 0 times it must be 0."""
    return relax.op.minimum(y, number(3.3e38))


SMOOTH: Mapping[str, Formula] = {
    "relax.sigmoid": lambda x, y, call: y * (number(1) - y),
    "relax.tanh": lambda x, y, call: number(1) - y * y,
    "relax.erf": lambda x, y, call: relax.op.exp(-(x * x)) * number(2 / math.sqrt(math.pi)),
    "relax.exp": lambda x, y, call: _finite(y),
    "relax.log": lambda x, y, call: number(1) / x,
    "relax.sqrt": lambda x, y, call: number(0.5) / y,
    "relax.rsqrt": lambda x, y, call: y * y * y * number(-0.5),
    "relax.square": lambda x, y, call: x + x,
    "relax.power": _power,
    "relax.nn.gelu": _gelu,
    "relax.nn.gelu_tanh": _gelu_tanh,
    "relax.nn.silu": _silu,
    "relax.nn.selu": _selu,
    "relax.nn.softplus": lambda x, y, call: relax.op.sigmoid(x * number(call.attrs.beta)),
    "relax.sin": lambda x, y, call: relax.op.cos(x),
    "relax.cos": lambda x, y, call: -relax.op.sin(x),
    "relax.tan": lambda x, y, call: number(1) + y * y,
    "relax.sinh": lambda x, y, call: relax.op.cosh(x),
    "relax.cosh": lambda x, y, call: relax.op.sinh(x),
    "relax.atan": lambda x, y, call: number(1) / (number(1) + x * x),
    "relax.asin": lambda x, y, call: relax.op.rsqrt(number(1) - x * x),
    "relax.acos": lambda x, y, call: -relax.op.rsqrt(number(1) - x * x),
    "relax.asinh": lambda x, y, call: relax.op.rsqrt(x * x + number(1)),
    "relax.acosh": lambda x, y, call: relax.op.rsqrt(x * x - number(1)),
    "relax.atanh": lambda x, y, call: number(1) / (number(1) - x * x),
}


def log_mean(a: Any, b: Any, d: Any) -> Any:
    """The logarithmic mean ``(a - b) / d`` of positive tensors with ``d = log a - log b``; ``a`` where both are equal.

    Near 0 by ``sqrt(a b) sinh(d / 2) / (d / 2)``, whose series to the sixth power is exact to float32 below 1.
    """
    u = d * d * number(0.25)
    series = number(1) + u * number(1 / 6) * (number(1) + u * number(1 / 20) * (number(1) + u * number(1 / 42)))
    near = relax.op.sqrt(a) * relax.op.sqrt(b) * series
    small = relax.op.less(relax.op.abs(d), number(1))
    return relax.op.where(small, near, (a - b) / relax.op.where(small, number(1), d))


def _softplus(x: Any, x0: Any, y: Any, y0: Any, dx: Any, call: Any) -> Any:
    """Of ``log(1 + a)`` with ``a = exp(x)``: the logarithmic mean of both a over that of both ``1 + a``.

    Both are taken over the largest of 1 and a, so that nothing is infinite. From a difference of 1 on nothing cancels
    in the quotient.
    """
    beta = number(call.attrs.beta)
    u, u0, d, rise = x * beta, x0 * beta, dx * beta, (y - y0) * beta
    top = relax.op.maximum(relax.op.maximum(u, u0), number(0))
    a, b, one = (relax.op.exp(v) for v in (u - top, u0 - top, number(0) - top))
    small = relax.op.less(relax.op.abs(d), number(1))
    near = log_mean(a, b, d) / log_mean(one + a, one + b, rise)
    return relax.op.where(small, near, rise / relax.op.where(small, number(1), d))


CLOSED: Mapping[str, Closed] = {
    "relax.exp": lambda x, x0, y, y0, dx, call: log_mean(_finite(y), _finite(y0), dx),
    "relax.log": lambda x, x0, y, y0, dx, call: number(1) / log_mean(x, x0, y - y0),
    "relax.sqrt": lambda x, x0, y, y0, dx, call: number(1) / (y + y0),
    # 1/sqrt(a) - 1/sqrt(b) with v for either: -(v v0)^2 / (v + v0) times a - b.
    "relax.rsqrt": lambda x, x0, y, y0, dx, call: -(y * y0 * (y * y0)) / (y + y0),
    "relax.square": lambda x, x0, y, y0, dx, call: x + x0,
    "relax.nn.softplus": _softplus,
}
