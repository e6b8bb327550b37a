"""What is affine in a network's input: between two points of a straight path it lies straight between its two values.

So it is computed at the path's ends only: in a float network the first convolution, with its batch norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy.typing as npt
from tvm import relax

from relay_passes import dataflow
from relay_passes.attribution.model import Model
from relay_passes.attribution.several import rewritten
from relay_passes.integer_forms import MULTIPLYING
from relay_passes.ops import FAKE_QUANT, collapsed, literal, op_name, shape_of
from relay_passes.rewrite import EXPLANATION

# How many of the operands may vary.
_AFFINE: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(MULTIPLYING, 1),
        "relax.add": 2,
        "relax.subtract": 2,
        "relax.multiply": 1,
        "relax.divide": 1,
        "relax.reshape": 1,
        "relax.permute_dims": 1,
        "relax.nn.pad": 1,
    }
)


def affine_border(model: Model, layers: Sequence[str]) -> list[Any]:
    """The variables at which what is affine in the inputs ends, if a product comes before it.

    Parameters
    ----------
    model : Model
        What is explained.
    layers : sequence of str
        Layers whose values are wanted at the points themselves; where one is affine, nothing is found.

    Returns
    -------
    list of Var
        Empty also for a network with quantisers: a value that is rounded otherwise may become another code.
    """
    active, affine, products = model.layers.active, set(model.params), False
    for var, value in model.values:
        varying = [a for a in getattr(value, "args", ()) if a in active]
        if op_name(value) == FAKE_QUANT and varying:
            return []
        first = bool(varying) and varying[0] is value.args[0]
        if var in active and varying and _straight(value, varying, first) and affine.issuperset(varying):
            affine.add(var)
            products |= op_name(value) in MULTIPLYING
    read = {a for var, value in model.values if var not in affine for a in dataflow.variables(value)}
    border = [var for var in [*model.params, *(var for var, _ in model.values)] if var in affine and var in read]
    wanted = {model.layers.find(name) for name in layers}
    plain = products and not wanted & affine and not any(var in model.params for var in border)
    return border if plain else []


def _straight(value: Any, varying: Sequence[Any], first: bool) -> bool:
    most = _AFFINE.get(op_name(value), 0)
    # A quotient is affine in what is divided, not in what divides; a pad by a value is one number for both ends.
    return len(varying) <= most and (first or op_name(value) != "relax.divide")


def along_border(model: Model, border: Sequence[Any], starts: Sequence[npt.NDArray[Any]], points: int) -> Model:
    """The model from there on, at points of the path.

    Parameters
    ----------
    model : Model
        It takes ``points`` times as many items.
    border : sequence of Var
        What `affine_border` gave of it, or its inputs.
    starts : sequence of arrays
        Its values at the path's beginning.
    points : int
        How many.

    Returns
    -------
    Model
        Its inputs are the border's values at the path's end, with the items of one point, and the points' shares of
        the way, ``(points,)``.
    """
    shapes = [[shape_of(var)[0] // points, *shape_of(var)[1:]] for var in border]
    ends = [relax.Var(f"{EXPLANATION}end{i}", relax.TensorType(shape, "float32")) for i, shape in enumerate(shapes)]
    shares = relax.Var(f"{EXPLANATION}shares", relax.TensorType([points], "float32"))

    def begin(scope: dataflow.Scope) -> Any:
        for var, end, start in zip(border, ends, starts, strict=True):
            yield var, _between(scope, end, start, shares, dataflow.name_of(var))

    def again(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        return dataflow.keep(var, scope.new(value), scope)

    return rewritten(model, [*ends, shares], begin, again)


def _between(scope: dataflow.Scope, end: Any, start: npt.NDArray[Any], shares: Any, name: str) -> Any:
    """The values at shares of the way from one value to another, one after another along the first axis."""
    shape, points, at = shape_of(end), shape_of(shares)[0], literal(collapsed(start))

    def emit(expr: Any) -> Any:
        return scope.emit(expr, f"{EXPLANATION}point")

    change = emit(relax.op.expand_dims(emit(relax.op.subtract(end, at)), 0))
    along = emit(relax.op.reshape(shares, relax.ShapeExpr([points, *[1] * len(shape)])))
    value = emit(relax.op.add(at, emit(relax.op.multiply(along, change))))
    return scope.emit(relax.op.reshape(value, relax.ShapeExpr([points * shape[0], *shape[1:]])), name)
