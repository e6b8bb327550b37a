"""What a rule is, and what it may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.dataflow import Scope
from relay_passes.ops import shape_of


@dataclass(frozen=True)
class Context:
    """A reverse walk in progress.

    Attributes
    ----------
    scope : Scope
        Where expressions are bound.
    references : mapping
        Variable to its value in the reference run, a constant with batch 1.
    active : frozenset
        Variables that depend on the model's inputs; all others have no difference.
    slope : callable
        ``slope(context, x, y)``, the local slope of a unary operator, an expression of ``x``'s shape.
    prefix : str
        Names of bound expressions start with it.
    """

    scope: Scope
    references: Mapping[Any, Any]
    active: frozenset[Any]
    slope: Callable[[Context, Any, Any], Any]
    prefix: str

    def emit(self, expr: Any, name: str = "step") -> Any:
        """Bind an expression."""
        return self.scope.emit(expr, f"{self.prefix}{name}")

    def difference(self, expr: Any) -> Any:
        """Input run less reference run."""
        return self.emit(relax.op.subtract(expr, self.references[expr]), "difference")

    def mean(self, expr: Any) -> Any:
        """Mean of input run and reference run; the value itself where there is no difference."""
        if expr not in self.active:
            return expr
        both = self.emit(relax.op.add(expr, self.references[expr]), "sum")
        return self.emit(relax.op.multiply(both, relax.const(np.float32(0.5))), "mean")

    def sum_to(self, g: Any, shape: tuple[int, ...]) -> Any:
        """Undo a broadcast: sum over the axes along which an operand of this shape was repeated."""
        full = shape_of(g)
        lead = len(full) - len(shape)
        axes = [i for i, extent in enumerate(full) if i < lead or (shape[i - lead] == 1 and extent > 1)]
        if axes:
            g = self.emit(relax.op.sum(g, axes, keepdims=True), "sum")
        return g if shape_of(g) == shape else self.emit(relax.op.reshape(g, relax.ShapeExpr(list(shape))), "shaped")


RuleFunction = Callable[[Any, Any, Any, Context], "list[Any]"]


@dataclass(frozen=True)
class Rule:
    """A row of ``RULES``; ``reads_values`` if it needs the runs' values at the operator's arguments and result."""

    function: RuleFunction
    reads_values: bool = False
