"""Max pooling's Rescale: multipliers at the input from those at the output, in vectors of neighbouring positions.

With ``M = max(y, y0)`` of the pooled values, ``M - y0`` goes to the position of the largest input and ``y - M`` to that
of the largest reference input, each over that position's own difference (Shrikumar et al. 2017, as DeepLIFT's authors
and tangermeme compute it). Input, reference and shares lie in planes as `float_taps` has them, so a tap of the window
is an offset; overlapping windows add up in the order of taps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.cores import CoreSpec
from schedules.float_block import fill, frame, width
from schedules.float_taps import FloatConv, Tap, TapPlan, forward
from schedules.intrinsics import const, splat, vload, vstore
from schedules.registers import held
from schedules.techniques.base import PARALLEL_MACS


def pool_plan(window: FloatConv, out_size: tuple[int, int]) -> TapPlan:
    """The taps of a pooling, those of a depthwise convolution; its last windows may reach past the padding."""
    ends = [
        (n - 1) * s + (k - 1) * d + 1 - size - low
        for n, s, k, d, size, low in zip(
            out_size, window.stride, window.kernel, window.dilation, window.size, window.padding[:2], strict=True
        )
    ]
    plan = forward(replace(window, padding=(*window.padding[:2], ends[0], ends[1])))
    # The first of equal inputs is taken: taps in the order of the window.
    (part,) = plan.parts
    ordered = tuple(sorted(part.taps, key=lambda tap: tap.at))
    return replace(plan, parts=(replace(part, taps=ordered),))


def max_pool_kernel(plan: TapPlan, reference_batch: int, core: CoreSpec) -> Any:
    """A PrimFunc of (multipliers at the output, input, reference input, multipliers at the input), all NCHW."""
    by = width(core)
    lanes = 4 if by is None else by.lanes
    (part,) = plan.parts
    plane, parities = plan.rows * plan.pitch, len(plan.origins)
    count = -(-plan.positions(part) // lanes)
    size = parities * plane + plan.farthest + lanes
    batch, channels = plan.batch, plan.groups
    work = batch * channels * plan.out_size[0] * plan.out_size[1] * len(part.taps)
    loop = T.parallel if work >= PARALLEL_MACS else T.serial
    shape = (batch, channels, *plan.size)
    parameters = [
        ("g", (batch, channels, *plan.out_size)),
        ("x", shape),
        ("x0", (reference_batch, *shape[1:])),
        ("out", shape),
    ]

    def body(g: Any, x: Any, x0: Any, out: Any) -> None:
        with loop(0, batch * channels) as index:
            n, c = index // channels, index % channels
            n0 = n if reference_batch == batch else const(0)
            values, references, shares = (T.alloc_buffer((size,), "float32") for _ in range(3))
            given = T.alloc_buffer((count * lanes,), "float32")
            lowest = tirx.min_value("float32")
            for parity in range(parities):
                fill(plan, parity, values, const(parity * plane), lambda y, x_: x[n, c, y, x_], lowest)
                fill(plan, parity, references, const(parity * plane), lambda y, x_: x0[n0, c, y, x_], lowest)
            _clear(shares, size)
            _clear(given, count * lanes)
            with T.grid(*plan.out_size) as (y, x_):
                T.buffer_store(given, g[n, c, y, x_], [y * plan.pitch + x_])
            with T.serial(0, count) as step:
                _share(plan, part.taps, values, references, given, shares, step * lanes, lanes)
            # Windows need not reach every position.
            with T.grid(*plan.size) as (y, x_):
                T.buffer_store(out, const(0, "float32"), [n, c, y, x_])
            for parity in range(parities):
                _divide(plan, parity, values, references, shares, out, n, c)

    return frame(parameters, body)


def _clear(buffer: Any, size: int) -> None:
    with T.serial(0, size) as i:
        T.buffer_store(buffer, const(0, "float32"), [i])


def _share(
    plan: TapPlan, taps: tuple[Tap, ...], values: Any, references: Any, given: Any, shares: Any, start: Any, lanes: int
) -> None:
    """Emit what some windows give to their positions."""
    plane = plan.rows * plan.pitch
    places = [start + (tap.parity * plane + tap.dy * plan.pitch + tap.dx) for tap in taps]

    def largest(buffer: Any) -> tuple[Any, Any]:
        y, at = T.alloc_buffer((lanes,), "float32"), T.alloc_buffer((lanes,), "int32")
        for k, place in enumerate(places):
            value = held(vload(buffer, [place], lanes), "float32", lanes)
            found, where = vload(y, [0], lanes), splat(const(k), lanes)
            if k:
                where = tirx.Select(value > found, where, vload(at, [0], lanes))
                value = tirx.Select(value > found, value, found)
            vstore(T, at, where, [0], lanes)
            vstore(T, y, value, [0], lanes)
        return vload(y, [0], lanes), vload(at, [0], lanes)

    (y, at), (y0, at0) = largest(values), largest(references)
    g, zero = vload(given, [start], lanes), splat(const(0, "float32"), lanes)
    most = held(tirx.Select(y > y0, y, y0), "float32", lanes)
    # Between rows lies nothing that could be used: g is 0 there, and what else is read may be no number.
    up = held(tirx.Select(g == zero, zero, g * (most - y0)), "float32", lanes)
    down = held(tirx.Select(g == zero, zero, g * (y - most)), "float32", lanes)
    for k, place in enumerate(places):
        this = splat(const(k), lanes)
        share = tirx.Select(at == this, up, zero) + tirx.Select(at0 == this, down, zero)
        vstore(T, shares, vload(shares, [place], lanes) + share, [place], lanes)


def _divide(plan: TapPlan, parity: int, values: Any, references: Any, shares: Any, out: Any, n: Any, c: Any) -> None:
    """Emit the quotients of a plane's positions in the image, 0 for those that no window reaches."""
    (y0, y1, from_y), (x0, x1, from_x) = (plan.inside(parity, axis) for axis in (0, 1))
    if y1 == y0 or x1 == x0:
        return
    base = parity * plan.rows * plan.pitch
    with T.serial(0, y1 - y0) as y, T.serial(0, x1 - x0) as x:
        place = base + (y + y0) * plan.pitch + x + x0
        difference = values[place] - references[place]
        # A position with a share differs from its reference, so nothing is lost where there is no difference.
        over = tirx.Select(difference == const(0, "float32"), const(1, "float32"), difference)
        T.buffer_store(out, shares[place] / over, [n, c, y * plan.step[0] + from_y, x * plan.step[1] + from_x])
