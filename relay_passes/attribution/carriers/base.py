"""``Carrier``: what stands at each value during a reverse walk, and how it takes the few verbs rules are made of.

Rules say how an operator's differences or derivatives relate, in these verbs; a carrier says what is propagated: real
multipliers, pairs of them, or the elements of a semiring. A rule so serves every method, and a method every rule.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax

from relay_passes.ops import literal, shape_of

if TYPE_CHECKING:
    from relay_passes.attribution.rules.base import Context


@dataclass(frozen=True)
class LinearMap:
    """The transpose of a linear map, from what stands at its result to its operand.

    Attributes
    ----------
    kind : str
        ``conv``, ``conv_transpose``, ``matmul``, ``take``, ``max_pool``: for carriers that need loops of their own.
    weights : expression or float32 array
        What the map multiplies by; an array where it is fixed by the operator (shares of a window, copies).
    transpose : callable
        ``transpose(context, g, weights)``, the expression at the operand; linear in both.
    forward : callable
        ``forward(context, x, weights)``, the map itself; linear in both.
    call : expression, optional
        The operator's call, for its geometry.
    operands : tuple
        What loops of their own need besides: the axis (``take``), which factor the operand is (``matmul``), the values
        whose largest are chosen, at the input and in the reference run or None (``max_pool``).
    """

    kind: str
    weights: Any
    transpose: Callable[[Context, Any, Any], Any]
    forward: Callable[[Context, Any, Any], Any]
    call: Any = None
    operands: tuple[Any, ...] = ()

    def at(self, context: Context, g: Any) -> Any:
        """The expression at the operand for real ``g``."""
        return context.emit(self.transpose(context, g, self.weights))

    def mapped(self, context: Context, array: Callable[[Any], Any], expr: Callable[[Any], Any]) -> LinearMap:
        """The map with a function of its weights: ``array`` in NumPy, ``expr`` in Relax."""
        if isinstance(self.weights, np.ndarray):
            return replace(self, weights=array(self.weights))
        return replace(self, weights=context.emit(expr(self.weights), "weights"))

    def positive(self, context: Context) -> LinearMap:
        """With the weights above 0, the others 0."""
        zero = literal(np.float32(0))
        return self.mapped(context, lambda w: np.maximum(w, 0), lambda w: relax.op.maximum(w, zero))

    def negative(self, context: Context) -> LinearMap:
        """With the weights below 0, the others 0."""
        zero = literal(np.float32(0))
        return self.mapped(context, lambda w: np.minimum(w, 0), lambda w: relax.op.minimum(w, zero))

    def absolute(self, context: Context) -> LinearMap:
        """With the absolute values of the weights."""
        return self.mapped(context, np.abs, relax.op.abs)


class Carrier(abc.ABC):
    """What is propagated. ``g`` is whatever the carrier likes; rules pass it on and never look inside."""

    def telescopes(self, context: Context, var: Any) -> bool:
        """Whether the slope of a unary operator may be joined with that of another: both are factors of ``g``."""
        return False

    @abc.abstractmethod
    def seed(self, context: Context, expr: Any) -> Any:
        """What stands at the output, from a float32 expression of its shape."""

    @abc.abstractmethod
    def scale(self, context: Context, g: Any, factor: Any) -> Any:
        """``g`` times a float32 tensor that broadcasts with it."""

    @abc.abstractmethod
    def move(self, context: Context, g: Any, f: Callable[[Any], Any]) -> Any:
        """``f`` moves or repeats elements and does nothing else."""

    @abc.abstractmethod
    def total(self, context: Context, g: Any, axes: list[int]) -> Any:
        """The sum along axes, which stay with extent 1."""

    @abc.abstractmethod
    def linear(self, context: Context, g: Any, through: LinearMap, x: Any) -> Any:
        """Back through a linear map that was applied to ``x``."""

    @abc.abstractmethod
    def add(self, context: Context, a: Any, b: Any) -> Any:
        """Where two readers of one value meet."""

    def unary(self, context: Context, call: Any, var: Any, g: Any) -> Any:
        """Back through a unary operator; by its slope unless the carrier knows better."""
        return self.scale(context, g, context.slope.unary(context, call, var))

    def meet(self, context: Context, parts: list[tuple[Any, Any]]) -> Any:
        """What stands at a value that several operators read: ``(reader, g)`` of each, in the walk's order."""
        return reduce(lambda a, b: self.add(context, a, b), (g for _, g in parts))

    def enter(self, context: Context, var: Any, g: Any) -> Any:
        """What the rule of the operator that made ``var`` is given."""
        return g

    def multipliers(self, context: Context, cut: Any, g: Any) -> Any:
        """What stands at a cut as an array of its shape."""
        return g

    def contributions(self, context: Context, cut: Any, g: Any) -> Any:
        """What a cut contributes: multiplier times difference."""
        return context.emit(relax.op.multiply(g, context.difference(cut)), "contributions")

    @abc.abstractmethod
    def shape(self, g: Any) -> tuple[int, ...]:
        """The shape of the value at which ``g`` stands."""


class Real(Carrier):
    """Real numbers with sum and product: gradients and DeepLIFT's multipliers."""

    def telescopes(self, context: Context, var: Any) -> bool:
        """Products are."""
        return True

    def seed(self, context: Context, expr: Any) -> Any:
        """Itself."""
        return expr

    def scale(self, context: Context, g: Any, factor: Any) -> Any:
        """The product."""
        return context.emit(relax.op.multiply(g, factor))

    def move(self, context: Context, g: Any, f: Callable[[Any], Any]) -> Any:
        """Moved."""
        return context.emit(f(g))

    def total(self, context: Context, g: Any, axes: list[int]) -> Any:
        """The sum."""
        return context.emit(relax.op.sum(g, axes, keepdims=True), "sum")

    def linear(self, context: Context, g: Any, through: LinearMap, x: Any) -> Any:
        """The transpose."""
        return through.at(context, g)

    def add(self, context: Context, a: Any, b: Any) -> Any:
        """The sum."""
        return context.emit(relax.op.add(a, b))

    def shape(self, g: Any) -> tuple[int, ...]:
        """Its own."""
        return shape_of(g)
