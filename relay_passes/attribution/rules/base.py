"""What a rule is, and what it may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.dataflow import Scope
from relay_passes.ops import constant, difference, literal, op_name, shape_of

# Linear in their first argument while the others are constant.
_LINEAR_IN_FIRST = frozenset(
    {
        "relax.multiply",
        "relax.divide",
        "relax.reshape",
        "relax.permute_dims",
        "relax.squeeze",
        "relax.expand_dims",
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
        Variable to its value in the reference run, a constant with batch 1.
    active : frozenset
        Variables that depend on the model's inputs; all others have no difference.
    slope : callable
        ``slope(context, x, y)``, the local slope of a unary operator, an expression of ``x``'s shape.
    prefix : str
        Names of bound expressions start with it.
    differences : dict
        Differences emitted so far, so that a value's is the same wherever it is used.
    """

    scope: Scope
    values: Mapping[Any, Any]
    references: Mapping[Any, Any]
    active: frozenset[Any]
    slope: Callable[[Context, Any, Any], Any]
    prefix: str
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
        return self.emit(difference(expr, self.references[expr]), "exact")

    def _wide_or_zero(self, expr: Any) -> Any:
        if expr in self.active:
            return self._wide(expr)
        return self.emit(relax.op.zeros(relax.ShapeExpr(list(shape_of(expr))), "float64"), "zero")

    def _again(self, call: Any, args: list[Any]) -> Any:
        return self.emit(type(call)(call.op, args, attrs=call.attrs), "exact")

    def mean(self, expr: Any) -> Any:
        """Mean of input run and reference run; the value itself where there is no difference."""
        if expr not in self.active:
            return expr
        both = self.emit(relax.op.add(expr, self.references[expr]), "sum")
        return self.emit(relax.op.multiply(both, literal(np.float32(0.5))), "mean")

    def sum_to(self, g: Any, shape: tuple[int, ...]) -> Any:
        """Undo a broadcast: sum over the axes along which an operand of this shape was repeated."""
        full = shape_of(g)
        lead = len(full) - len(shape)
        axes = [i for i, extent in enumerate(full) if i < lead or (shape[i - lead] == 1 and extent > 1)]
        if axes:
            g = self.emit(relax.op.sum(g, axes, keepdims=True), "sum")
        return g if shape_of(g) == shape else self.emit(relax.op.reshape(g, relax.ShapeExpr(list(shape))), "shaped")


def _widened(operand: Any) -> Any:
    """A constant operand in float64; shapes as they are."""
    if isinstance(operand, relax.ShapeExpr):
        return operand
    array = constant(operand)
    return relax.op.astype(operand, "float64") if array is None else literal(array.astype(np.float64))


RuleFunction = Callable[[Any, Any, Any, Context], "list[Any]"]
