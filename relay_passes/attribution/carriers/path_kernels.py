"""Operators of `path`: best paths from the elements of a value, and one step along the best path of each item.

Beside every element stand two numbers: the largest weight of a path from it to the output, and the largest of the
negated weights. So a negative edge swaps them, and both are found by the same kernel. -inf: there is no path. An edge
of weight 0 is no edge.

A place on a path is one int32: twice the element's index in the whole tensor, plus 1 where the path ahead is the one of
largest negated weight; -1 where the path goes another way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import relax, te, tirx

from relay_passes.attribution.carriers import path_conv
from relay_passes.attribution.carriers.edges import EDGES
from relay_passes.ops import call, register, shape_of

BACK = "tvm_lowbit.path_back"
ONWARD = "tvm_lowbit.path_onward"
START = "tvm_lowbit.path_start"
VALUE = "tvm_lowbit.path_value"
MOVED = "tvm_lowbit.path_moved"
# Which of the two numbers at an input element count: as they are, negated, or the larger of both.
SIGNS = ("positive", "negative", "absolute")


def back(kind: str, a: Any, b: Any, tensors: Sequence[Any], in_shape: Sequence[int], **attrs: Any) -> Any:
    """The numbers at ``in_shape`` from those at the elements that edges lead to.

    Parameters
    ----------
    kind : str
        A row of `EDGES`, which says what ``tensors`` and ``attrs`` mean.
    a, b : expression
        Largest weights and largest negated ones, or the other way round.
    """
    return call(BACK, a, b, *tensors, kind=kind, in_shape=list(in_shape), **attrs)


def onward(kind: str, at: Any, a: Any, b: Any, tensors: Sequence[Any], in_shape: Sequence[int], **attrs: Any) -> Any:
    """The places (N,) after one edge from places at ``in_shape``: the first of the best edges."""
    return call(ONWARD, at, a, b, *tensors, kind=kind, in_shape=list(in_shape), **attrs)


def start(a: Any, b: Any, sign: str) -> Any:
    """The place in each item (along the first axis) where the best path begins: the first of equals."""
    return call(START, a, b, sign=sign)


def value(at: Any, a: Any, b: Any) -> Any:
    """The number (N,) at each place; -inf where there is none."""
    return call(VALUE, at, a, b)


def moved(at: Any, sources: Any) -> Any:
    """Places after a move, ``sources`` (int32) saying from where each element came."""
    return call(MOVED, at, sources)


def _none() -> Any:
    return tirx.const(-math.inf, "float32")


def _largest(first: bool) -> Any:
    """The reduction by the largest; with the number of the candidate, by the first of equals."""
    if not first:
        return te.comm_reducer(lambda p, q: tirx.max(p, q), lambda t: tirx.const(-math.inf, t), name="largest")
    return te.comm_reducer(
        lambda p, q: (
            tirx.Select(tirx.any(p[1] > q[1], tirx.all(p[1] == q[1], p[0] <= q[0])), p[0], q[0]),
            tirx.Select(p[1] >= q[1], p[1], q[1]),
        ),
        lambda t0, t1: (tirx.const(0, t0), tirx.const(-math.inf, t1)),
        name="first_largest",
    )


def _along(a: Any, b: Any, weight: Any) -> Any:
    """The number behind an edge, from those before it."""
    zero = tirx.const(0, "float32")
    return tirx.Select(weight > zero, a * weight, tirx.Select(weight < zero, b * -weight, _none()))


def _guarded(inside: Any, then: Any, otherwise: Any) -> Any:
    return then if inside is None else tirx.if_then_else(inside, then, otherwise)


def _legalize_back(bb: Any, call_: Any) -> Any:
    a = call_.attrs
    if a["kind"] == "conv":
        return path_conv.legalize(bb, call_)
    shape = tuple(int(d) for d in a["in_shape"])

    def compute(hi: Any, lo: Any, *tensors: Any) -> Any:
        edges = EDGES[str(a["kind"])](a, [int(d) for d in hi.shape], tensors)
        axes = [te.reduce_axis((0, extent), f"r{i}") for i, extent in enumerate(edges.extents)]

        def element(*i: Any) -> Any:
            to, weight, inside = edges.edge(i, tuple(axes))
            found = _guarded(inside, _along(hi(*to), lo(*to), weight()), _none())
            return _largest(False)(found, axis=axes) if axes else found

        return te.compute(shape, element, name="path_back")

    return bb.call_te(compute, *call_.args, primfunc_name_hint=f"path_back_{a['kind']}")


def _unravelled(flat: Any, shape: Sequence[int]) -> tuple[Any, ...]:
    found: list[Any] = []
    for extent in reversed(shape):
        found.insert(0, tirx.floormod(flat, extent))
        flat = tirx.floordiv(flat, extent)
    return tuple(found)


def _ravelled(index: Sequence[Any], shape: Sequence[int]) -> Any:
    flat: Any = tirx.const(0, "int32")
    for i, extent in zip(index, shape, strict=True):
        flat = flat * extent + i
    return flat


def _element(at: Any, n: Any, shape: Sequence[int]) -> tuple[Any, Any]:
    """A place's element, the first where there is none, and which of the two numbers counts."""
    here = tirx.max(at[n], tirx.const(0, "int32"))
    return _unravelled(tirx.floordiv(here, 2), shape), tirx.floormod(here, 2)


def _digits(flat: Any, shape: Sequence[int], name: str) -> Any:
    """Indices (N, axes) of elements by their number (N,); stored, for expressions of them would grow beyond measure."""

    def digit(n: Any, axis: Any) -> Any:
        found = tirx.const(0, "int32")
        for i, v in enumerate(_unravelled(flat(n), shape)):
            found = tirx.Select(axis == i, v, found)
        return found

    count = int(flat.shape[0])
    return te.compute((count, max(1, len(shape))), digit, name=name)


def _legalize_onward(bb: Any, call_: Any) -> Any:
    a = call_.attrs
    shape = tuple(int(d) for d in a["in_shape"])

    def compute(at: Any, hi: Any, lo: Any, *tensors: Any) -> Any:
        after, zero = [int(d) for d in hi.shape], tirx.const(0, "float32")
        edges = EDGES[str(a["kind"])](a, after, tensors)
        extents = edges.extents or (1,)
        here = te.compute(at.shape, lambda n: tirx.max(tirx.shift_right(at[n], tirx.const(1, "int32")), 0), name="here")
        i = _digits(here, shape, "here_index")

        def edge(n: Any, r: Any) -> tuple[Any, Any, Any]:
            return edges.edge(tuple(i[n, axis] for axis in range(len(shape))), r)

        def weight(n: Any, *r: Any) -> Any:
            _, found, inside = edge(n, r)
            return _guarded(inside, found(), zero)

        def number(n: Any, *r: Any) -> Any:
            to, w = edge(n, r)[0], weights(n, *r)
            # The number that a negative edge leads to is the other one.
            swapped = tirx.bitwise_xor(tirx.bitwise_and(at[n], 1), tirx.Select(w < zero, 1, 0))
            found = tirx.if_then_else(swapped == 0, hi(*to), lo(*to)) * tirx.abs(w)
            return tirx.if_then_else(w != zero, found, _none())

        weights = te.compute((at.shape[0], *extents), weight, name="edge_weight")
        numbers = te.compute((at.shape[0], *extents), number, name="edge_number")
        axes = [te.reduce_axis((0, extent), f"r{axis}") for axis, extent in enumerate(extents)]
        best, top = te.compute(
            at.shape, lambda n: _largest(True)((_ravelled(axes, extents), numbers(n, *axes)), axis=axes), name="best"
        )
        r = _digits(best, extents, "best_edge")

        def place(n: Any) -> Any:
            taken = tuple(r[n, axis] for axis in range(len(extents)))
            swapped = tirx.bitwise_xor(tirx.bitwise_and(at[n], 1), tirx.Select(weights(n, *taken) < zero, 1, 0))
            leads = tirx.all(at[n] >= 0, top[n] > _none())
            return tirx.if_then_else(leads, _ravelled(edge(n, taken)[0], after) * 2 + swapped, tirx.const(-1, "int32"))

        return te.compute(at.shape, place, name="path_onward")

    return bb.call_te(compute, *call_.args, primfunc_name_hint=f"path_onward_{a['kind']}")


def _legalize_start(bb: Any, call_: Any) -> Any:
    sign = str(call_.attrs["sign"])

    def compute(hi: Any, lo: Any) -> Any:
        shape = [int(d) for d in hi.shape]
        count = math.prod(shape[1:])
        k = te.reduce_axis((0, count), "k")

        def numbers(n: Any, flat: Any) -> Any:
            i = (n, *_unravelled(flat, shape[1:]))
            a, b = hi(*i), lo(*i)
            return {"positive": (a, 0), "negative": (b, 1)}.get(sign, (tirx.max(a, b), tirx.Select(b > a, 1, 0)))

        best, number = te.compute((shape[0],), lambda n: _largest(True)((k, numbers(n, k)[0]), axis=k), name="best")

        def place(n: Any) -> Any:
            flat = (n * count + best[n]) * 2 + numbers(n, best[n])[1]
            return tirx.Select(number[n] > _none(), flat, tirx.const(-1, "int32"))

        return te.compute((shape[0],), place, name="path_start")

    return bb.call_te(compute, *call_.args, primfunc_name_hint="path_start")


def _legalize_value(bb: Any, call_: Any) -> Any:
    def compute(at: Any, hi: Any, lo: Any) -> Any:
        def element(n: Any) -> Any:
            i, low = _element(at, n, [int(d) for d in hi.shape])
            return tirx.Select(at[n] < 0, _none(), tirx.Select(low == 0, hi(*i), lo(*i)))

        return te.compute(at.shape, element, name="path_value")

    return bb.call_te(compute, *call_.args, primfunc_name_hint="path_value")


def _legalize_moved(bb: Any, call_: Any) -> Any:
    def compute(at: Any, sources: Any) -> Any:
        def element(n: Any) -> Any:
            i, low = _element(at, n, [int(d) for d in sources.shape])
            return tirx.Select(at[n] < 0, tirx.const(-1, "int32"), sources(*i) * 2 + low)

        return te.compute(at.shape, element, name="path_moved")

    return bb.call_te(compute, *call_.args, primfunc_name_hint="path_moved")


def _places(call_: Any, ctx: Any) -> Any:
    return relax.TensorType([shape_of(call_.args[0])[0]], "int32")


def _numbers(call_: Any, ctx: Any) -> Any:
    return relax.TensorType([shape_of(call_.args[0])[0]], "float32")


register(BACK, -1, lambda c, ctx: relax.TensorType([int(d) for d in c.attrs["in_shape"]], "float32"), _legalize_back)
register(ONWARD, -1, _places, _legalize_onward)
register(START, 2, _places, _legalize_start)
register(VALUE, 3, _numbers, _legalize_value)
register(MOVED, 2, _places, _legalize_moved)
