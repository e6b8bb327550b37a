"""``several``: a model that takes more items in a call, so that one run of a step takes several points of a path.

Weights are then read, and unpacked where they are low-bit, once for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy.typing as npt
import tvm
from tvm import relax

from relay_passes import dataflow, notes
from relay_passes.attribution.derivatives import DERIVATIVES
from relay_passes.attribution.model import Model
from relay_passes.ops import collapsed, literal, op_name, shape_of
from relay_passes.rewrite import EXPLANATION

# The most points that a step takes at once: what a call holds grows with them, and less and less is saved.
AT_ONCE = 5

_SHAPED = ("relax.reshape", "relax.broadcast_to")


def points_at_once(steps: int) -> int:
    """As many as `AT_ONCE`, or as few as it takes for so many points to come out even."""
    return max(count for count in range(1, AT_ONCE + 1) if steps % count == 0)


def several(model: Model, count: int) -> Model | None:
    """The model with ``count`` times as many items along the first axis; its variables are new.

    None if not every value on the way from the inputs has the items along its first axis, or one of the operators is
    not known to compute each item from that item alone.
    """
    active, batch = model.layers.active, (shape_of(model.params[0]) or (0,))[0]
    taken = [(var, value) for var, value in model.values if var in active and op_name(value)]
    if not all(_by_item(var, value, active) for var, value in taken):
        return None
    if any(shape_of(var)[:1] != (batch,) for var in [*model.params, *(var for var, _ in taken)]):
        return None

    def shape(var: Any) -> list[int]:
        return [count * batch, *shape_of(var)[1:]]

    def again(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        call = scope.new(value)
        if var in active and op_name(value) in _SHAPED:
            call = type(call)(call.op, [call.args[0], relax.ShapeExpr(shape(var))], attrs=call.attrs)
        return dataflow.keep(var, call, scope)

    params = [relax.Var(param.name, relax.TensorType(shape(param), str(param.ty.dtype))) for param in model.params]
    found = rewritten(model, params, lambda scope: zip(model.params, params, strict=True), again)
    after = {dataflow.name_of(var): var for var, _ in found.values}
    if any(list(shape_of(after.get(dataflow.name_of(var), var))) != shape(var) for var, _ in taken):
        return None
    return dataclasses.replace(found, mod=notes.add(found.mod, "items", {"times": count}))


def rewritten(
    model: Model,
    params: Sequence[Any],
    begin: Callable[[dataflow.Scope], Iterable[tuple[Any, Any]]],
    visit: dataflow.Visit,
) -> Model:
    """The model with other parameters.

    Parameters
    ----------
    model : Model
        What is written anew; functions that were compiled apart belong to both.
    params : sequence of Var
        The new ones.
    begin : callable
        ``begin(scope)`` gives pairs of variables and what stands for them; these are not computed.
    visit : callable
        As `dataflow.rebuild` takes it, but of values whose variables are not replaced yet.
    """
    function = model.mod["main"]
    builder = relax.BlockBuilder(tvm.IRModule({}, attrs=model.mod.attrs))
    scope = dataflow.Scope(builder)
    with dataflow.closed(builder), builder.function("main", list(params), attrs=dict(function.attrs or {})):
        with builder.dataflow():
            scope.env.update(begin(scope))
            for var, value in model.values:
                if var not in scope.env:
                    scope.env[var] = visit(var, value, scope)
            output = builder.emit_output(scope.new(function.body.body))
        builder.emit_func_output(output)
    return dataclasses.replace(model, mod=relax.transform.DeadCodeElimination(["main"])(builder.get()))


def along_path(model: Model, starts: Sequence[npt.NDArray[Any]], points: int) -> Model:
    """The model at points of the straight path from references.

    Parameters
    ----------
    model : Model
        It takes ``points`` times as many items.
    starts : sequence of arrays
        The references of its inputs, with batch 1.
    points : int
        How many.

    Returns
    -------
    Model
        Its inputs are the path's ends, with the items of one point, and the points' shares of the way, ``(points,)``.
    """
    shapes = [[shape_of(param)[0] // points, *shape_of(param)[1:]] for param in model.params]
    ends = [relax.Var(f"{EXPLANATION}end{i}", relax.TensorType(shape, "float32")) for i, shape in enumerate(shapes)]
    shares = relax.Var(f"{EXPLANATION}shares", relax.TensorType([points], "float32"))

    def begin(scope: dataflow.Scope) -> Any:
        for param, end, start in zip(model.params, ends, starts, strict=True):
            yield param, _between(scope, end, start, shares, dataflow.name_of(param))

    def again(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        return dataflow.keep(var, scope.new(value), scope)

    return rewritten(model, [*ends, shares], begin, again)


def _between(scope: dataflow.Scope, end: Any, start: npt.NDArray[Any], shares: Any, name: str) -> Any:
    """The values at shares of the way from one to another, one after another along the first axis."""
    shape, points, at = shape_of(end), shape_of(shares)[0], literal(collapsed(start))

    def emit(expr: Any) -> Any:
        return scope.emit(expr, f"{EXPLANATION}point")

    change = emit(relax.op.expand_dims(emit(relax.op.subtract(end, at)), 0))
    along = emit(relax.op.reshape(shares, relax.ShapeExpr([points, *[1] * len(shape)])))
    value = emit(relax.op.add(at, emit(relax.op.multiply(along, change))))
    return scope.emit(relax.op.reshape(value, relax.ShapeExpr([points * shape[0], *shape[1:]])), name)


def _by_item(var: Any, call: Any, active: frozenset[Any]) -> bool:
    """Whether an operator is known to compute each item from that item alone."""
    check = _BY_ITEM.get(op_name(call))
    return check is not None and check(var, call, active)


def _elementwise(var: Any, call: Any, active: frozenset[Any]) -> bool:
    """Each operand is of the result's rank and has the items, or is the same for all of them."""
    rank = len(shape_of(var))
    for argument in call.args:
        if isinstance(argument, tvm.ir.Expr) and isinstance(argument.ty, relax.TensorType):
            shape = shape_of(argument)
            if len(shape) != rank if argument in active else len(shape) == rank and shape[0] != 1:
                return False
    return True


def _quantiser(var: Any, call: Any, active: frozenset[Any]) -> bool:
    return int(call.attrs["axis"]) != 0


def _weighted(var: Any, call: Any, active: frozenset[Any]) -> bool:
    """The first operand has the items, along its first axis; the second is weights."""
    layout = str(getattr(call.attrs, "data_layout", "NC"))
    return call.args[0] in active and layout.startswith("NC") and not any(a in active for a in call.args[1:])


def _pooling(var: Any, call: Any, active: frozenset[Any]) -> bool:
    return str(call.attrs.layout).startswith("NC")


def _matmul(var: Any, call: Any, active: frozenset[Any]) -> bool:
    return _weighted(var, call, active) and len(shape_of(call.args[1])) == 2 <= len(shape_of(call.args[0]))


def _along_others(var: Any, call: Any, active: frozenset[Any]) -> bool:
    """Its axes are given, and the first is none of them."""
    axes = getattr(call.attrs, "axis", None)
    if axes is None:
        return False
    rank = len(shape_of(call.args[0]))
    return 0 not in [int(a) % rank for a in (axes if hasattr(axes, "__len__") else [axes])]


def _concat(var: Any, call: Any, active: frozenset[Any]) -> bool:
    axis = call.attrs.axis
    return axis is not None and int(axis) % len(shape_of(var)) != 0 and all(f in active for f in call.args[0].fields)


def _permuted(var: Any, call: Any, active: frozenset[Any]) -> bool:
    return bool(call.attrs.axes) and int(call.attrs.axes[0]) % len(shape_of(var)) == 0


def _broadcast(var: Any, call: Any, active: frozenset[Any]) -> bool:
    return len(shape_of(var)) == len(shape_of(call.args[0]))


def _always(var: Any, call: Any, active: frozenset[Any]) -> bool:
    return True


_ARITHMETIC = ("relax.add", "relax.subtract", "relax.multiply", "relax.divide", "relax.negative")
_REDUCTIONS = ("relax.mean", "relax.sum", "relax.max", "relax.min", "relax.variance", "relax.std")
_POOLS = ("max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d")
_CONVOLUTIONS = ("conv1d", "conv2d", "conv1d_transpose", "conv2d_transpose")
_BY_ITEM: Mapping[str, Callable[[Any, Any, frozenset[Any]], bool]] = MappingProxyType(
    {
        **dict.fromkeys([*DERIVATIVES, *_ARITHMETIC], _elementwise),
        "tvm_lowbit.fake_quant": _quantiser,
        **{f"relax.nn.{name}": _weighted for name in _CONVOLUTIONS},
        **{f"relax.nn.{name}": _pooling for name in _POOLS},
        "relax.matmul": _matmul,
        **dict.fromkeys([*_REDUCTIONS, "relax.nn.softmax", "relax.nn.log_softmax"], _along_others),
        "relax.concat": _concat,
        "relax.permute_dims": _permuted,
        "relax.broadcast_to": _broadcast,
        # Rows of the first axis lie one after another before and after it.
        "relax.reshape": _always,
        "relax.nn.pad": _always,
        "relax.squeeze": _always,
        "relax.expand_dims": _always,
    }
)
