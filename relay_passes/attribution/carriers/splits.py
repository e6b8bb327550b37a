"""``Splits``: how differences part into a positive and a negative one, forwards through the program.

The split of a value (1704.02685, section 3.5.1) follows from how it was computed: a product with weights parts by the
signs of its terms, a sum of two values by theirs, what moves values moves their splits. It must say of each operator
what the reverse walk assumes: every row here belongs to a rule that keeps or makes pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax

from relay_passes.attribution.rules import RULES
from relay_passes.attribution.rules.unary import unary
from relay_passes.attribution.taps import resize_matrix, transposed
from relay_passes.ops import literal, op_name, shape_of

if TYPE_CHECKING:
    from relay_passes.attribution.rules.base import Context

# A part below this share of the other is taken for none: the rounding of sums would be the larger half of it.
_ABSENT = np.float32(2.0**-14)
_ZERO, _ONE, _HALF = (literal(np.float32(v)) for v in (0, 1, 0.5))

# Those that move values, and those that average or sum what stays of one sign only if all of it is.
MOVES = frozenset(
    f"relax.{name}"
    for name in (
        *("reshape", "flatten", "squeeze", "expand_dims", "permute_dims", "strided_slice", "take", "flip", "repeat"),
        *("tile", "broadcast_to"),
    )
)


class Splits:
    """The spreads ``A = dv+ - dv-`` of values, emitted once each.

    Parameters
    ----------
    reveals : callable
        ``reveals(context, var)``: whether a unary operator gets RevealCancel.
    """

    def __init__(self, reveals: Callable[[Context, Any], bool]) -> None:
        self.reveals = reveals
        self._spreads: dict[Any, Any] = {}
        self._branches: dict[Any, Any] = {}

    def spread(self, context: Context, var: Any) -> Any:
        """A as a float32 expression; None where the difference is wholly positive or wholly negative everywhere."""
        if var not in self._spreads:
            call = context.values.get(var)
            operator = op_name(call)
            write = _unary if RULES.get(operator) is unary else _SPREADS.get(operator)
            self._spreads[var] = write(self, context, var, call) if write and var in context.active else None
        return self._spreads[var]

    def size(self, context: Context, var: Any) -> Any:
        """A, written out where it is the difference's absolute value."""
        spread = self.spread(context, var)
        return context.emit(relax.op.abs(context.difference(var)), "spread") if spread is None else spread

    def branches(self, context: Context, var: Any) -> Any:
        """``(f(x0 + dx+), f(x0 + dx-))`` for a value that RevealCancel made from x, f all operators in between.

        None for other values, and where no value has both parts.
        """
        if var not in self._branches:
            self._branches[var] = self._branched(context, var)
        return self._branches[var]

    def _branched(self, context: Context, var: Any) -> Any:
        call: Any = context.values.get(var)
        if op_name(call) in MOVES:
            before = self.branches(context, call.args[0])
        elif op_name(call) and self.reveals(context, var):
            before = self.branches(context, call.args[0]) or self._parted(context, call.args[0])
        else:
            return None
        return None if before is None else [_again(context, call, {0: value}, "branch") for value in before]

    def _parted(self, context: Context, x: Any) -> Any:
        """``x0 + dx+`` and ``x0 + dx-``; where one part is absent these are the two runs themselves."""
        spread = self.spread(context, x)
        if spread is None:
            return None
        plus, minus = parts(context, context.difference(x), spread)
        one, start = absent(context, plus, minus), context.references[x]
        up = context.emit(relax.op.greater(context.difference(x), _ZERO))
        found = []
        for part, first, second in ((plus, x, start), (minus, start, x)):
            run = context.emit(relax.op.where(up, first, second))
            between = context.emit(relax.op.add(start, part))
            found.append(context.emit(relax.op.where(one, run, between), "branch"))
        return found


def parts(context: Context, difference: Any, spread: Any) -> list[Any]:
    """The positive and the negative part."""
    both = (relax.op.add(difference, spread), relax.op.subtract(difference, spread))
    return [context.emit(relax.op.multiply(context.emit(e), _HALF), "part") for e in both]


def absent(context: Context, plus: Any, minus: Any) -> Any:
    """Where one of two parts is none, or too small beside the other to be told from rounding."""
    sizes = [context.emit(relax.op.abs(e)) for e in (plus, minus)]
    least, most = (context.emit(f(*sizes)) for f in (relax.op.minimum, relax.op.maximum))
    return context.emit(relax.op.less_equal(least, context.emit(relax.op.multiply(most, literal(_ABSENT)))))


def quotient(context: Context, a: Any, b: Any) -> Any:
    """``a / b``, 0 where b is 0."""
    none = context.emit(relax.op.equal(b, _ZERO))
    over = context.emit(relax.op.divide(a, context.emit(relax.op.where(none, _ONE, b))))
    return context.emit(relax.op.where(none, _ZERO, over))


def _again(context: Context, call: Any, args: Mapping[int, Any], name: str = "spread") -> Any:
    """The call with other arguments at some places."""
    new = [args.get(i, a) for i, a in enumerate(call.args)]
    return context.emit(type(call)(call.op, new, attrs=call.attrs), name)


def _absolute(context: Context, expr: Any) -> Any:
    return context.emit(relax.op.abs(expr))


def _product(splits: Splits, context: Context, var: Any, call: Any) -> Any:
    """``|W| |dx|``: the positive part is the sum of positive terms; of two that vary, each beside the other's mean."""
    total = None
    for this, other in ((0, 1), (1, 0)):
        if call.args[this] in context.active:
            size = _absolute(context, context.difference(call.args[this]))
            weights = _absolute(context, context.middle(call.args[other]))
            term = _again(context, call, {this: size, other: weights})
            total = term if total is None else context.emit(relax.op.add(total, term), "spread")
    return total


def _sum(splits: Splits, context: Context, var: Any, call: Any) -> Any:
    """Splits add up; a constant changes nothing."""
    moving = [a for a in call.args if a in context.active]
    if len(moving) == 2:
        return context.emit(relax.op.add(*(splits.size(context, a) for a in moving)), "spread")
    spread = splits.spread(context, moving[0])
    if spread is None or shape_of(spread) == shape_of(var):
        return spread
    return context.emit(relax.op.broadcast_to(spread, relax.ShapeExpr(list(shape_of(var)))), "spread")


def _scaled(splits: Splits, context: Context, var: Any, call: Any) -> Any:
    """A negative factor changes the parts over."""
    moving = [i for i, a in enumerate(call.args) if a in context.active]
    if op_name(call) == "relax.divide" and 1 in moving:
        return None
    if len(moving) == 1:
        (this,) = moving
        spread = splits.spread(context, call.args[this])
        factor = call.args[1 - this]
        if spread is None:
            return None
        return _again(context, call, {this: spread, 1 - this: _absolute(context, factor)})
    terms = []
    for this, other in ((0, 1), (1, 0)):
        size = splits.size(context, call.args[this])
        terms.append(_again(context, call, {this: size, other: _absolute(context, context.middle(call.args[other]))}))
    return context.emit(relax.op.add(*terms), "spread")


def _moved(splits: Splits, context: Context, var: Any, call: Any) -> Any:
    branches = splits.branches(context, var)
    if branches is not None:
        return context.emit(relax.op.subtract(*branches), "spread")
    spread = splits.spread(context, call.args[0])
    return None if spread is None else _again(context, call, {0: spread})


def _joined(splits: Splits, context: Context, var: Any, call: Any) -> Any:
    fields = list(call.args[0].fields)
    if all(splits.spread(context, f) is None for f in fields):
        return None
    zeros = [relax.op.zeros(relax.ShapeExpr(list(shape_of(f))), "float32") for f in fields]
    sizes = [
        splits.size(context, f) if f in context.active else context.emit(z) for f, z in zip(fields, zeros, strict=True)
    ]
    return _again(context, call, {0: relax.Tuple(sizes)})


def _averaged(splits: Splits, context: Context, var: Any, call: Any) -> Any:
    return _again(context, call, {0: splits.size(context, call.args[0])})


def _padded(splits: Splits, context: Context, var: Any, call: Any) -> Any:
    spread = splits.spread(context, call.args[0])
    if spread is None or str(call.attrs.pad_mode) != "constant":
        return None
    return context.emit(relax.op.nn.pad(spread, [int(w) for w in call.attrs.pad_width], "constant", 0.0), "spread")


def _resized(splits: Splits, context: Context, var: Any, call: Any) -> Any:
    if call.attrs.layout != "NCHW":
        return None
    spread = splits.size(context, call.args[0])
    for axis in (2, 3):
        matrix = np.abs(resize_matrix(call.attrs, shape_of(call.args[0])[axis], shape_of(var)[axis]))
        spread = context.emit(transposed(spread, axis, matrix.T), "spread")
    return spread


def _unary(splits: Splits, context: Context, var: Any, call: Any) -> Any:
    """What RevealCancel makes of the parts; Rescale scales both."""
    branches = splits.branches(context, var)
    if branches is not None:
        return context.emit(relax.op.subtract(*branches), "spread")
    x = call.args[0]
    # The slope is over these too.
    while x in context.skipped:
        x = context.values[x].args[0]
    spread = splits.spread(context, x)
    if spread is None:
        return None
    size = _absolute(context, context.slope.unary(context, call, var))
    return context.emit(relax.op.multiply(spread, size), "spread")


Write = Callable[[Splits, "Context", Any, Any], Any]
_SPREADS: dict[str, Write] = {
    **dict.fromkeys((f"relax.nn.conv{n}d{t}" for n in (1, 2, 3) for t in ("", "_transpose")), _product),
    "relax.matmul": _product,
    "relax.add": _sum,
    "relax.subtract": _sum,
    "relax.multiply": _scaled,
    "relax.divide": _scaled,
    **dict.fromkeys(MOVES, _moved),
    "relax.concat": _joined,
    "relax.stack": _joined,
    **dict.fromkeys(("relax.mean", "relax.sum"), _averaged),
    **dict.fromkeys((f"relax.nn.{kind}avg_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2)), _averaged),
    "relax.nn.pad": _padded,
    "relax.image.resize2d": _resized,
}
