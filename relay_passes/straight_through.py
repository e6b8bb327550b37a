"""Straight-through estimators around a whole quantiser, ``x + (q(x) - x)``, are the quantiser.

The sum is q(x) but for its float32 roundings, which leave at most ``2**-24 (|q(x) - x| + |q(x)|)``: what the network
means is q(x), and that is what is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tvm import relax

from relay_passes import dataflow
from relay_passes.clips import same
from relay_passes.ops import FAKE_QUANT, op_name, shape_of


def without_estimators(mod: Any) -> Any:
    """Replace sums that are a quantiser and its estimator's gradient, in any order, by the quantiser (`fake_quant`)."""

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        lookup = scope.builder.lookup_binding
        for quantiser, x, again in _sums(value, lookup):
            made = lookup(quantiser) if isinstance(quantiser, relax.Var) else None
            if op_name(made) == FAKE_QUANT and same(x, again) and shape_of(quantiser) == shape_of(value):
                return quantiser
        return dataflow.keep(var, value, scope)

    return dataflow.rebuild(mod, visit)


def _sums(value: Any, lookup: Any) -> Iterator[tuple[Any, Any, Any]]:
    """What may be ``(q, x, x)`` of ``(q - x) + x``, ``(q + x) - x`` and ``x - (x - q)``."""
    if op_name(value) not in ("relax.add", "relax.subtract"):
        return
    a, b = value.args
    first: Any
    second: Any
    first, second = (lookup(e) if isinstance(e, relax.Var) else None for e in (a, b))
    if op_name(value) == "relax.add":
        for difference, x in ((first, b), (second, a)):
            if op_name(difference) == "relax.subtract":
                yield difference.args[0], difference.args[1], x
        return
    if op_name(first) == "relax.add":
        yield first.args[0], first.args[1], b
        yield first.args[1], first.args[0], b
    if op_name(second) == "relax.subtract":
        yield second.args[1], second.args[0], a
