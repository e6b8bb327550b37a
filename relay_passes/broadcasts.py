"""Broadcasts that nothing needs: to the shape a tensor has, or before a product that repeats its operands itself.

torch writes ``W @ x`` of a matrix and a batch as a product of two batches, which hides that W is one matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from relay_passes.ops import constant, literal, op_name, shape_of

BROADCAST = "relax.broadcast_to"


def without_broadcast(value: Any, lookup: Any) -> Any:
    """The same value without a needless broadcast. A row of `canonicalize.REWRITES`."""
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
    stored = constant(argument)
    if stored is not None:
        matrix = stored[(0,) * (stored.ndim - 2)] if stored.ndim > 2 and stored.size else stored
        return literal(matrix) if matrix is not stored and np.all(stored == matrix) else argument
    made: Any = lookup(argument) if isinstance(argument, relax.Var) else None
    merged = op_name(made) == "relax.reshape"
    if merged and isinstance(made.args[0], relax.Var):
        made = lookup(made.args[0])
    if op_name(made) != BROADCAST:
        return argument
    source = shape_of(made.args[0])
    whole = len(source) > 1 and source[-2:] == shape_of(argument)[-2:]
    # Where batches were merged, only one matrix repeated is still the same for each.
    return made.args[0] if whole and (len(source) == 2 or not merged) else argument
