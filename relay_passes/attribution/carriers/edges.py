"""``EDGES``: which elements a value's element was read by, and with what weight, for each kind of step back.

Where sums over edges are no sums (`path`), a transposed map needs loops of its own; this table says over what. The same
rows serve the reverse walk, over all elements, and the way forward along one path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

Index = tuple[Any, ...]


@dataclass(frozen=True)
class Edges:
    """The edges from one element towards the output.

    Attributes
    ----------
    extents : tuple of int
        An element has as many edges as the product of these.
    edge : callable
        ``edge(i, r)`` of the element ``i`` and the number ``r`` of its edge, both tuples of indices: the element that
        it leads to, a function that gives its weight, and the condition that it exists or None.
    """

    extents: tuple[int, ...]
    edge: Callable[[Index, Index], tuple[Index, Callable[[], Any], Any]]


def _one() -> Any:
    return tirx.const(1, "float32")


def _aligned(index: Index, shape: Sequence[Any]) -> Index:
    """The element of a tensor that broadcasts to an index."""
    lead = len(index) - len(shape)
    return tuple(0 if int(extent) == 1 else index[lead + axis] for axis, extent in enumerate(shape))


def _scale(attrs: Any, g: Sequence[int], tensors: Sequence[Any]) -> Edges:
    (factor,) = tensors
    return Edges((), lambda i, r: (_aligned(i, g), lambda: factor(*_aligned(i, factor.shape)), None))


def _total(attrs: Any, g: Sequence[int], tensors: Sequence[Any]) -> Edges:
    axes = [int(a) for a in attrs["axes"]]

    def edge(i: Index, r: Index) -> Any:
        return tuple(r[axes.index(axis)] if axis in axes else v for axis, v in enumerate(i)), _one, None

    return Edges(tuple(g[axis] for axis in axes), edge)


def _take(attrs: Any, g: Sequence[int], tensors: Sequence[Any]) -> Edges:
    axis, (index, weight) = int(attrs["axis"]), tensors

    def edge(i: Index, r: Index) -> Any:
        at = index[i[axis], r[0]]
        return (*i[:axis], at, *i[axis + 1 :]), lambda: weight[i[axis], r[0]], None

    return Edges((int(index.shape[1]),), edge)


def _matmul(attrs: Any, g: Sequence[int], tensors: Sequence[Any]) -> Edges:
    """Element (i, k) of the first factor is read for (i, j) beside (k, j), (k, j) of the second beside (i, k)."""
    first, (weight,) = int(attrs["operand"]) == 0, tensors
    batch, own = list(g[:-2]), [int(d) for d in attrs["in_shape"]][:-2]
    lead = len(batch) - len(own)
    # Where one matrix serves a whole batch, it is read by each item.
    shared = [axis for axis, extent in enumerate(batch) if axis < lead or (own[axis - lead] == 1 and extent > 1)]

    def edge(i: Index, r: Index) -> Any:
        items = tuple(r[1 + shared.index(axis)] if axis in shared else i[axis - lead] for axis in range(len(batch)))
        row, column = i[-2:]
        to = (*items, row, r[0]) if first else (*items, r[0], column)
        beside = (*_aligned(items, weight.shape[:-2]), *((column, r[0]) if first else (r[0], row)))
        return to, lambda: weight(*beside), None

    return Edges((g[-1] if first else g[-2], *(batch[axis] for axis in shared)), edge)


def _window(attrs: Any) -> tuple[list[int], list[int], int, int]:
    (sy, sx), (dy, dx) = (list(map(int, attrs[key])) for key in ("stride", "dilation"))
    top, left = (int(v) for v in attrs["padding"][:2])
    return [sy, sx], [dy, dx], top, left


def _reading(attrs: Any, g: Sequence[int], y: Any, x: Any, ky: Any, kx: Any) -> tuple[Any, Any, Any]:
    """The window that reads pixel (y, x) by its tap (ky, kx), and whether there is one."""
    (sy, sx), (dy, dx), top, left = _window(attrs)
    py, px = y + top - ky * dy, x + left - kx * dx
    inside = [py >= 0, px >= 0, py < g[2] * sy, px < g[3] * sx]
    inside += [py % sy == 0] * (sy > 1) + [px % sx == 0] * (sx > 1)
    return tirx.floordiv(py, sy), tirx.floordiv(px, sx), tirx.all(*inside)


def _conv(attrs: Any, g: Sequence[int], tensors: Sequence[Any]) -> Edges:
    (weight,) = tensors
    outputs, per_group, kh, kw = (int(d) for d in weight.shape)
    count = outputs // int(attrs["groups"])

    def edge(i: Index, r: Index) -> Any:
        (b, c, y, x), (o, ky, kx) = i, r
        out = tirx.floordiv(c, per_group) * count + o
        oy, ox, inside = _reading(attrs, g, y, x, ky, kx)
        return (b, out, oy, ox), lambda: weight[out, tirx.floormod(c, per_group), ky, kx], inside

    return Edges((count, kh, kw), edge)


def _conv_transpose(attrs: Any, g: Sequence[int], tensors: Sequence[Any]) -> Edges:
    (weight,) = tensors
    inputs, count, kh, kw = (int(d) for d in weight.shape)
    per_group = inputs // int(attrs["groups"])
    (sy, sx), (dy, dx), top, left = _window(attrs)

    def edge(i: Index, r: Index) -> Any:
        (b, c, y, x), (o, ky, kx) = i, r
        oy, ox = y * sy - top + ky * dy, x * sx - left + kx * dx
        inside = tirx.all(oy >= 0, oy < g[2], ox >= 0, ox < g[3])
        return (b, tirx.floordiv(c, per_group) * count + o, oy, ox), lambda: weight[c, o, ky, kx], inside

    return Edges((count, kh, kw), edge)


def _max_pool(attrs: Any, g: Sequence[int], tensors: Sequence[Any]) -> Edges:
    """``tensors``: for each window the tap that is largest, alone; or with its weight, and both in the reference."""
    kh, kw = (int(v) for v in attrs["kernel"])

    def edge(i: Index, r: Index) -> Any:
        (b, c, y, x), (ky, kx) = i, r
        oy, ox, inside = _reading(attrs, g, y, x, ky, kx)
        window, tap, zero = (b, c, oy, ox), ky * kw + kx, tirx.const(0, "float32")

        def weight() -> Any:
            if len(tensors) == 1:
                return tirx.Select(tensors[0][window] == tap, _one(), zero)
            at, share, at0, share0 = (t[window] for t in tensors)
            return tirx.Select(at == tap, share, zero) + tirx.Select(at0 == tap, share0, zero)

        return window, weight, inside

    return Edges((kh, kw), edge)


EDGES: Mapping[str, Callable[[Any, Sequence[int], Sequence[Any]], Edges]] = {
    "scale": _scale,
    "total": _total,
    "take": _take,
    "matmul": _matmul,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "max_pool": _max_pool,
}
