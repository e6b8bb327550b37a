"""Broadcasts that nothing needs: to the shape a tensor has, or before a product that repeats its operands itself.

torch writes ``W @ x`` of a matrix and a batch as a product of two batches, which hides that W is one matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from relay_passes.ops import op_name, shape_of

BROADCAST = "relax.broadcast_to"


def without_broadcast(value: Any, lookup: Any) -> Any:
    """The same value without a needless broadcast.

    Parameters
    ----------
    value : Expr
        A bound value.
    lookup : callable
        The value that a variable is bound to.
    """
    if op_name(value) == BROADCAST and shape_of(value) == shape_of(value.args[0]):
        return value.args[0]
    if op_name(value) != "relax.matmul":
        return value
    args = [_before(argument, lookup) for argument in value.args]
    batch = np.broadcast_shapes(*(shape_of(argument)[:-2] for argument in args))
    needless = len(batch) == len(shape_of(value)) - 2 and batch == shape_of(value)[:-2]
    return type(value)(value.op, args, attrs=value.attrs) if needless else value


def _before(argument: Any, lookup: Any) -> Any:
    """What was repeated to make an operand, if its matrices are whole ones."""
    made: Any = lookup(argument) if isinstance(argument, relax.Var) else None
    if op_name(made) != BROADCAST:
        return argument
    source = made.args[0]
    whole = len(shape_of(source)) > 1 and shape_of(source)[-2:] == shape_of(argument)[-2:]
    return source if whole else argument
