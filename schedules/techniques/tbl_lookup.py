"""``tbl_lookup``: sums of four activations looked up in tables, for 16 channels of one-bit weights at a time.

Two bits of four activations are a byte: the number of a table of 16 bytes, the sums of every choice among the four,
of which there are 256 in all, made at compile time. Four weights are an index into it (T-MAC, Wei et al., EuroSys 2025,
has tables of rounded products; these are exact). Look-ups are added to bytes, flushed to 16 bits: `ordered_tables`.

Worst case: a 16-bit sum holds ``3 K``, or the problem is declined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.blocked import Dots, blocked, even_blocks, padded_channels, tile
from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.epilogue import Epilogue
from schedules.intrinsics import const, splat, vload, vstore
from schedules.layout import Layout, pack_planes, plane_bytes
from schedules.limits import start_cycles
from schedules.ordered_tables import CHANNELS, MOST_PIXELS, OrderedTables
from schedules.panel import Panel, copy_instructions
from schedules.pipelines import PIPELINES
from schedules.registers import Registers
from schedules.techniques.base import Array, Knobs, Technique, correction_shapes, corrections, frame, rows
from schedules.techniques.bit_serial import row_bytes, source
from schedules.vectors import assembly, call_loop, in_order, keep_rolled, transpose_sums, vectors

BITS, ENTRIES, HALF = 2, 16, 8


class TblLookup(Technique):
    """Blocks of ``mr`` pixels x 32 channels, 64 products of a pixel a look-up."""

    name = "tbl_lookup"
    needs = frozenset({"asimd"})

    def declines(self, problem: DotProblem, core: CoreSpec) -> str | None:
        """Other widths, and sums that 16 bits do not hold."""
        reason = super().declines(problem, core)
        if reason is not None:
            return reason
        if problem.a.bits != BITS or problem.w.bits != 1:
            return f"tables are for activations of {BITS} bits and weights of one, not for {problem.name}"
        if problem.k * problem.a.max_code > 65535:
            return f"the sum of {problem.k} activations may exceed 16 bits"
        return None

    def cycles(self, problem: DotProblem, core: CoreSpec) -> float:
        """Look-ups, additions, and the loads of tables and indices; patches copied and their halves exchanged."""
        p = problem
        pixels = p.batch * p.out_height * p.out_width
        mr = even_blocks(tile(p), MOST_PIXELS)
        blocks = p.groups * padded_channels(p, CHANNELS) / CHANNELS
        prepared = 2 * copy_instructions(p, BITS, plane_bytes(p.group_channels)) * core.cycles({"ldr": 1, "str": 1})
        sums = p.groups * 2 * row_bytes(p) * 0.4
        outputs = p.groups * padded_channels(p, CHANNELS) * (4 if in_order(core) else 3) / core.vector_issue
        expanded = blocks * row_bytes(p) * (16 if in_order(core) else 12) / core.vector_issue
        return (
            expanded + pixels * (blocks * (2 * row_bytes(p) * group_cycles(core, mr) + 20) + sums + outputs) + prepared
        )

    def knobs(self, problem: DotProblem, core: CoreSpec) -> Knobs:
        """Pixels to a block, and to a tile."""
        pixels = tile(problem)
        return {**super().knobs(problem, core), "mr": even_blocks(pixels, MOST_PIXELS), "tile": pixels}

    def in_layout(self, problem: DotProblem) -> Layout:
        """Bit planes, each group's channels starting at a byte."""
        return Layout("planes", problem.a.bits, problem.groups)

    def constants(self, problem: DotProblem, weights: Array, weight_offset: Array) -> list[Array]:
        """Bits ``(groups, blocks, bytes of a patch, 32)``, the tables as halves ``(2, 256, 8)``, then corrections."""
        p = problem
        grouped = weights.reshape(p.groups, p.group_out_channels, p.group_channels, *p.kernel).transpose(0, 1, 3, 4, 2)
        plane = pack_planes(grouped, 1).reshape(p.groups, p.group_out_channels, -1)
        pad = (padded_channels(p, CHANNELS) - p.group_out_channels, row_bytes(p) - plane.shape[-1])
        plane = np.pad(plane, ((0, 0), (0, pad[0]), (0, pad[1])))
        packed = plane.reshape(p.groups, -1, CHANNELS, row_bytes(p)).transpose(0, 1, 3, 2)
        return [np.ascontiguousarray(packed), tables(), *corrections(p, weights, weight_offset)]

    def unpack_weights(self, problem: DotProblem, constant: Array) -> Array:
        """The bits again."""
        p = problem
        used = p.kernel[0] * p.kernel[1] * plane_bytes(p.group_channels)
        plane = constant.transpose(0, 1, 3, 2).reshape(p.groups, -1, row_bytes(p))[:, : p.group_out_channels, :used]
        plane = plane.reshape(p.groups, p.group_out_channels, *p.kernel, -1)
        bits = np.unpackbits(plane, axis=-1, bitorder="little", count=p.group_channels)
        return bits.transpose(0, 1, 4, 2, 3).reshape(p.out_channels, p.group_channels, *p.kernel)

    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """One bit."""
        p = problem
        group, channel = o // p.group_out_channels, o % p.group_out_channels
        byte = (y * p.kernel[1] + x) * plane_bytes(p.group_channels) + c // 8
        found = at(group, channel // CHANNELS, byte, channel % CHANNELS)
        return (found >> (c % 8).astype("uint8")) & const(1, "uint8")

    def build(self, problem: DotProblem, knobs: Knobs, core: CoreSpec) -> Any:
        """See `Technique.build`."""
        p, row, v = problem, row_bytes(problem), vectors(core)
        blocks = padded_channels(p, CHANNELS) // CHANNELS
        slow, defined = in_order(core), set[str]()

        def body(x: Any, constants: list[Any], epilogue: Epilogue) -> None:
            packed, table, beta, gamma = constants
            loop = T.parallel if knobs["parallel"] else T.serial
            indices = T.alloc_buffer((p.groups, blocks, 2 * row, CHANNELS), "uint8")
            expand(packed, indices, loop, slow)

            def multiply(panel: Panel, g: Any, channel: Any, pixel: Any, pixels: int) -> list[Any]:
                written = OrderedTables(pixels, panel.stride(), 2 * row)
                places = indices[g, channel // CHANNELS, 0, 0], table[0, 0, 0]
                operands = panel.address(pixel, 0, 0), *(tirx.address_of(place) for place in places)
                return call_loop(written, defined, operands, "uint16", HALF)

            def sum_codes(panel: Panel, pixel: Any) -> Any:
                total = Registers([(0, 0)], "uint16", 4)
                with T.grid(BITS, row // HALF) as (plane, index):
                    names = panel.load(pixel, plane, index * HALF, HALF)
                    ones = tirx.popcount(names) + tirx.popcount(names & splat(const(0xF0, "uint8"), HALF))
                    total[0, 0] = total[0, 0] + v.widen_pairs(ones, "uint16", 4)
                (sums,) = transpose_sums(v, [v.widen_pairs(total[0, 0], "uint32", 2)], "uint32", 2)
                return tirx.Shuffle([sums], [0]).astype("int32")

            scale = p.a.multiplier * p.w.multiplier
            needed = sum_codes if p.needs_code_sum else None
            dots = Dots("uint16", HALF, multiply, needed, scale, prepare=lambda panel, i: name_tables(panel, i, slow))
            args = (replace(source(p, x), copied=True), dots, (beta, gamma), epilogue, HALF, slow)
            emit = blocked(p, knobs["mr"], CHANNELS, knobs["tile"], *args)
            with rows(p, knobs) as index:
                emit(index // p.out_height, index % p.out_height)

        def assembled(*args: Any) -> None:
            # Around all loops, of which the first takes the weights apart.
            with assembly(slow):
                body(*args)

        constants = [((p.groups, blocks, row, CHANNELS), "uint8"), ((2, 1 << 4 * BITS, HALF), "uint8")]
        return frame(p, self.in_layout(p), [*constants, *correction_shapes(p)], assembled)


def group_cycles(core: CoreSpec, mr: int) -> float:
    """Cycles of four activations of a pixel: two look-ups and additions, a table, its share of two index vectors."""
    if core.name not in PIPELINES:
        return core.cycles({"and": 5 + 2 / mr, "ldr": 1 + 2 / mr})
    if in_order(core):
        # A lower half's load and an upper half's move share a cycle; a single pixel's table is waited for.
        return 5.15 + 2 / mr + 2 * (mr == 1)
    moved = 1 + 2 / mr
    return start_cycles(
        PIPELINES[core.name], {"tbl1": 2.2, "simple": 2.2, "from_gpr_lane": moved, "vload": moved, "load": 1 + moved}
    )


def tables() -> Array:
    """Halves ``(2, 256, 8)`` of the tables: sums of each choice among four activations, bits 0 of all, then bits 1."""
    bits = (np.arange(1 << 4 * BITS)[:, None] >> np.arange(4 * BITS)) & 1
    activations = bits[:, :4] + 2 * bits[:, 4:]
    chosen = (np.arange(ENTRIES)[:, None] >> np.arange(4)) & 1
    sums = (activations @ chosen.T).astype(np.uint8)
    return np.ascontiguousarray(sums.reshape(-1, 2, HALF).swapaxes(0, 1))


def expand(packed: Any, indices: Any, loop: Any, rolled: bool) -> None:
    """Emit, once a call, the indices: lower halves of all bytes of a patch, then the upper ones."""
    groups, blocks, row, _ = (int(size) for size in packed.shape)
    with loop(0, groups * blocks) as block, T.serial(0, row) as byte:
        keep_rolled(rolled)
        g, b = block // blocks, block % blocks
        for at in range(0, CHANNELS, ENTRIES):
            bits = vload(packed, [g, b, byte, at], ENTRIES)
            vstore(T, indices, bits & splat(const(0x0F, "uint8"), ENTRIES), [g, b, byte, at], ENTRIES)
            vstore(T, indices, bits >> splat(const(4, "uint8"), ENTRIES), [g, b, byte + row, at], ENTRIES)


def name_tables(panel: Panel, pixel: Any, rolled: bool) -> None:
    """Emit, in place, the names of a patch's tables from its two planes: those of lower halves, then of upper ones."""
    low, high, four = (splat(const(value, "uint8"), HALF) for value in (0x0F, 0xF0, 4))
    with T.serial(0, panel.row_bytes // HALF) as index:
        keep_rolled(rolled)
        first, second = (T.alloc_buffer((HALF,), "uint8") for _ in range(2))
        for plane, buffer in enumerate((first, second)):
            vstore(T, buffer, panel.load(pixel, plane, index * HALF, HALF), [0], HALF)
        a, b = vload(first, [0], HALF), vload(second, [0], HALF)
        vstore(T, panel.buffer, (a & low) | (b << four), [pixel, 0, index * HALF], HALF)
        vstore(T, panel.buffer, (a >> four) | (b & high), [pixel, 1, index * HALF], HALF)
