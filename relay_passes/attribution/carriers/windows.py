"""Max pooling as edges: which tap of each window is read, with what share, and sums over the windows of a pixel."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from relay_passes.attribution.carriers.base import LinearMap
from relay_passes.attribution.carriers.edges import EDGES
from relay_passes.attribution.rules.base import Context
from relay_passes.ops import call, register, shape_of

LARGEST_TAP = "tvm_lowbit.largest_tap"
TAP_SHARE = "tvm_lowbit.tap_share"
WINDOW_SUM = "tvm_lowbit.window_sum"


def geometry(pool: Any) -> dict[str, list[int]]:
    """What a pooling's attributes are called here."""
    places = {"kernel": pool.pool_size, "stride": pool.strides, "padding": pool.padding, "dilation": pool.dilation}
    return {name: [int(v) for v in values] for name, values in places.items()}


def taps(context: Context, through: LinearMap, out_shape: tuple[int, ...]) -> list[Any]:
    """The weights of a max pooling's edges, each of the pooling's result's shape.

    Returns
    -------
    list of expressions
        For gradients the first tap that holds the maximum, int32. For secants: the tap at the input, its share
        ``(M - y0) / dx``, the tap in the reference run, its share ``(y - M) / dx``, where ``M = max(y, y0)``: one of
        the shares is 0, so where both taps are one there is one edge.
    """
    (x, x0), places = through.operands, geometry(through.call)

    def largest(source: Any) -> Any:
        shape = [shape_of(source)[0], *out_shape[1:]]
        return context.emit(call(LARGEST_TAP, source, out_shape=shape, **places), "largest_tap")

    if x0 is None:
        return [largest(x)]
    at, at0 = largest(x), largest(x0)

    def share(reference: int) -> Any:
        return context.emit(call(TAP_SHARE, at, at0, x, x0, reference=reference, **places), "share")

    whole = at0
    if shape_of(at0) != shape_of(at):
        whole = context.emit(relax.op.broadcast_to(at0, relax.ShapeExpr(list(shape_of(at)))), "tap")
    return [at, share(0), whole, share(1)]


def window_sum(g: Any, tensors: list[Any], in_shape: tuple[int, ...], pool: Any) -> Any:
    """The sum over a pixel's windows of ``g`` times the weight of its tap; ``tensors`` as of `taps`."""
    return call(WINDOW_SUM, g, *tensors, in_shape=list(in_shape), **geometry(pool))


def _pixel(attrs: Any, x: Any, b: Any, c: Any, oy: Any, ox: Any, tap: Any) -> tuple[tuple[Any, ...], Any]:
    """The pixel that a window reads by a tap, and whether it lies in the image."""
    (_, kw), (sy, sx), (dy, dx) = (list(map(int, attrs[key])) for key in ("kernel", "stride", "dilation"))
    top, left = (int(v) for v in attrs["padding"][:2])
    y = oy * sy - top + tirx.floordiv(tap, kw) * dy
    z = ox * sx - left + tirx.floormod(tap, kw) * dx
    inside = tirx.all(y >= 0, y < int(x.shape[2]), z >= 0, z < int(x.shape[3]))
    return (b if int(x.shape[0]) > 1 else 0, c, y, z), inside


def _legalize_largest(bb: Any, call_: Any) -> Any:
    a = call_.attrs
    kh, kw = (int(v) for v in a["kernel"])
    shape = tuple(int(d) for d in a["out_shape"])
    first = te.comm_reducer(
        lambda p, q: (
            tirx.Select(tirx.any(p[1] > q[1], tirx.all(p[1] == q[1], p[0] <= q[0])), p[0], q[0]),
            tirx.Select(p[1] >= q[1], p[1], q[1]),
        ),
        lambda t0, t1: (tirx.const(kh * kw, t0), tirx.min_value(t1)),
        name="first_largest",
    )

    def compute(x: Any) -> Any:
        k = te.reduce_axis((0, kh * kw), "k")

        def element(b: Any, c: Any, oy: Any, ox: Any) -> Any:
            at, inside = _pixel(a, x, b, c, oy, ox, k)
            return first((k, tirx.if_then_else(inside, x(*at), tirx.min_value("float32"))), axis=k)

        return te.compute(shape, element, name="largest_tap")[0]

    return bb.call_te(compute, *call_.args, primfunc_name_hint="largest_tap")


def _legalize_share(bb: Any, call_: Any) -> Any:
    a = call_.attrs
    reference = int(a["reference"])

    def compute(at: Any, at0: Any, x: Any, x0: Any) -> Any:
        one, zero = tirx.const(1, "float32"), tirx.const(0, "float32")

        def element(b: Any, c: Any, oy: Any, ox: Any) -> Any:
            here = at[b, c, oy, ox]
            there = at0[b if int(at0.shape[0]) > 1 else 0, c, oy, ox]

            def read(source: Any, tap: Any) -> Any:
                return source(*_pixel(a, source, b, c, oy, ox, tap)[0])

            y, y0, tap = read(x, here), read(x0, there), there if reference else here
            top = tirx.max(y, y0)
            change = read(x, tap) - read(x0, tap)
            # Where a position does not differ from the reference, it has no share.
            return (y - top if reference else top - y0) / tirx.Select(change == zero, one, change)

        return te.compute(at.shape, element, name="tap_share")

    return bb.call_te(compute, *call_.args, primfunc_name_hint="tap_share")


def _legalize_sum(bb: Any, call_: Any) -> Any:
    a = call_.attrs

    def compute(g: Any, *tensors: Any) -> Any:
        edges = EDGES["max_pool"](a, [int(d) for d in g.shape], tensors)
        axes = [te.reduce_axis((0, extent), f"r{i}") for i, extent in enumerate(edges.extents)]

        def element(*i: Any) -> Any:
            to, weight, inside = edges.edge(i, tuple(axes))
            return te.sum(tirx.if_then_else(inside, g(*to) * weight(), tirx.const(0, "float32")), axis=axes)

        return te.compute(tuple(int(d) for d in a["in_shape"]), element, name="window_sum")

    return bb.call_te(compute, *call_.args, primfunc_name_hint="window_sum")


register(
    LARGEST_TAP, 1, lambda c, ctx: relax.TensorType([int(d) for d in c.attrs["out_shape"]], "int32"), _legalize_largest
)
register(TAP_SHARE, 4, lambda c, ctx: relax.TensorType(c.args[0].ty.shape, "float32"), _legalize_share)
register(
    WINDOW_SUM, -1, lambda c, ctx: relax.TensorType([int(d) for d in c.attrs["in_shape"]], "float32"), _legalize_sum
)
