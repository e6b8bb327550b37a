"""Operators that move values without changing them: the multipliers move back."""

from __future__ import annotations

from typing import Any

from tvm import relax

from relay_passes.attribution.rules.base import Context
from relay_passes.ops import shape_of


def reshape(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """Back to the input's shape."""
    back = context.emit(relax.op.reshape(g, relax.ShapeExpr(list(shape_of(call.args[0])))))
    return [back, *[None] * (len(call.args) - 1)]


def permute_dims(var: Any, call: Any, g: Any, context: Context) -> list[Any]:
    """The inverse permutation."""
    rank = len(shape_of(call.args[0]))
    axes = [int(a) % rank for a in call.attrs.axes] if call.attrs.axes else list(range(rank))[::-1]
    return [context.emit(relax.op.permute_dims(g, [axes.index(i) for i in range(rank)]))]


SHAPE = {
    "relax.reshape": reshape,
    "relax.squeeze": reshape,
    "relax.expand_dims": reshape,
    "relax.permute_dims": permute_dims,
}
