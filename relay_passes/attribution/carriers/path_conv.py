"""Best paths through convolutions, most of the time of a path: the same as `path_kernels`' general loops, along rows.

Between and around the elements of the result stand -inf, so that no position must be asked whether it exists; then a
whole row of pixels takes one weight at a time, in vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import relax, s_tir, te, tirx

from relay_passes.ops import shape_of


def legalize(bb: Any, call: Any) -> Any:
    """The kernel of a ``conv`` step: its arguments are two numbers for each element of the result, and OIHW weights."""
    a = call.attrs
    shape = [int(d) for d in a["in_shape"]]
    (sy, sx), (dy, dx) = (list(map(int, a[key])) for key in ("stride", "dilation"))
    top, left = (int(v) for v in a["padding"][:2])
    hi, lo, weight = (te.placeholder(shape_of(argument), "float32", name) for argument, name in _named(call.args))
    outputs, per_group, kh, kw = (int(d) for d in weight.shape)
    oh, ow = (int(d) for d in hi.shape[2:])
    reach_y, reach_x, count = (kh - 1) * dy, (kw - 1) * dx, outputs // int(a["groups"])
    none, zero = tirx.const(-math.inf, "float32"), tirx.const(0, "float32")

    def spread(source: Any, name: str) -> Any:
        def element(b: Any, o: Any, y: Any, x: Any) -> Any:
            y, x = y - reach_y, x - reach_x
            inside = tirx.all(y >= 0, y < oh * sy, x >= 0, x < ow * sx, y % sy == 0, x % sx == 0)
            return tirx.if_then_else(inside, source[b, o, tirx.floordiv(y, sy), tirx.floordiv(x, sx)], none)

        extents = (shape[0], outputs, shape[2] + top + reach_y, shape[3] + left + reach_x)
        return te.compute(extents, element, name=name)

    wide, other = spread(hi, "wide"), spread(lo, "other")
    o, ky, kx = (te.reduce_axis((0, extent), name) for extent, name in ((count, "o"), (kh, "ky"), (kw, "kx")))

    def element(b: Any, i: Any, y: Any, x: Any) -> Any:
        out = tirx.floordiv(i, per_group) * count + o
        at = (b, out, y + (top + reach_y) - ky * dy, x + (left + reach_x) - kx * dx)
        w = weight[out, tirx.floormod(i, per_group), ky, kx]
        found = tirx.Select(w > zero, wide(*at) * w, tirx.Select(w < zero, other(*at) * -w, none))
        return _LARGEST(found, axis=[o, ky, kx])

    result = te.compute(shape, element, name="path_back")
    function = te.create_prim_func([hi, lo, weight, result])
    variable = bb.add_func(_by_rows(function), "path_back_conv")
    return relax.call_tir(variable, list(call.args), relax.TensorType(shape, "float32"))


_LARGEST = te.comm_reducer(lambda p, q: tirx.max(p, q), lambda t: tirx.const(-math.inf, t), name="largest")


def _named(arguments: Sequence[Any]) -> Any:
    return zip(arguments, ("hi", "lo", "weight"), strict=True)


def _by_rows(function: Any) -> Any:
    """One weight at a time for a row of pixels."""
    schedule = s_tir.Schedule(function)
    block = schedule.get_sblock("path_back")
    b, i, y, x, o, ky, kx = schedule.get_loops(block)
    schedule.reorder(b, i, y, o, ky, kx, x)
    schedule.decompose_reduction(block, o)
    return schedule.mod["main"]
