"""What a rule is, and what it may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax

from relay_passes.attribution.carriers.base import Carrier, LinearMap
from relay_passes.dataflow import Scope
from relay_passes.ops import collapsed, constant, difference, literal, op_name, shape_of

if TYPE_CHECKING:
    from relay_passes.attribution.slopes import Slope

# Linear in their first argument while the others are constant.
_LINEAR_IN_FIRST = frozenset(
    {
        "relax.multiply",
        "relax.divide",
        "relax.reshape",
        "relax.permute_dims",
        "relax.squeeze",
        "relax.expand_dims",
        "relax.flatten",
        "relax.negative",
        "relax.broadcast_to",
    }
)
# Those that move values, whose other arguments are positions.
_PICKING = frozenset({"relax.strided_slice", "relax.take", "relax.flip", "relax.tile", "relax.repeat"})
_JOINING = frozenset({"relax.concat", "relax.stack"})


@dataclass(frozen=True)
class Context:
    """A reverse walk in progress.

    Attributes
    ----------
    scope : Scope
        Where expressions are bound.
    values : mapping
        Variable of the forward program to the call that made it.
    references : mapping
        Variable to its value in the reference run: a constant with batch 1, or a variable of the same program. Empty
        for methods without a reference.
    active : frozenset
        Variables that depend on the model's inputs; all others have no difference.
    slope : Slope
        What stands for derivatives.
    carrier : Carrier
        What is propagated.
    prefix : str
        Names of bound expressions start with it.
    skipped : frozenset
        Variables at which nothing is wanted between two unary operators: the later one takes the slope over both.
    differences : dict
        Differences emitted so far, so that a value's is the same wherever it is used.
    """

    scope: Scope
    values: Mapping[Any, Any]
    references: Mapping[Any, Any]
    active: frozenset[Any]
    slope: Slope
    carrier: Carrier
    prefix: str
    skipped: frozenset[Any] = frozenset()
    differences: dict[Any, Any] = field(default_factory=dict)

    def emit(self, expr: Any, name: str = "step") -> Any:
        """Bind an expression."""
        return self.scope.emit(expr, f"{self.prefix}{name}")

    def difference(self, expr: Any) -> Any:
        """Input run less reference run, float32.

        Where an affine operator with constants made the value, the difference of its operand goes through the linear
        part, in float64: subtracting rounded results would cancel digits, and secants divide by what is left.
        """
        if expr not in self.differences:
            self.differences[expr] = self.emit(relax.op.astype(self._wide(expr), "float32"), "difference")
        return self.differences[expr]

    def _wide(self, expr: Any) -> Any:
        call: Any = self.values.get(expr)
        operator = op_name(call)
        moving = [i for i, a in enumerate(call.args) if a in self.active] if operator else []
        if operator in ("relax.add", "relax.subtract") and moving == [0, 1]:
            return self._again(call, [self._wide(a) for a in call.args])
        if operator in _JOINING:
            return self._again(call, [relax.Tuple([self._wide_or_zero(a) for a in call.args[0].fields])])
        if operator in _PICKING and moving == [0]:
            return self._again(call, [self._wide(call.args[0]), *call.args[1:]])
        if operator in _LINEAR_IN_FIRST and moving == [0]:
            others = [_widened(a) for a in call.args[1:]]
            return self._again(call, [self._wide(call.args[0]), *others])
        shifts = (operator == "relax.add" and len(moving) == 1) or (operator == "relax.subtract" and moving == [0])
        if shifts and shape_of(call.args[moving[0]]) == shape_of(expr):
            return self._wide(call.args[moving[0]])
        reference = self.references[expr]
        array = constant(reference)
        # One number for a plane that is the same all over: nothing else reads it, and what does here broadcasts it.
        small = reference if array is None else literal(collapsed(array))
        return self.emit(difference(expr, small), "exact")

    def _wide_or_zero(self, expr: Any) -> Any:
        if expr in self.active:
            return self._wide(expr)
        return self.emit(relax.op.zeros(relax.ShapeExpr(list(shape_of(expr))), "float64"), "zero")

    def _again(self, call: Any, args: list[Any]) -> Any:
        return self.emit(type(call)(call.op, args, attrs=call.attrs), "exact")

    def scale(self, g: Any, factor: Any) -> Any:
        """``g`` times a float32 tensor that broadcasts with it."""
        return self.carrier.scale(self, g, factor)

    def negative(self, g: Any) -> Any:
        """``-g``."""
        return self.carrier.scale(self, g, literal(np.float32(-1)))

    def move(self, g: Any, f: Callable[[Any], Any]) -> Any:
        """``f(g)``, where ``f`` moves or repeats elements and does nothing else."""
        return self.carrier.move(self, g, f)

    def reshape(self, g: Any, shape: Sequence[int]) -> Any:
        """``g`` in another shape."""
        if self.carrier.shape(g) == tuple(shape):
            return g
        return self.move(g, lambda e: relax.op.reshape(e, relax.ShapeExpr(list(shape))))

    def repeat(self, g: Any, shape: Sequence[int]) -> Any:
        """``g`` broadcast to a shape."""
        if self.carrier.shape(g) == tuple(shape):
            return g
        return self.move(g, lambda e: relax.op.broadcast_to(e, relax.ShapeExpr(list(shape))))

    def total(self, g: Any, axes: Sequence[int]) -> Any:
        """The sum along axes, which stay with extent 1."""
        return self.carrier.total(self, g, list(axes)) if axes else g

    def linear(self, g: Any, through: LinearMap, x: Any) -> Any:
        """Back through a linear map that was applied to ``x``."""
        return self.carrier.linear(self, g, through, x)

    def middle(self, expr: Any) -> Any:
        """What stands for a value beside which another is multiplied; itself where it does not vary."""
        return self.slope.middle(self, expr) if expr in self.active else expr

    def sum_to(self, g: Any, shape: tuple[int, ...]) -> Any:
        """Undo a broadcast: sum over the axes along which an operand of this shape was repeated."""
        full = self.carrier.shape(g)
        lead = len(full) - len(shape)
        axes = [i for i, extent in enumerate(full) if i < lead or (shape[i - lead] == 1 and extent > 1)]
        return self.reshape(self.total(g, axes), shape)


def _widened(operand: Any) -> Any:
    """A constant operand in float64; shapes as they are."""
    if isinstance(operand, relax.ShapeExpr):
        return operand
    array = constant(operand)
    return relax.op.astype(operand, "float64") if array is None else literal(array.astype(np.float64))


RuleFunction = Callable[[Any, Any, Any, Context], "list[Any]"]
