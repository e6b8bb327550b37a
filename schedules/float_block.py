"""Float32 convolutions, and their transposes, in blocks of positions x channels held in registers.

Lanes are neighbouring positions of a plane (see `float_taps`); a block is ``vectors`` of them times ``channels``. Each
output is one chain of fused multiply-adds from 0, over input channels and, inside, taps in the plan's order, whatever
the core's vectors and the blocks are: the bits are the same on every core that has FMA, here and on a board.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from schedules.cores import CoreSpec
from schedules.float_taps import Part, Tap, TapPlan, packed_shape
from schedules.intrinsics import const, splat, vload, vstore
from schedules.registers import Registers
from schedules.techniques.base import PARALLEL_MACS

# Up to so many taps the machine code has them in a row; kernels of more look up where the next one lies.
UNROLLED = 16


@dataclass(frozen=True)
class Width:
    """Lanes of float32 in a register, and the blocks (vectors of positions, channels) that leave registers to spare."""

    lanes: int
    blocks: tuple[tuple[int, int], ...]
    by_lane: bool = False
    narrow: bool = False


_ARM = Width(4, ((3, 8), (2, 8), (2, 12), (4, 4), (6, 3), (8, 2), (12, 1)), by_lane=True)
_AVX2 = Width(8, ((3, 4), (2, 6), (2, 4), (4, 2), (5, 2), (10, 1)), narrow=True)
_AVX512 = Width(16, ((3, 8), (2, 12), (4, 6), (1, 16), (2, 8), (7, 3), (8, 2), (12, 1)))


def width(core: CoreSpec) -> Width | None:
    """What a core's registers hold; None for one without fused multiply-adds, whose sums would round otherwise."""
    if "asimd" in core.features:
        return _ARM
    if "avx512" in core.features:
        return _AVX512
    return _AVX2 if "fma" in core.features else None


def fma(a: Any, b: Any, c: Any, lanes: int) -> Any:
    """``a * b + c`` rounded once."""
    kind = "float32" if lanes == 1 else f"float32x{lanes}"
    return tirx.call_llvm_pure_intrin(kind, "llvm.fma", a, b, c)


def block(plan: TapPlan, by: Width) -> tuple[int, int]:
    """The vectors and channels of a block that compute the plan in the fewest steps."""

    def steps(shape: tuple[int, int]) -> float:
        vectors, channels = shape
        total = 0.0
        for part in plan.computed:
            count = -(-plan.positions(part) // by.lanes)
            whole, rest = divmod(count, vectors)
            for n, each in ((whole, vectors), (1 if rest else 0, rest)):
                # Two multiply-adds start in a cycle, two loads, and each takes about four.
                total += n * len(part.taps) * max(each * channels / 2, (each + channels) / 2, 4)
        return total * -(-plan.outputs // channels)

    return min(by.blocks, key=steps)


def conv_kernel(plan: TapPlan, core: CoreSpec) -> Any:
    """A PrimFunc of (what is read ``(N, C, H, W)``, packed weights, what is written).

    Raises
    ------
    ValueError
        If the core has no fused multiply-add.
    """
    by = width(core)
    if by is None:
        raise ValueError(f"{core.name} has no fused multiply-add")
    vectors, channels = block(plan, by)
    shape = packed_shape(plan, channels)
    work = plan.batch * plan.groups * plan.inputs * plan.outputs
    macs = work * sum(p.count[0] * p.count[1] * len(p.taps) for p in plan.computed)
    loop = T.parallel if macs >= PARALLEL_MACS else T.serial
    plane = plan.rows * plan.pitch
    count = plan.groups * plan.inputs * len(plan.origins)

    def body(x: Any, weights: Any, out: Any) -> None:
        # The last block of the last plane reads past it.
        source = T.alloc_buffer((count * plane + plan.farthest + vectors * by.lanes,), "float32")
        with T.serial(0, plan.batch) as n:
            with loop(0, plan.groups * plan.inputs) as c:
                for parity in range(len(plan.origins)):
                    base = (c * len(plan.origins) + parity) * plane
                    fill(plan, parity, source, base, lambda row, column: x[n, c, row, column], const(0, "float32"))
            with loop(0, plan.groups * shape[1]) as index:
                for part in plan.parts:
                    _part(plan, by, (vectors, channels), source, weights, out, n, index, part)

    read, written = (plan.groups * plan.inputs, *plan.size), (plan.groups * plan.outputs, *plan.out_size)
    return frame([("x", (plan.batch, *read)), ("weights", shape), ("out", (plan.batch, *written))], body)


def frame(parameters: Sequence[tuple[Any, ...]], body: Callable[..., None]) -> Any:
    """A PrimFunc whose loops ``body(*buffers)`` emits; a parameter is a name, a shape and, unless float32, a dtype."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("main")
        # 8 is "opaque": fusion must leave a hand-scheduled kernel alone.
        T.func_attr({"global_symbol": "main", "tirx.noalias": True, "op_pattern": 8, "tirx.is_scheduled": True})
        body(*(T.arg(name, T.buffer(shape, *(dtype or ["float32"]))) for name, shape, *dtype in parameters))
    return builder.get()


def fill(plan: TapPlan, parity: int, source: Any, base: Any, read: Callable[[Any, Any], Any], outside: Any) -> None:
    """Emit the copy of one channel's positions of a parity into its plane at ``base``; ``read(row, column)`` reads."""
    (y0, y1, from_y), (x0, x1, from_x) = (plan.inside(parity, axis) for axis in (0, 1))

    def clear(start: Any, length: int) -> None:
        if length:
            with T.serial(0, length) as i:
                T.buffer_store(source, outside, [start + i])

    clear(base, y0 * plan.pitch)
    if y1 > y0:
        with T.serial(0, y1 - y0) as y:
            row = base + (y + y0) * plan.pitch
            clear(row, x0)
            if x1 > x0:
                with T.serial(0, x1 - x0) as i:
                    value = read(y * plan.step[0] + from_y, i * plan.step[1] + from_x)
                    T.buffer_store(source, value, [row + x0 + i])
            clear(row + x1, plan.pitch - x1)
    clear(base + y1 * plan.pitch, (plan.rows - y1) * plan.pitch)


def _part(
    plan: TapPlan,
    by: Width,
    shape: tuple[int, int],
    source: Any,
    weights: Any,
    out: Any,
    n: Any,
    index: Any,
    part: Part,
) -> None:
    """Emit one part of a block of channels: its sums into a scratch plane each, and from there what is kept."""
    if min(part.count) < 1:
        return
    vectors, channels = shape
    blocks = -(-plan.outputs // channels)
    g, cb = index // blocks, index % blocks
    sums = None
    if part.taps:
        count = -(-plan.positions(part) // by.lanes)
        sums = T.alloc_buffer((channels, count * by.lanes), "float32")
        first = sum(len(p.taps) for p in plan.computed[: plan.computed.index(part)])

        def tile(start: Any, number: int) -> None:
            acc = _sums(plan, by, source, weights, (g, cb), start, number, channels, part.taps, first)
            for i in range(number):
                for j in range(channels):
                    vstore(T, sums, acc[i, j], [j, start + i * by.lanes], by.lanes)

        whole, rest = divmod(count, vectors)
        if whole:
            with T.serial(0, whole) as t:
                tile(t * (vectors * by.lanes), vectors)
        if rest:
            tile(const(whole * vectors * by.lanes), rest)
    kept = channels if plan.outputs % channels == 0 else tirx.min(const(channels), plan.outputs - cb * channels)
    with T.serial(0, kept) as j, T.serial(0, part.count[0]) as y, T.serial(0, part.count[1]) as x:
        value = const(0, "float32") if sums is None else sums[j, y * plan.pitch + x]
        at = (y * part.step[0] + part.start[0], x * part.step[1] + part.start[1])
        T.buffer_store(out, value, [n, g * plan.outputs + cb * channels + j, *at])


def _sums(
    plan: TapPlan,
    by: Width,
    source: Any,
    weights: Any,
    where: tuple[Any, Any],
    start: Any,
    vectors: int,
    channels: int,
    taps: Sequence[Tap],
    first: int,
) -> Registers:
    """Emit the sums of one block."""
    g, cb = where
    acc = Registers([(i, j) for i in range(vectors) for j in range(channels)], "float32", by.lanes)
    plane, parities = plan.rows * plan.pitch, len(plan.origins)

    def add(c: Any, tap: Any, place: Any) -> None:
        base = (g * plan.inputs + c) * (parities * plane) + place + start
        xs = Registers([(i, 0) for i in range(vectors)], "float32", by.lanes, clear=False)
        for i in range(vectors):
            xs[i, 0] = vload(source, [base + i * by.lanes], by.lanes)
        for j in range(channels):
            w = _weight(by, weights, [g, cb, c, tap], j, channels)
            for i in range(vectors):
                acc[i, j] = fma(xs[i, 0], w, acc[i, j], by.lanes)

    places = [const(tap.parity * plane + tap.dy * plan.pitch + tap.dx) for tap in taps]
    if len(taps) <= UNROLLED:
        with T.serial(0, plan.inputs) as c:
            for t, place in enumerate(places):
                add(c, const(first + t), place)
        return acc
    table = T.alloc_buffer((len(taps),), "int32")
    for t, place in enumerate(places):
        T.buffer_store(table, place, [t])
    with T.serial(0, plan.inputs) as c, T.serial(0, len(taps)) as t:
        add(c, first + t, table[t])
    return acc


def _weight(by: Width, weights: Any, at: list[Any], j: int, channels: int) -> Any:
    """One weight in all lanes."""
    if by.by_lane and channels % by.lanes == 0:
        four = vload(weights, [*at, const(j // by.lanes * by.lanes)], by.lanes)
        return splat(tirx.Shuffle([four], [j % by.lanes]), by.lanes)
    return splat(weights[(*at, j)], by.lanes)
