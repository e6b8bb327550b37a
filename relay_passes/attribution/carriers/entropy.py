"""``Entropy``: the entropy of the paths to the output, each as probable as its absolute weight is large.

Of paths with absolute weights w let ``p = sum w`` and ``e = sum w log w``. A path picked with probability ``w / p`` has
the entropy ``-sum w/p log(w/p) = log p - e/p``. Pairs (p, e) are a semiring (Li and Eisner 2009, D09-1005; Du et al.
2023, 2307.03056): ``(p1, e1) + (p2, e2) = (p1 + p2, e1 + e2)``, ``(p1, e1) (p2, e2) = (p1 p2, p1 e2 + p2
e1)``, an edge of weight w being ``(|w|, |w| log |w|)``, ``0 log 0 = 0``. So back through a linear map W go
``p' = |W|' p`` and ``e' = |W|' e + (|W| log |W|)' p``: three real maps.

To divide all weights by s changes no probability: ``p / s`` and ``(e - p log s) / s`` have the same entropy. That keeps
deep networks within float32 (`scaled`), and e small beside which nothing cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.attribution.carriers.base import Carrier, LinearMap
from relay_passes.attribution.carriers.scaled import aligned, exponent, power, sum_of
from relay_passes.attribution.carriers.windows import taps, window_sum
from relay_passes.attribution.rules.base import Context
from relay_passes.ops import constant, literal, shape_of

_LOG2 = math.log(2)


@dataclass(frozen=True)
class Weighed:
    """Sums over the paths from each element.

    Attributes
    ----------
    p, e : expression
        Sum of absolute weights over ``s``, and of these times their logarithms.
    exponent : expression or None
        int32 (1,), ``s = 2 ** exponent``; None for 1.
    """

    p: Any
    e: Any
    exponent: Any = None


def with_log_array(weights: Any) -> Any:
    """``|w| log |w|`` in NumPy."""
    size = np.abs(weights).astype(np.float64)
    return (size * np.log(np.where(size > 0, size, 1))).astype(np.float32)


def with_log(context: Context, size: Any) -> Any:
    """``w log w`` of weights that are not below 0."""
    zero, one = literal(np.float32(0)), literal(np.float32(1))
    positive = context.emit(relax.op.greater(size, zero))
    logarithm = context.emit(relax.op.log(context.emit(relax.op.where(positive, size, one))), "log")
    return context.emit(relax.op.multiply(size, logarithm), "surprise")


class Entropy(Carrier):
    """Pairs (p, e) as above."""

    def seed(self, context: Context, expr: Any) -> Weighed:
        """Edges from the output's elements to the target."""
        size = context.emit(relax.op.abs(expr))
        return Weighed(size, with_log(context, size))

    def scale(self, context: Context, g: Weighed, factor: Any) -> Weighed:
        """One edge for each element."""
        size = context.emit(relax.op.abs(factor))
        late = context.emit(relax.op.multiply(g.p, with_log(context, size)))
        e = context.emit(relax.op.add(context.emit(relax.op.multiply(g.e, size)), late), "e")
        return Weighed(context.emit(relax.op.multiply(g.p, size), "p"), e, g.exponent)

    def move(self, context: Context, g: Weighed, f: Callable[[Any], Any]) -> Weighed:
        """Both moved."""
        return Weighed(context.emit(f(g.p), "p"), context.emit(f(g.e), "e"), g.exponent)

    def total(self, context: Context, g: Weighed, axes: list[int]) -> Weighed:
        """Both sums."""
        p, e = (context.emit(relax.op.sum(v, axes, keepdims=True), "sum") for v in (g.p, g.e))
        return Weighed(p, e, g.exponent)

    def linear(self, context: Context, g: Weighed, through: LinearMap, x: Any) -> Weighed:
        """Three transposes, two of them of what was made of the weights."""
        if through.kind == "max_pool":
            return self._max_pool(context, g, through)
        if (weights := constant(through.weights)) is not None:
            # Folded, for kernels that pack weights want constants; low-bit ones are no constants and stay packed.
            through = replace(through, weights=np.asarray(weights, np.float32))
        size = through.absolute(context)
        late = through.mapped(context, with_log_array, lambda w: with_log(context, context.emit(relax.op.abs(w))))
        if weights is not None:
            size, late = (replace(t, weights=literal(t.weights)) for t in (size, late))
        e = context.emit(relax.op.add(size.at(context, g.e), late.at(context, g.p)), "e")
        found = Weighed(size.at(context, g.p), e, g.exponent)
        return found if through.kind == "take" else normalised(context, found)

    def _max_pool(self, context: Context, g: Weighed, through: LinearMap) -> Weighed:
        if len(tensors := taps(context, through, shape_of(g.p))) == 1:  # weights 0 and 1, whose w log w is 0
            return Weighed(through.at(context, g.p), through.at(context, g.e), g.exponent)
        shape = shape_of(through.operands[0])

        def back(v: Any, f: Callable[[Any], Any]) -> Any:
            at, share, at0, share0 = tensors
            return context.emit(window_sum(v, [at, f(share), at0, f(share0)], shape, through.call))

        def size(w: Any) -> Any:
            return context.emit(relax.op.abs(w))

        late = back(g.p, lambda w: with_log(context, size(w)))
        return Weighed(back(g.p, size), context.emit(relax.op.add(back(g.e, size), late), "e"), g.exponent)

    def add(self, context: Context, a: Weighed, b: Weighed) -> Weighed:
        """Both sums, of one scale."""
        top, factors = aligned(context, [a.exponent, b.exponent])
        parts = [_divided(context, g, top, factor) for g, factor in zip((a, b), factors, strict=True)]
        p, e = (context.emit(relax.op.add(*both)) for both in zip(*parts, strict=True))
        return Weighed(p, e, top)

    def shape(self, g: Weighed) -> tuple[int, ...]:
        """Of both."""
        return shape_of(g.p)


def _divided(context: Context, g: Weighed, top: Any, factor: Any) -> tuple[Any, Any]:
    """(p, e) of one exponent in another; ``factor`` is the power of two between them, None for 1."""
    if factor is None:
        return g.p, g.e
    own = literal(np.zeros(1, np.int32)) if g.exponent is None else g.exponent
    steps = context.emit(relax.op.astype(context.emit(relax.op.subtract(top, own)), "float32"))
    log = context.emit(relax.op.multiply(steps, literal(np.float32(_LOG2))), "log")
    less = context.emit(relax.op.subtract(g.e, context.emit(relax.op.multiply(g.p, log))))
    return tuple(context.emit(relax.op.multiply(v, factor)) for v in (g.p, less))


def normalised(context: Context, g: Weighed) -> Weighed:
    """The same paths, the largest p between 1 and 2."""
    own = exponent(context, g.p)
    factor = power(context, context.emit(relax.op.negative(own)))
    p, e = _divided(context, Weighed(g.p, g.e), own, factor)
    return Weighed(p, e, sum_of(context, g.exponent, own))


def entropy(context: Context, p: Any, e: Any) -> Any:
    """``log p - e / p`` in nats; 0 where there is no path."""
    zero, one = literal(np.float32(0)), literal(np.float32(1))
    some = context.emit(relax.op.greater(p, zero))
    over = context.emit(relax.op.where(some, p, one))
    log, mean = context.emit(relax.op.log(over)), context.emit(relax.op.divide(e, over))
    # Of a single path rounding may leave less than 0.
    found = context.emit(relax.op.maximum(context.emit(relax.op.subtract(log, mean)), zero))
    return context.emit(relax.op.where(some, found, zero), "entropy")
