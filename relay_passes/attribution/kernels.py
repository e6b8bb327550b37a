"""Operators that only explanations need: the transpose of a convolution, and the ways back through max pooling.

`lower_float` gives them kernels; a core without fused multiply-adds has the loops of convolutions written here.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tvm import relax, te, tirx

from relay_passes.ops import call, register, shape_of
from relay_passes.problem import Geometry

CONV2D_TRANSPOSED = "tvm_lowbit.conv2d_input_multiplier"
MAX_POOL_RESCALE = "tvm_lowbit.max_pool2d_input_multiplier"
MAX_POOL_GRADIENT = "tvm_lowbit.max_pool2d_gradient"


def conv2d_input_multiplier(g: Any, weight: Any, in_shape: tuple[int, ...], at: Geometry) -> Any:
    """Multipliers ``in_shape`` (NCHW) at the input of a convolution of OIHW weights from those at its output."""
    places = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(at).items()}
    return call(CONV2D_TRANSPOSED, g, weight, in_shape=list(in_shape), **places)


def _typed(call_: Any, ctx: Any) -> Any:
    return relax.TensorType([int(d) for d in call_.attrs["in_shape"]], "float32")


def _legalize_conv(bb: Any, call_: Any) -> Any:
    a = call_.attrs
    n, c, h, w = (int(d) for d in a["in_shape"])
    (sy, sx), (dy, dx), groups = map(int, a["stride"]), map(int, a["dilation"]), int(a["groups"])
    top, left = int(a["padding"][0]), int(a["padding"][1])
    per_group = c // groups

    def compute(g: Any, weight: Any) -> Any:
        outputs, _, kh, kw = (int(d) for d in weight.shape)
        oh, ow = int(g.shape[2]), int(g.shape[3])
        reach_y, reach_x = (kh - 1) * dy, (kw - 1) * dx
        zero = tirx.const(0, "float32")

        def spread(b: Any, o: Any, y: Any, x: Any) -> Any:
            # Output pixel (y / sy, x / sx) sits at (y, x); between and around are zeros.
            y, x = y - reach_y, x - reach_x
            inside = tirx.all(y >= 0, y < oh * sy, x >= 0, x < ow * sx, y % sy == 0, x % sx == 0)
            return tirx.if_then_else(inside, g[b, o, y // sy, x // sx], zero)

        wide = te.compute((n, outputs, h + top + reach_y, w + left + reach_x), spread, name="spread")
        o = te.reduce_axis((0, outputs // groups), "o")
        ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")

        def element(b: Any, i: Any, y: Any, x: Any) -> Any:
            out = i // per_group * (outputs // groups) + o
            at = wide[b, out, y + top + reach_y - ky * dy, x + left + reach_x - kx * dx]
            return te.sum(at * weight[out, i % per_group, ky, kx], axis=[o, ky, kx])

        return te.compute((n, c, h, w), element, name="conv2d_input_multiplier")

    return bb.call_te(compute, *call_.args, primfunc_name_hint="conv2d_input_multiplier")


register(CONV2D_TRANSPOSED, 2, _typed, _legalize_conv)


def max_pool2d_input_multiplier(g: Any, x: Any, x0: Any, pool: Any) -> Any:
    """Multipliers at the input (NCHW) of a max pooling, by Rescale with ``M = max(y, y0)``.

    ``M - y0`` goes to the position of the largest input, ``y - M`` to that of the largest reference input, each over
    that position's own difference; overlapping windows add up. ``x0`` may have batch 1.
    """
    return call(MAX_POOL_RESCALE, g, x, x0, in_shape=list(shape_of(x)), **_window(pool))


def max_pool2d_gradient(g: Any, x: Any, pool: Any) -> Any:
    """The gradient at the input (NCHW) of a max pooling: all to the first position that holds the maximum."""
    return call(MAX_POOL_GRADIENT, g, x, in_shape=list(shape_of(x)), **_window(pool))


def _window(pool: Any) -> dict[str, list[int]]:
    places = {"kernel": pool.pool_size, "stride": pool.strides, "padding": pool.padding, "dilation": pool.dilation}
    return {name: [int(v) for v in values] for name, values in places.items()}


def _legalize_max_pool_gradient(bb: Any, call_: Any) -> Any:
    a = call_.attrs
    (kh, kw), (sy, sx), (dy, dx) = (map(int, a[key]) for key in ("kernel", "stride", "dilation"))
    top, left = int(a["padding"][0]), int(a["padding"][1])

    def compute(g: Any, x: Any) -> Any:
        n, c, h, w = (int(d) for d in x.shape)
        oh, ow = int(g.shape[2]), int(g.shape[3])
        lowest, zero = tirx.min_value("float32"), tirx.const(0, "float32")
        # The index first: among equal values the first position wins, as the pair with the larger index loses.
        first = te.comm_reducer(
            lambda p, q: (
                tirx.Select(tirx.any(p[1] > q[1], tirx.all(p[1] == q[1], p[0] <= q[0])), p[0], q[0]),
                tirx.Select(p[1] >= q[1], p[1], q[1]),
            ),
            lambda t0, t1: (tirx.const(kh * kw, t0), tirx.min_value(t1)),
            name="first_largest",
        )
        window = te.reduce_axis((0, kh * kw), "window")

        def largest(b: Any, i: Any, y: Any, x_: Any) -> Any:
            iy, ix = y * sy - top + window // kw * dy, x_ * sx - left + window % kw * dx
            inside = tirx.all(iy >= 0, iy < h, ix >= 0, ix < w)
            return first((window, tirx.if_then_else(inside, x[b, i, iy, ix], lowest)), axis=window)

        at, _ = te.compute((n, c, oh, ow), largest, name="largest")
        k = te.reduce_axis((0, kh * kw), "k")

        def element(b: Any, i: Any, iy: Any, ix: Any) -> Any:
            py, px = iy + top - k // kw * dy, ix + left - k % kw * dx
            oy, ox = py // sy, px // sx
            inside = tirx.all(py >= 0, px >= 0, py % sy == 0, px % sx == 0, oy < oh, ox < ow)
            mine = tirx.all(inside, at[b, i, oy, ox] == k)
            return te.sum(tirx.if_then_else(mine, g[b, i, oy, ox], zero), axis=k)

        return te.compute((n, c, h, w), element, name="max_pool2d_gradient")

    return bb.call_te(compute, *call_.args, primfunc_name_hint="max_pool2d_gradient")


register(MAX_POOL_RESCALE, 3, _typed)
register(MAX_POOL_GRADIENT, 2, _typed, _legalize_max_pool_gradient)
