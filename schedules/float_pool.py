"""Max pooling backwards, by Rescale or as a gradient: multipliers at the input, in vectors of neighbouring positions.

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
from schedules.reads import read_row
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


def max_pool_kernel(plan: TapPlan, reference: tuple[int, ...] | None, core: CoreSpec) -> Any:
    """A PrimFunc of (multipliers at the output, input, reference input, multipliers at the input), all NCHW.

    The reference input has the shape ``reference``, any extent of which may be 1: that it is the same along this axis.
    Without it (None) there is no such argument, and all that a window gives goes to its largest input: the gradient.
    """
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
    further = [] if reference is None else [("x0", reference)]
    parameters = [("g", (batch, channels, *plan.out_size)), ("x", shape), *further, ("out", shape)]

    def body(g: Any, *images: Any) -> None:
        *given, out = images
        with loop(0, batch * channels) as index:
            n, c = index // channels, index % channels
            planes = [T.alloc_buffer((size,), "float32") for _ in given]
            shares, multipliers = T.alloc_buffer((size,), "float32"), T.alloc_buffer((count * lanes,), "float32")
            for image, buffer in zip(given, planes, strict=True):
                for parity in range(parities):
                    base = const(parity * plane)
                    fill(plan, parity, buffer, base, _reader(image, n, c), tirx.min_value("float32"))
            _clear(shares, size)
            _clear(multipliers, count * lanes)
            with T.serial(0, plan.out_size[0]) as y:
                read_row(plan.out_size[1], lambda x: T.buffer_store(multipliers, g[n, c, y, x], [y * plan.pitch + x]))
            with T.serial(0, count) as step:
                _share(plan, part.taps, planes, multipliers, shares, step * lanes, lanes)
            # Windows need not reach every position.
            with T.grid(*plan.size) as (y, x):
                T.buffer_store(out, const(0, "float32"), [n, c, y, x])
            for parity in range(parities):
                _write(plan, parity, planes, shares, out, n, c)

    return frame(parameters, body)


def _reader(image: Any, n: Any, c: Any) -> Any:
    def read(_: Any, y: Any, x: Any) -> Any:
        place = zip((n, c, y, x), image.shape, strict=True)
        return image[tuple(const(0) if int(extent) == 1 else index for index, extent in place)]

    return read


def _clear(buffer: Any, size: int) -> None:
    with T.serial(0, size) as i:
        T.buffer_store(buffer, const(0, "float32"), [i])


def _share(
    plan: TapPlan, taps: tuple[Tap, ...], planes: list[Any], multipliers: Any, shares: Any, start: Any, lanes: int
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

    found = [largest(buffer) for buffer in planes]
    g, zero = vload(multipliers, [start], lanes), splat(const(0, "float32"), lanes)
    given = [g]
    if len(found) == 2:
        y, y0 = (value for value, _ in found)
        most = held(tirx.Select(y > y0, y, y0), "float32", lanes)
        # Between rows lies nothing that could be used: g is 0 there, and what else is read may be no number.
        parts = (g * (most - y0), g * (y - most))
        given = [held(tirx.Select(g == zero, zero, value), "float32", lanes) for value in parts]
    for k, place in enumerate(places):
        terms = [
            tirx.Select(at == splat(const(k), lanes), value, zero) for (_, at), value in zip(found, given, strict=True)
        ]
        share = terms[0] + terms[1] if len(terms) == 2 else terms[0]
        vstore(T, shares, vload(shares, [place], lanes) + share, [place], lanes)


def _write(plan: TapPlan, parity: int, planes: list[Any], shares: Any, out: Any, n: Any, c: Any) -> None:
    """Emit a plane's positions in the image: what they were given, over their difference if there is a reference."""
    (y0, y1, from_y), (x0, x1, from_x) = (plan.inside(parity, axis) for axis in (0, 1))
    if y1 == y0 or x1 == x0:
        return
    base = parity * plan.rows * plan.pitch
    with T.serial(0, y1 - y0) as y, T.serial(0, x1 - x0) as x:
        place = base + (y + y0) * plan.pitch + x + x0
        value = shares[place]
        if len(planes) == 2:
            difference = planes[0][place] - planes[1][place]
            # A position with a share differs from its reference, so nothing is lost where there is no difference.
            value = value / tirx.Select(difference == const(0, "float32"), const(1, "float32"), difference)
        T.buffer_store(out, value, [n, c, y * plan.step[0] + from_y, x * plan.step[1] + from_x])
