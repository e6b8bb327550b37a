"""Float32 convolutions, and their transposes, in blocks of positions x channels held in registers.

Lanes are neighbouring positions of a plane (see `float_taps`); a block is ``vectors`` of them times ``channels``. Each
output is one chain of fused multiply-adds from 0, over input channels and, inside, taps in the plan's order, whatever
the core's vectors and the blocks are: the bits are the same on every core that has FMA, here and on a board.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from schedules.cores import CoreSpec
from schedules.float_taps import Part, Tap, TapPlan, packed_shape
from schedules.intrinsics import const, splat, vload, vstore
from schedules.reads import read_row
from schedules.registers import Registers
from schedules.techniques.base import PARALLEL_MACS

# Parameters, and what emits the packing of one block of weights from these.
Unpacked = tuple[Sequence[tuple[Any, ...]], Callable[..., None]]
# Up to so many taps the machine code has them in a row; kernels of more look up where the next one lies.
UNROLLED = 16
# The most images of a batch side by side in a plane: more would take the planes out of the caches.
MOST_BESIDE = 8


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


def block(plan: TapPlan, by: Width, channels: int | None = None) -> tuple[int, int]:
    """The vectors and channels of a block that compute the plan in the fewest steps; of those with so many channels."""

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

    return min((shape for shape in by.blocks if channels in (None, shape[1])), key=steps)


def images_beside(plan: TapPlan) -> int:
    """How many images are computed at once: several where their planes are less than the weights, read once for all."""
    weights = plan.outputs * len(plan.taps)
    most = min(plan.batch, MOST_BESIDE) if weights > len(plan.origins) * plan.rows * plan.pitch else 1
    return max(n for n in range(1, most + 1) if plan.batch % n == 0)


def conv_kernel(
    plan: TapPlan,
    core: CoreSpec,
    stored: TapPlan | None = None,
    function: Callable[[Any], Any] | None = None,
    unpacked: Unpacked | None = None,
) -> Any:
    """A PrimFunc of (what is read ``(N, C, H, W)``, packed weights or what they are made from, what is written).

    Parameters
    ----------
    plan : TapPlan
        What to compute.
    core : CoreSpec
        What to compile for.
    stored : TapPlan, optional
        The plan whose kernel the weights are packed for, if not for this one: a transpose may read the constant of its
        convolution.
    function : callable, optional
        Applied to each weight as it is read.
    unpacked : tuple, optional
        What weights are made from, block by block, where they are not packed: the parameters, and what emits it
        (`float_pack.pack_block`).

    Raises
    ------
    ValueError
        If the core has no fused multiply-add.
    """
    by = width(core)
    if by is None:
        raise ValueError(f"{core.name} has no fused multiply-add")
    shape = packed_shape(stored or plan, block(stored or plan, by)[1])
    wide = replace(plan, beside=images_beside(plan))
    # The weights' own layout gives the channels.
    chosen = block(wide, by, shape[-1] if stored is None else None)

    sources, pack = unpacked or ([("weights", shape)], None)

    def body(x: Any, *buffers: Any) -> None:
        *weights, out = buffers
        _Loops(wide, by, chosen, (stored, function, pack), x, weights, out).emit()

    read, written = (plan.groups * plan.inputs, *plan.size), (plan.groups * plan.outputs, *plan.out_size)
    return frame([("x", (plan.batch, *read)), *sources, ("out", (plan.batch, *written))], body)


def frame(parameters: Sequence[tuple[Any, ...]], body: Callable[..., None]) -> Any:
    """A PrimFunc whose loops ``body(*buffers)`` emits; a parameter is a name, a shape and, unless float32, a dtype."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("main")
        # 8 is "opaque": fusion must leave a hand-scheduled kernel alone.
        T.func_attr({"global_symbol": "main", "tirx.noalias": True, "op_pattern": 8, "tirx.is_scheduled": True})
        body(*(T.arg(name, T.buffer(shape, *(dtype or ["float32"]))) for name, shape, *dtype in parameters))
    return builder.get()


def fill(plan: TapPlan, parity: int, source: Any, base: Any, read: Callable[..., Any], outside: Any) -> None:
    """Emit the copy of one channel's positions of a parity into its plane at ``base``.

    ``read(image, row, column)`` reads of the images that lie side by side.
    """
    (y0, y1, from_y), (x0, x1, from_x) = (plan.inside(parity, axis) for axis in (0, 1))

    def clear(start: Any, length: int) -> None:
        if length:
            with T.serial(0, length) as i:
                T.buffer_store(source, outside, [start + i])

    clear(base, y0 * plan.pitch)
    if y1 > y0:
        with T.serial(0, y1 - y0) as y:
            row = base + (y + y0) * plan.pitch
            clear(row, plan.pitch if plan.beside > 1 else x0)
            if x1 > x0:
                with T.serial(0, plan.beside) as n:

                    def copy(i: Any) -> None:
                        value = read(n, y * plan.step[0] + from_y, i * plan.step[1] + from_x)
                        T.buffer_store(source, value, [row + n * plan.apart + x0 + i])

                    read_row(x1 - x0, copy)
            clear(row + x1, plan.pitch - x1 if plan.beside == 1 else 0)
    clear(base + y1 * plan.pitch, (plan.rows - y1) * plan.pitch)


class _Loops:
    """The loops of one kernel."""

    def __init__(
        self,
        plan: TapPlan,
        by: Width,
        shape: tuple[int, int],
        weighing: tuple[TapPlan | None, Callable[[Any], Any] | None, Callable[..., None] | None],
        x: Any,
        weights: Sequence[Any],
        out: Any,
    ) -> None:
        self.plan, self.by, (self.stored, self.function, self.pack) = plan, by, weighing
        self.x, self.given, self.out = x, weights, out
        self.weights = weights[0]
        self.vectors, self.channels = shape
        self.plane = plan.rows * plan.pitch
        count = plan.groups * plan.inputs * len(plan.origins)
        # The last block of the last plane reads past it.
        self.source = T.alloc_buffer((count * self.plane + plan.farthest + self.vectors * by.lanes,), "float32")
        self.index_of = {tap.at: i for i, tap in enumerate((self.stored or plan).taps)}

    def emit(self) -> None:
        """Emit all: for images side by side, first the planes, then block by block of channels what they give."""
        plan, x = self.plan, self.x
        products = sum(p.count[0] * p.count[1] * len(p.taps) for p in plan.computed) * plan.inputs * plan.outputs
        loop = T.parallel if plan.batch * plan.groups * products >= PARALLEL_MACS else T.serial
        blocks = -(-plan.outputs // self.channels)
        with T.serial(0, plan.batch // plan.beside) as several:
            first = several * plan.beside
            with loop(0, plan.groups * plan.inputs) as c:
                for parity in range(len(plan.origins)):
                    base = (c * len(plan.origins) + parity) * self.plane
                    fill(plan, parity, self.source, base, lambda n, y, x_: x[first + n, c, y, x_], const(0, "float32"))
            with loop(0, plan.groups * blocks) as index:
                g, cb = index // blocks, index % blocks
                if self.pack is not None:
                    self.weights = T.alloc_buffer((1, 1, *packed_shape(plan, self.channels)[2:]), "float32")
                    self.pack(self.given, self.weights, g, cb, (const(0), const(0)))
                for part in plan.parts:
                    if min(part.count) > 0:
                        self._part(first, g, cb, part)

    def _part(self, image: Any, g: Any, cb: Any, part: Part) -> None:
        """Emit one part of a block of channels: its sums into a scratch plane each, and from there what is kept."""
        plan, lanes = self.plan, self.by.lanes
        sums = None
        if part.taps:
            count = -(-plan.positions(part) // lanes)
            sums = T.alloc_buffer((self.channels, count * lanes), "float32")

            def tile(start: Any, number: int) -> None:
                acc = self._sums(g, cb, start, number, part.taps)
                for i in range(number):
                    for j in range(self.channels):
                        vstore(T, sums, acc[i, j], [j, start + i * lanes], lanes)

            whole, rest = divmod(count, self.vectors)
            if whole:
                with T.serial(0, whole) as t:
                    tile(t * (self.vectors * lanes), self.vectors)
            if rest:
                tile(const(whole * self.vectors * lanes), rest)
        first = cb * self.channels
        kept = self.channels if self._whole else tirx.min(const(self.channels), plan.outputs - first)
        with T.grid(kept, plan.beside, *part.count) as (j, n, y, x):
            value = const(0, "float32") if sums is None else sums[j, y * plan.pitch + n * plan.apart + x]
            at = (y * part.step[0] + part.start[0], x * part.step[1] + part.start[1])
            T.buffer_store(self.out, value, [image + n, g * plan.outputs + first + j, *at])

    @property
    def _whole(self) -> bool:
        """Whether all blocks of channels are full."""
        return self.plan.outputs % self.channels == 0

    def _sums(self, g: Any, cb: Any, start: Any, vectors: int, taps: Sequence[Tap]) -> Registers:
        """Emit the sums of one block of positions and channels."""
        plan, lanes = self.plan, self.by.lanes
        acc = Registers([(i, j) for i in range(vectors) for j in range(self.channels)], "float32", lanes)

        def add(c: Any, tap: Any, offset: Any) -> None:
            base = (g * plan.inputs + c) * (len(plan.origins) * self.plane) + offset + start
            xs = Registers([(i, 0) for i in range(vectors)], "float32", lanes, clear=False)
            for i in range(vectors):
                xs[i, 0] = vload(self.source, [base + i * lanes], lanes)
            for j in range(self.channels):
                w = self._weight(g, cb, c, tap, j)
                for i in range(vectors):
                    acc[i, j] = fma(xs[i, 0], w, acc[i, j], lanes)

        places = [
            (const(self.index_of[tap.at]), const(tap.parity * self.plane + tap.dy * plan.pitch + tap.dx))
            for tap in taps
        ]
        if len(taps) <= UNROLLED:
            with T.serial(0, plan.inputs) as c:
                for place in places:
                    add(c, *place)
            return acc
        table = T.alloc_buffer((len(taps), 2), "int32")
        for t, place in enumerate(places):
            for i in range(2):
                T.buffer_store(table, place[i], [t, i])
        with T.serial(0, plan.inputs) as c, T.serial(0, len(taps)) as t:
            add(c, table[t, 0], table[t, 1])
        return acc

    def _weight(self, g: Any, cb: Any, c: Any, tap: Any, j: int) -> Any:
        """One weight in all lanes."""
        lanes = self.by.lanes
        if self.pack is not None:
            g, cb = const(0), const(0)
        if self.stored is None and self.by.by_lane and self.channels % lanes == 0:
            four = vload(self.weights, [g, cb, c, tap, const(j // lanes * lanes)], lanes)
            return splat(self._applied(tirx.Shuffle([four], [j % lanes])), lanes)
        if self.stored is None:
            return splat(self._applied(self.weights[g, cb, c, tap, j]), lanes)
        per = int(self.weights.shape[-1])
        output = cb * self.channels + j
        # What is past the last channel is computed and not kept: any weight will do.
        output = output if self._whole else tirx.min(output, const(self.plan.outputs - 1))
        return splat(self._applied(self.weights[g, c // per, output, tap, c % per]), lanes)

    def _applied(self, weight: Any) -> Any:
        return weight if self.function is None else self.function(weight)
