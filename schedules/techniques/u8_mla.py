"""``u8_mla``: products of codes in bytes, two to each 16-bit lane of MLA; for few bits, where the core multiplies fast.

Activations are plain codes, weights unsigned codes; offsets are corrected afterwards from the sum of a patch's codes.
Weights are packed at their bits and taken apart once a call. What a lane may hold, and when it is flushed: `pair_dot`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.blocked import Blocks, Dots, across, along, even_blocks, padded_channels
from schedules.code_sum import RunningSum, when
from schedules.compact import pack_vectors, per_byte
from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.epilogue import Epilogue
from schedules.intrinsics import const, splat, vload, vstore
from schedules.knob_space import Space, around
from schedules.layout import Layout
from schedules.ordered_pairs import UNIT
from schedules.pair_chunks import bias, centre, centred, chunk, largest_product, needs_sum, padded_pairs, pairs, span
from schedules.pair_dot import BYTES, LANES, PairDot
from schedules.pair_tiles import PATCHES, SUMS, Reckoning, plan
from schedules.panel import Panel, Source, copy_instructions
from schedules.techniques.base import (
    PARALLEL_MACS,
    Array,
    Knobs,
    Technique,
    correction_shapes,
    corrections,
    frame,
    rows,
)
from schedules.vectors import Vectors, assembly, in_order, keep_rolled, vectors

# The widest block of channels that the packed weights are padded for.
NR_LIMIT = 16
# Pixels to a block and to a tile that a search tries, where tiles do not end with a row.
BLOCKS, TILES = (6, 7, 8, 9, 10, 11), (10, 11, 13, 20, 22, 25, 30, 33, 40, 49, 50, 64, 98)
# Pixels that a tile of a row has at least.
BLOCK = 9


class U8Mla(Technique):
    """Blocks of ``mr`` pixels x ``nr`` channels held in registers, 16 products an instruction."""

    name = "u8_mla"

    def declines(self, problem: DotProblem, core: CoreSpec) -> str | None:
        """Two products must fit a byte."""
        reason = super().declines(problem, core)
        if reason is None and not chunk(problem):
            largest = 2 * largest_product(problem)
            reason = f"two products of {problem.name} may sum to {largest}; a byte holds 255"
        return reason

    def cycles(self, problem: DotProblem, core: CoreSpec) -> float:
        """The multiplications, their loads and flushes; weights taken apart; patches copied."""
        p = problem
        pixels = p.batch * p.out_height * p.out_width
        copies = copy_instructions(p, 1, p.group_channels) * core.cycles({"ldr": 1, "str": 1}) * (1 + centred(p))
        others = pixels * p.groups * padded_channels(p, LANES) * 4 / core.vector_issue
        unpacked = p.groups * padded_channels(p, NR_LIMIT) / LANES * pairs(p) * 4 / core.vector_issue
        if in_order(core):
            layer = self.reckoning(p)
            # Sums of codes cost little where patches are copied, eight bytes a cycle where they are not.
            direct = p.kernel == p.stride == (1, 1) and not any(p.padding)
            summed = pixels * p.groups * pairs(p) / UNIT if direct and needs_sum(p) else copies
            return layer.computed(*plan(layer, p.macs >= PARALLEL_MACS)) + summed + others + unpacked
        flush = (1.5 if centred(p) else 1) / chunk(p)
        step = core.cycles({"mla": 1 + flush, "and": 0.15 + 1 / even_blocks(tile(p)[0], BLOCK)})
        products = pixels * p.groups * padded_channels(p, LANES) * pairs(p) / LANES * step
        return products + pixels * needs_sum(p) * p.groups * pairs(p) * 0.5 + copies + others + unpacked

    def knobs(self, problem: DotProblem, core: CoreSpec) -> Knobs:
        """``ordered``: see `ordered_pairs`."""
        usual, ordered = super().knobs(problem, core), in_order(core)
        pixels, mr = plan(self.reckoning(problem), bool(usual["parallel"])) if ordered else tile(problem)
        return {**usual, "mr": mr, "nr": 8, "tile": pixels, "ordered": int(ordered)}

    def space(self, problem: DotProblem, core: CoreSpec) -> Space:
        """Blocks and tiles of any size, where loops are written out."""
        own, total = self.knobs(problem, core), problem.batch * problem.out_height * problem.out_width
        more = {"mr": BLOCKS, "tile": [tile for tile in TILES if tile <= total]} if own["ordered"] else {}
        return around(own, problem, more)

    def in_layout(self, problem: DotProblem) -> Layout:
        """Plain codes."""
        return Layout()

    def constants(self, problem: DotProblem, weights: Array, weight_offset: Array) -> list[Array]:
        """Codes, several to a byte: ``(groups, blocks of 8, vectors, 16)``; then corrections.

        A vector holds those of successive pairs, each for 8 channels the pair's second code, then its first.
        """
        p = problem
        grouped = weights.reshape(p.groups, p.group_out_channels, p.group_channels, *p.kernel).transpose(0, 1, 3, 4, 2)
        flat = grouped.reshape(p.groups, p.group_out_channels, p.k)
        pad = (padded_channels(p, NR_LIMIT) - p.group_out_channels, 2 * pairs(p) - p.k)
        # What pads a patch must stand for nothing.
        nothing = centre(p.w) if centred(p) else 0
        flat = np.pad(flat, ((0, 0), (0, pad[0]), (0, pad[1])), constant_values=nothing)
        codes = np.full((p.groups, flat.shape[1] // LANES, padded_pairs(p), BYTES), nothing, np.uint8)
        codes[(slice(None), slice(None), *self._stand(p))] = flat.reshape(p.groups, -1, LANES, flat.shape[2])
        packed = pack_vectors(codes, p.w.bits)
        beta, gamma = corrections(p, weights, weight_offset)
        if centred(p):
            # sum(a w) = sum(a' w') + c_w sum(a) + c_a sum(w'), of which the second meets the offset of the weights.
            beta = np.zeros_like(beta)
            sums = (weights.astype(np.int64) - centre(p.w)).sum(axis=(1, 2, 3))
            rest = p.a.multiplier * (centre(p.a) * sums - self.dot(p).flushes() * (bias(p) >> 8))
            gamma = (gamma + rest).astype(gamma.dtype)
        return [packed, beta, gamma]

    def unpack_weights(self, problem: DotProblem, constant: Array) -> Array:
        """The codes again."""
        p, per = problem, per_byte(problem.w.bits)
        shifts = (p.w.bits * np.arange(per, dtype=np.uint8))[:, None]
        places = (constant[:, :, :, None, :] >> shifts) & p.w.max_code
        codes = places.reshape(p.groups, constant.shape[1], padded_pairs(p), BYTES)
        flat = codes[(slice(None), slice(None), *self._stand(p))].reshape(p.groups, -1, 2 * pairs(p))
        used = flat[:, : p.group_out_channels, : p.k].astype(np.uint8)
        grouped = used.reshape(p.groups, p.group_out_channels, *p.kernel, p.group_channels)
        return grouped.transpose(0, 1, 4, 2, 3).reshape(p.out_channels, p.group_channels, *p.kernel)

    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """The bits of one place of one byte."""
        p, per = problem, per_byte(problem.w.bits)
        group, channel = o // p.group_out_channels, o % p.group_out_channels
        k = (y * p.kernel[1] + x) * p.group_channels + c
        vector, place = self.stands(p, channel % LANES, k, tirx.Select)
        byte = at(group, channel // LANES, vector // per, place)
        return (byte >> (vector % per * p.w.bits).astype("uint8")) & const(p.w.max_code, "uint8")

    def stands(self, problem: DotProblem, lane: Any, k: Any, choose: Callable[..., Any]) -> tuple[Any, Any]:
        """Of a block of eight channels, the vector and its byte with a channel's ``k``-th code, of NumPy or in TIR."""
        return k // 2, lane * 2 + 1 - k % 2

    def _stand(self, problem: DotProblem) -> tuple[Array, Array]:
        """The same of all, each ``(channels, codes)``."""
        lane, k = np.meshgrid(np.arange(LANES), np.arange(2 * pairs(problem)), indexing="ij")
        return self.stands(problem, lane, k, np.where)

    def build(self, problem: DotProblem, knobs: Knobs, core: CoreSpec) -> Any:
        """See `Technique.build`."""
        p = problem
        nr = knobs["nr"]
        dot = self.dot(p, nr, core, bool(knobs["ordered"]))
        blocks = padded_channels(p, NR_LIMIT) // LANES
        shape = (p.groups, blocks, padded_pairs(p) // per_byte(p.w.bits), BYTES)
        zero = const(p.a.zero_code or 0, "uint8")

        def body(x: Any, constants: list[Any], epilogue: Epilogue) -> None:
            packed, beta, gamma = constants
            loop = T.parallel if knobs["parallel"] else T.serial
            weights = T.alloc_buffer((p.groups, blocks, padded_pairs(p), BYTES), "uint8")
            self.expand(p, packed, weights, loop, dot.ordered)

            def multiply(panel: Panel, g: Any, channel: Any, pixel: Any, pixels: int) -> list[Any]:
                def place(b: int, pair: Any) -> tuple[Any, list[Any]]:
                    return weights, [g, channel // LANES + b, pair, 0]

                return dot.multiply(panel, place, pixel, pixels)

            scale = p.a.multiplier * p.w.multiplier
            needed = dot.sum_codes if needs_sum(p) else None
            prepare = (lambda panel, i: subtract(panel, i, centre(p.a), dot.ordered)) if centred(p) else None
            # Others load while they add, and patches of a row are copied at once.
            often = when(p, p.group_channels) if dot.ordered else None
            running = None if often is None else (lambda store, after: RunningSum(dot.v, store, after, often))
            dots = Dots(dot.dtype, dot.lanes, multiply, needed, scale, centred(p), prepare, running=running)
            source = Source(
                1,
                p.group_channels,
                lambda n, y, ix, g, plane: (x, [n, y, ix, g * p.group_channels]),
                lambda *_: zero,
                copied=centred(p),
            )
            every = Blocks(
                p, knobs["mr"], nr, source, dots, (beta, gamma), epilogue, 2 * UNIT, dot.ordered, dot.ordered
            )
            if dot.ordered:
                across(every, knobs["tile"], self.reckoning(p).most, loop)
                return
            with rows(p, knobs) as index:
                along(every, knobs["tile"], index // p.out_height, index % p.out_height)

        def assembled(*args: Any) -> None:
            # Around all loops, of which the first takes the weights apart.
            with assembly(dot.ordered):
                body(*args)

        return frame(p, self.in_layout(p), [(shape, "uint8"), *correction_shapes(p)], assembled)

    def dot(self, problem: DotProblem, nr: int = LANES, core: CoreSpec | None = None, ordered: bool = False) -> PairDot:
        """The inner loops of a block."""
        p = problem
        v = Vectors() if core is None else vectors(core)
        return PairDot(v, pairs(p), nr, chunk(p), span(p), p.a.max_code, bias(p), ordered)

    def reckoning(self, problem: DotProblem) -> Reckoning:
        """What an in-order core's time is reckoned from."""
        p, total = problem, problem.batch * problem.out_height * problem.out_width
        return Reckoning(total, pairs(p), chunk(p), p.groups, p.group_out_channels, 1.5 if centred(p) else 1)

    def expand(self, problem: DotProblem, packed: Any, weights: Any, loop: Any, rolled: bool) -> None:
        """Emit, once a call, the codes of pairs as bytes."""
        p, per = problem, per_byte(problem.w.bits)
        blocks, vectors_ = weights.shape[1], padded_pairs(p) // per
        # Two vectors at a time, so that an in-order core does not wait for either.
        together = 2 if rolled and vectors_ % 2 == 0 else 1
        with loop(0, p.groups * blocks) as block, T.serial(0, vectors_ // together) as step:
            keep_rolled(rolled)
            at = [block // blocks, block % blocks]
            for v in [step * together + i for i in range(together)]:
                for place in range(per):
                    code = vload(packed, [*at, v, 0], BYTES)
                    if place:
                        code = code >> splat(const(place * p.w.bits, "uint8"), BYTES)
                    if (place + 1) * p.w.bits < 8:
                        code = code & splat(const(p.w.max_code, "uint8"), BYTES)
                    if centred(p):
                        code = less(code, centre(p.w), BYTES)
                    vstore(T, weights, code, [*at, v * per + place, 0], BYTES)


def less(codes: Any, centre: int, lanes: int) -> Any:
    """Pairs of codes less a centre each, as one 16-bit number: borrows reach from the first into the second."""
    pairs = tirx.reinterpret(f"uint16x{lanes // 2}", codes) - splat(const(centre * 257, "uint16"), lanes // 2)
    return tirx.reinterpret(f"uint8x{lanes}", pairs)


def subtract(panel: Panel, pixel: Any, centre: int, rolled: bool) -> None:
    """Emit the centring of a patch in place."""
    with T.serial(0, panel.row_bytes // (2 * UNIT)) as index:
        keep_rolled(rolled)
        value = less(panel.load(pixel, 0, index * 2 * UNIT, 2 * UNIT), centre, 2 * UNIT)
        vstore(T, panel.buffer, value, [pixel, 0, index * 2 * UNIT], 2 * UNIT)


def tile(problem: DotProblem) -> tuple[int, int]:
    """Equal parts of a row whose sums take 16 KiB and whose patches take 24 KiB; to a block, few that LLVM orders."""
    p = problem
    most = max(BLOCK, min(SUMS // (2 * p.out_channels), PATCHES // (2 * pairs(p))))
    pixels = even_blocks(p.out_width, most)
    return pixels, even_blocks(pixels, 4)
