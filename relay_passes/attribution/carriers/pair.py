"""``RevealCancel``: multipliers of the positive and of the negative part of a difference (1704.02685, section 3.5.3).

Every difference dv is split, ``dv = dv+ + dv-``, and so are multipliers. Carried are ``mean = (m+ + m-) / 2`` and
``half = (m+ - m-) / 2``; of a split, its spread ``A = dv+ - dv-``. Then a contribution ``m+ dv+ + m- dv-`` is
``mean dv + half A``, and the four masked products of a linear map (section 3.5.1: w m+ where w dx > 0, w m- where
w dx < 0, their mean where dx is 0) are two: ``W^T mean + sign(dx) |W|^T half``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax

from relay_passes.attribution.carriers.base import Carrier, LinearMap
from relay_passes.attribution.carriers.splits import Splits, absent, parts, quotient
from relay_passes.attribution.rules import RULES
from relay_passes.attribution.rules.unary import unary
from relay_passes.dataflow import variables
from relay_passes.ops import FAKE_QUANT, literal, op_name, shape_of

if TYPE_CHECKING:
    from relay_passes.attribution.rules.base import Context

# Functions that may be asked about values which neither run has: finite for all numbers.
REVEALED = frozenset(
    {
        FAKE_QUANT,
        *(f"relax.{name}" for name in ("clip", "round", "floor", "ceil", "sign", "abs", "sigmoid", "tanh", "erf")),
        *(f"relax.nn.{name}" for name in ("relu", "leakyrelu", "gelu", "gelu_tanh", "silu", "softplus")),
    }
)
_CONVOLUTIONS = frozenset(f"relax.nn.conv{n}d{t}" for n in (1, 2, 3) for t in ("", "_transpose"))
PRODUCTS = _CONVOLUTIONS | {"relax.matmul"}
_ZERO, _HALF = (literal(np.float32(v)) for v in (0, 0.5))


@dataclass(frozen=True)
class Pair:
    """``mean`` and ``half``, float32 of the value's shape; None for a ``half`` that is 0 everywhere."""

    mean: Any
    half: Any = None


@dataclass(frozen=True)
class RevealCancel(Carrier):
    """Pairs of multipliers; see the module.

    A unary operator f gets, from the split of its input, ``dy+ = (f(x0 + dx+) - f(x0) + f(x) - f(x0 + dx-)) / 2``, dy-
    alike, and ``m+ = dy+ / dx+``. Where one part is absent both multipliers are the secant, as Rescale has it. Unary
    operators directly after each other, or with values merely moved in between, count as the one function that they
    compose: fusing them changes nothing.

    Attributes
    ----------
    behind : collection of str
        Only unary operators whose nearest products before them are all of these; others get Rescale
        (section 3.5.2), which keeps the split: ``dy+ = dx+ dy / dx``.
    """

    behind: Collection[str] = PRODUCTS
    splits: Splits = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", Splits(self.reveals))

    def reveals(self, context: Context, var: Any) -> bool:
        """Whether a unary operator gets RevealCancel."""
        found: set[str] = set()
        todo, seen = [var], set()
        operator = op_name(context.values.get(var))
        if operator not in REVEALED or RULES.get(operator) is not unary:
            return False
        while todo:
            value = context.values.get(todo.pop())
            if op_name(value) in PRODUCTS:
                found.add(op_name(value))
                continue
            new = [v for v in variables(value) if v in context.active and v not in seen] if value is not None else []
            seen.update(new)
            todo += new
        return bool(found) and found <= set(self.behind)

    def telescopes(self, context: Context, var: Any) -> bool:
        """Rescale's multiplier is one for both parts, and the size of a product is the product of sizes."""
        return not self.reveals(context, var)

    def seed(self, context: Context, expr: Any) -> Any:
        """The same for both parts."""
        return Pair(expr)

    def scale(self, context: Context, g: Any, factor: Any) -> Any:
        """A negative factor changes the parts over."""
        mean = context.emit(relax.op.multiply(g.mean, factor))
        if g.half is None:
            return Pair(mean)
        size = context.emit(relax.op.abs(factor))
        return Pair(mean, context.emit(relax.op.multiply(g.half, size)))

    def move(self, context: Context, g: Any, f: Callable[[Any], Any]) -> Any:
        """Both."""
        return _each(g, lambda e: context.emit(f(e)))

    def total(self, context: Context, g: Any, axes: list[int]) -> Any:
        """Both."""
        return _each(g, lambda e: context.emit(relax.op.sum(e, axes, keepdims=True), "sum"))

    def linear(self, context: Context, g: Any, through: LinearMap, x: Any) -> Any:
        """``W^T mean + sign(dx) |W|^T half``; what only takes and averages values keeps their split."""
        mean = through.at(context, g.mean)
        if g.half is None:
            return Pair(mean)
        half = through.absolute(context).at(context, g.half)
        if through.kind == "take":
            return Pair(mean, half)
        return Pair(_by_sign(context, mean, half, context.difference(x)))

    def add(self, context: Context, a: Any, b: Any) -> Any:
        """The sums."""
        mean = context.emit(relax.op.add(a.mean, b.mean))
        if a.half is None or b.half is None:
            return Pair(mean, b.half if a.half is None else a.half)
        return Pair(mean, context.emit(relax.op.add(a.half, b.half)))

    def shape(self, g: Any) -> tuple[int, ...]:
        """The mean's."""
        return shape_of(g.mean)

    def enter(self, context: Context, var: Any, g: Any) -> Any:
        """One multiplier for both parts where a difference is all positive or all negative."""
        if g.half is None or self.splits.spread(context, var) is not None:
            return g
        return Pair(_by_sign(context, g.mean, g.half, context.difference(var)))

    def multipliers(self, context: Context, cut: Any, g: Any) -> Any:
        """The contribution over the difference; the mean of both where that is 0."""
        g = self.enter(context, cut, g)
        if g.half is None:
            return g.mean
        dv, spread = context.difference(cut), self.splits.spread(context, cut)
        share = quotient(context, context.emit(relax.op.multiply(g.half, spread)), dv)
        return context.emit(relax.op.add(g.mean, share), "multipliers")

    def contributions(self, context: Context, cut: Any, g: Any) -> Any:
        """``mean dv + half A``."""
        g = self.enter(context, cut, g)
        return self._share(context, g, context.difference(cut), self.splits.spread(context, cut))

    def unary(self, context: Context, call: Any, var: Any, g: Any) -> Any:
        """See the class."""
        x = call.args[0]
        branches = self.splits.branches(context, var)
        if branches is None:
            return self.scale(context, g, context.slope.unary(context, call, var))
        emit = context.emit
        dx, dy = context.difference(x), context.difference(var)
        into, out = (
            parts(context, dx, self.splits.spread(context, x)),
            parts(context, dy, self.splits.spread(context, var)),
        )
        sides = [g.mean, g.mean]
        if g.half is not None:
            sides = [emit(relax.op.add(g.mean, g.half)), emit(relax.op.subtract(g.mean, g.half))]
        shares = [emit(relax.op.multiply(m, part)) for m, part in zip(sides, out, strict=True)]
        plus, minus = (quotient(context, share, part) for share, part in zip(shares, into, strict=True))
        one = absent(context, *into)
        mean = emit(relax.op.multiply(emit(relax.op.add(plus, minus)), _HALF))
        half = emit(relax.op.multiply(emit(relax.op.subtract(plus, minus)), _HALF))
        if g.half is None:
            secant = emit(relax.op.multiply(g.mean, context.slope.unary(context, call, var)))
        else:
            secant = quotient(context, emit(relax.op.add(*shares)), dx)
        return Pair(emit(relax.op.where(one, secant, mean), "mean"), emit(relax.op.where(one, _ZERO, half), "half"))

    def _share(self, context: Context, g: Any, dv: Any, spread: Any) -> Any:
        share = context.emit(relax.op.multiply(g.mean, dv), "contributions")
        if g.half is None:
            return share
        more = context.emit(relax.op.multiply(g.half, spread))
        return context.emit(relax.op.add(share, more), "contributions")


def _each(g: Pair, f: Callable[[Any], Any]) -> Pair:
    return Pair(f(g.mean), None if g.half is None else f(g.half))


def _by_sign(context: Context, mean: Any, half: Any, difference: Any) -> Any:
    signed = context.emit(relax.op.multiply(context.emit(relax.op.sign(difference)), half))
    return context.emit(relax.op.add(mean, signed))
