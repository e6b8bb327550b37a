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


register(MAX_POOL_RESCALE, 3, _typed)
register(MAX_POOL_GRADIENT, 2, _typed)
