"""``Path``: the best single path from each element to the output, its weight the product of its edges.

Weights have signs, and (max, times) over signed numbers is no semiring: what is largest before a negative factor is
smallest behind it. So the largest and the smallest go together (2307.03056), the smallest negated: see `path_kernels`.
Every verb of a rule is one edge for each pair of elements that it joins; two verbs that join the same elements, as
composite rules may, are two edges. An edge of weight 0 is none: no path leads through a dead ReLU.

A step back notes how to go on from its elements towards the output, so that the best path can be followed afterwards
(`follow`) for a handful of elements alone; no pointer is kept for any other. Among equals the first wins: readers in
the walk's order (the last of the program first), then channels, rows, taps in index order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.attribution.carriers import path_kernels as kernels
from relay_passes.attribution.carriers.base import Carrier, LinearMap
from relay_passes.attribution.carriers.scaled import aligned, exponent, power, sum_of
from relay_passes.attribution.carriers.windows import geometry, taps
from relay_passes.attribution.rules.base import Context
from relay_passes.attribution.taps import transposed_tables
from relay_passes.ops import literal, op_name, shape_of
from relay_passes.problem import Geometry

# ``onward(context, places)``: the places at each of a value's sources, where the path goes on.
Onward = Callable[[Context, Any], "list[Any]"]


@dataclass(eq=False)
class Best:
    """The best paths from the elements of a value.

    Attributes
    ----------
    hi, lo : expression
        The largest weight of a path and the largest negated one, over ``2 ** exponent``; -inf where there is no path.
    exponent : expression or None
        int32 (1,); None for 0.
    sources : list of Best
        Where paths go on; none at the output.
    onward : callable
        See `Onward`.
    """

    hi: Any
    lo: Any
    exponent: Any = None
    sources: list[Best] = field(default_factory=list)
    onward: Onward = lambda context, at: []


def image_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A tensor of one spatial axis as an image of height 1."""
    return (*shape[:2], 1, *shape[2:]) if len(shape) == 3 else shape


def _reshaped(context: Context, expr: Any, shape: tuple[int, ...]) -> Any:
    return expr if shape_of(expr) == shape else context.emit(relax.op.reshape(expr, relax.ShapeExpr(list(shape))))


class Path(Carrier):
    """Pairs of best paths as above."""

    def seed(self, context: Context, expr: Any) -> Best:
        """Edges from the output's elements to the target."""
        none = literal(np.float32(-np.inf))
        some = context.emit(relax.op.not_equal(expr, literal(np.float32(0))))
        less = context.emit(relax.op.negative(expr))
        return Best(*(context.emit(relax.op.where(some, v, none), "path") for v in (expr, less)))

    def _step(
        self, context: Context, g: Best, kind: str, tensors: list[Any], shape: tuple[int, ...], **attrs: Any
    ) -> Best:
        """One step back by a row of `edges.EDGES`."""

        def numbers(a: Any, b: Any) -> Any:
            return context.emit(kernels.back(kind, a, b, tensors, shape, **attrs), "path")

        def onward(context: Context, at: Any) -> list[Any]:
            return [context.emit(kernels.onward(kind, at, g.hi, g.lo, tensors, shape, **attrs), "place")]

        return Best(numbers(g.hi, g.lo), numbers(g.lo, g.hi), g.exponent, [g], onward)

    def _seen(self, context: Context, g: Best, shape: tuple[int, ...]) -> Best:
        """The same elements in another shape."""
        if self.shape(g) == shape:
            return g
        hi, lo = (_reshaped(context, v, shape) for v in (g.hi, g.lo))
        return Best(hi, lo, g.exponent, [g], lambda context, at: [at])

    def scale(self, context: Context, g: Best, factor: Any) -> Best:
        """One edge for each element."""
        shape = tuple(np.broadcast_shapes(self.shape(g), shape_of(factor)))
        return self._step(context, g, "scale", [factor], shape)

    def move(self, context: Context, g: Best, f: Callable[[Any], Any]) -> Best:
        """Numbers move; the way back is found by moving the elements' indices."""
        hi, lo = (context.emit(f(v), "path") for v in (g.hi, g.lo))
        shape = self.shape(g)

        def onward(context: Context, at: Any) -> list[Any]:
            line = context.emit(relax.op.arange(0, int(np.prod(shape)), 1, "int32"), "index")
            sources = context.emit(f(_reshaped(context, line, shape)), "index")
            return [context.emit(kernels.moved(at, sources), "place")]

        unmoved = op_name(f(g.hi)) == "relax.reshape"
        return Best(hi, lo, g.exponent, [g], (lambda context, at: [at]) if unmoved else onward)

    def total(self, context: Context, g: Best, axes: list[int]) -> Best:
        """The best of each row: an edge of weight 1 for each of its elements."""
        full = self.shape(g)
        axes = [axis % len(full) for axis in axes]
        shape = tuple(1 if axis in axes else extent for axis, extent in enumerate(full))
        return self._step(context, g, "total", [], shape, axes=axes)

    def linear(self, context: Context, g: Best, through: LinearMap, x: Any) -> Best:
        """By loops of its own for each kind of map."""
        shape = shape_of(x)
        if through.kind == "take":
            (axis,) = through.operands
            index, weight = transposed_tables(through.weights)
            return self._step(context, g, "take", [literal(index), literal(weight)], shape, axis=axis)
        if through.kind == "max_pool":
            image, places = shape_of(through.operands[0]), geometry(through.call)
            return self._step(context, g, "max_pool", taps(context, through, self.shape(g)), image, **places)
        if through.kind == "matmul":
            return self._normalised(context, self._matmul(context, g, through, shape))
        if through.kind in ("conv", "conv_transpose"):
            return self._normalised(context, self._convolution(context, g, through, shape))
        raise NotImplementedError(f"a path has no way back through a linear map of kind {through.kind!r}")

    def _convolution(self, context: Context, g: Best, through: LinearMap, shape: tuple[int, ...]) -> Best:
        at = Geometry.of(through.call.attrs)
        weights = _reshaped(context, through.weights, image_of(shape_of(through.weights)))
        g = self._seen(context, g, image_of(self.shape(g)))
        places = {"stride": list(at.stride), "padding": list(at.padding), "dilation": list(at.dilation)}
        found = self._step(context, g, through.kind, [weights], image_of(shape), groups=at.groups, **places)
        return self._seen(context, found, shape)

    def _matmul(self, context: Context, g: Best, through: LinearMap, shape: tuple[int, ...]) -> Best:
        """Vectors are matrices of one row on the left, of one column on the right."""
        (this,) = through.operands
        a, b = (shape_of(e) for e in through.call.args)
        full = list(self.shape(g))
        if len(b) == 1:
            full.append(1)
        if len(a) == 1:
            full.insert(len(full) - 1, 1)
        whole = shape if len(shape) > 1 else (1, *shape) if this == 0 else (*shape, 1)
        weights = through.weights
        if len(beside := shape_of(weights)) == 1:
            weights = _reshaped(context, weights, (*beside, 1) if this == 0 else (1, *beside))
        found = self._step(context, self._seen(context, g, tuple(full)), "matmul", [weights], whole, operand=this)
        return self._seen(context, found, shape)

    def _normalised(self, context: Context, g: Best) -> Best:
        """The same paths, the largest weight between 1 and 2: see `scaled`."""
        own = exponent(context, g.hi, g.lo)
        factor = power(context, context.emit(relax.op.negative(own)))
        hi, lo = (context.emit(relax.op.multiply(v, factor), "path") for v in (g.hi, g.lo))
        return Best(hi, lo, sum_of(context, g.exponent, own), [g], lambda context, at: [at])

    def add(self, context: Context, a: Best, b: Best) -> Best:
        """The better of both."""
        return self._best_of(context, [a, b])

    def meet(self, context: Context, parts: list[tuple[Any, Any]]) -> Best:
        """The best of all readers."""
        return self._best_of(context, [g for _, g in parts])

    def _best_of(self, context: Context, gs: list[Best]) -> Best:
        """Always a step of its own, even of one: each value so has its own place on the path."""
        top, factors = aligned(context, [g.exponent for g in gs])
        pairs = [
            (g.hi, g.lo)
            if factor is None
            else tuple(context.emit(relax.op.multiply(v, factor), "path") for v in (g.hi, g.lo))
            for g, factor in zip(gs, factors, strict=True)
        ]

        def onward(context: Context, at: Any) -> list[Any]:
            return chosen(context, [context.emit(kernels.value(at, *pair), "number") for pair in pairs], [at] * len(gs))

        hi, lo = pairs[0]
        for other in pairs[1:]:
            hi, lo = (context.emit(relax.op.maximum(v, w), "path") for v, w in zip((hi, lo), other, strict=True))
        return Best(hi, lo, top, gs, onward if len(gs) > 1 else lambda context, at: [at])

    def shape(self, g: Best) -> tuple[int, ...]:
        """Of both numbers."""
        return shape_of(g.hi)


def chosen(context: Context, numbers: list[Any], places: list[Any]) -> list[Any]:
    """Each place (N,) where its number is the first of the largest, else -1."""
    nowhere = literal(np.int32(-1))
    best, found = numbers[0], [places[0]]
    for number, place in zip(numbers[1:], places[1:], strict=True):
        better = context.emit(relax.op.greater(number, best))
        found = [context.emit(relax.op.where(better, nowhere, at), "place") for at in found]
        found.append(context.emit(relax.op.where(better, place, nowhere), "place"))
        best = context.emit(relax.op.maximum(number, best))
    return found


def follow(context: Context, starts: list[tuple[Best, Any]], wanted: list[Best | None]) -> list[Any]:
    """Follow one path in each item from the input to the output.

    Parameters
    ----------
    context : Context
        Where the steps are bound.
    starts : list of (Best, expression)
        Values where paths begin, and the places there, int32 (N,): see `path_kernels`; -1 but at one of them.
    wanted : list of Best or None
        The values to report; None for one that the walk did not come to.

    Returns
    -------
    list of expressions or None
        The places at each of them, in order; None where no path from the starts can pass.
    """
    order: list[Best] = []
    seen: set[int] = set()
    stack = [(g, False) for g, _ in starts]
    while stack:  # depth first, without recursion: networks are deep
        g, done = stack.pop()
        if done:
            order.append(g)
        elif id(g) not in seen:
            seen.add(id(g))
            stack += [(g, True), *((source, False) for source in g.sources)]
    places: dict[int, Any] = {id(g): at for g, at in starts}

    def arrive(g: Best, at: Any) -> None:
        known = places.get(id(g))
        # A path is in one place at most: elsewhere stands -1.
        places[id(g)] = at if known is None else context.emit(relax.op.maximum(known, at), "place")

    for g in reversed(order):
        for source, at in zip(g.sources, g.onward(context, places[id(g)]), strict=True):
            arrive(source, at)
    return [None if g is None else places.get(id(g)) for g in wanted]
