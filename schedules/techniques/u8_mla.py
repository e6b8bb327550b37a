"""``u8_mla``: products of codes in bytes, two to each 16-bit lane of MLA; for few bits, where the core multiplies fast.

Activations are plain codes, weights unsigned codes; offsets are corrected afterwards from the sum of a patch's codes.
Weights are packed at their bits and taken apart once a call. What a lane may hold, and when it is flushed: `pair_dot`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from schedules.blocked import Dots, blocked, even_blocks, padded_channels
from schedules.compact import per_byte
from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.epilogue import Epilogue
from schedules.intrinsics import const, splat, vload, vstore
from schedules.layout import Layout
from schedules.ordered_pairs import MOST_PIXELS, UNIT, body
from schedules.pair_dot import BYTES, LANES, PairDot
from schedules.panel import Panel, Source, copy_instructions
from schedules.techniques.base import Array, Knobs, Technique, correction_shapes, corrections, frame, rows
from schedules.vectors import assembly, in_order, keep_rolled, vectors

# The widest block of channels that the packed weights are padded for.
NR_LIMIT = 16
# A round of the loop multiplies no more pairs than this.
MOST_PAIRS = 32


class U8Mla(Technique):
    """Blocks of ``mr`` pixels x ``nr`` channels held in registers, 16 products an instruction."""

    name = "u8_mla"

    def declines(self, problem: DotProblem, core: CoreSpec) -> str | None:
        """Two products must fit a byte."""
        reason = super().declines(problem, core)
        if reason is None and not fitting(problem):
            largest = 2 * largest_product(problem)
            reason = f"two products of {problem.name} may sum to {largest}; a byte holds 255"
        return reason

    def cycles(self, problem: DotProblem, core: CoreSpec) -> float:
        """The multiplications, their loads and flushes; weights taken apart; patches copied."""
        p = problem
        mr = even_blocks(tile(p), MOST_PIXELS)
        step = core.cycles({"mla": 1 + 1 / chunk(p), "and": 0.15 + 1 / mr})
        copies = copy_instructions(p, 1, p.group_channels) * core.cycles({"ldr": 1, "str": 1})
        each = pairs(p) / LANES * step + 4 / core.vector_issue
        outputs = p.groups * padded_channels(p, LANES) * each + p.needs_code_sum * p.groups * pairs(p) * 0.5
        unpacked = p.groups * padded_channels(p, NR_LIMIT) / LANES * pairs(p) * 4 / core.vector_issue
        return p.batch * p.out_height * p.out_width * outputs + copies + unpacked

    def knobs(self, problem: DotProblem, core: CoreSpec) -> Knobs:
        """``ordered``: see `ordered_pairs`."""
        pixels = tile(problem)
        limits = {"mr": even_blocks(pixels, MOST_PIXELS), "nr": 8, "tile": pixels, "ordered": int(in_order(core))}
        return {**super().knobs(problem, core), **limits}

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
        pad = (padded_channels(p, NR_LIMIT) - p.group_out_channels, 2 * padded_pairs(p) - p.k)
        flat = np.pad(flat, ((0, 0), (0, pad[0]), (0, pad[1])))
        per = per_byte(p.w.bits)
        # (groups, blocks, channel, vector, place, code of the pair)
        split = flat.reshape(p.groups, -1, LANES, padded_pairs(p) // per, per, 2)[..., ::-1]
        split = split.transpose(0, 1, 3, 4, 2, 5).reshape(p.groups, split.shape[1], -1, per, BYTES)
        shifts = (p.w.bits * np.arange(per, dtype=np.uint8))[:, None]
        packed = np.bitwise_or.reduce(split << shifts, axis=3).astype(np.uint8)
        return [packed, *corrections(p, weights, weight_offset)]

    def unpack_weights(self, problem: DotProblem, constant: Array) -> Array:
        """The codes again."""
        p, per = problem, per_byte(problem.w.bits)
        shifts = (p.w.bits * np.arange(per, dtype=np.uint8))[:, None]
        places = (constant[:, :, :, None, :] >> shifts) & p.w.max_code
        codes = places.reshape(p.groups, constant.shape[1], padded_pairs(p), LANES, 2)[..., ::-1]
        flat = codes.transpose(0, 1, 3, 2, 4).reshape(p.groups, -1, 2 * padded_pairs(p))
        used = flat[:, : p.group_out_channels, : p.k].astype(np.uint8)
        grouped = used.reshape(p.groups, p.group_out_channels, *p.kernel, p.group_channels)
        return grouped.transpose(0, 1, 4, 2, 3).reshape(p.out_channels, p.group_channels, *p.kernel)

    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """The bits of one place of one byte."""
        p, per = problem, per_byte(problem.w.bits)
        group, channel = o // p.group_out_channels, o % p.group_out_channels
        k = (y * p.kernel[1] + x) * p.group_channels + c
        byte = at(group, channel // LANES, k // 2 // per, channel % LANES * 2 + 1 - k % 2)
        return (byte >> (k // 2 % per * p.w.bits).astype("uint8")) & const(p.w.max_code, "uint8")

    def build(self, problem: DotProblem, knobs: Knobs, core: CoreSpec) -> Any:
        """See `Technique.build`."""
        p = problem
        nr = knobs["nr"]
        dot = PairDot(vectors(core), pairs(p), nr, chunk(p), span(p), p.a.max_code, bool(knobs["ordered"]))
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
            dots = Dots(dot.dtype, dot.lanes, multiply, dot.sum_codes if p.needs_code_sum else None, scale)
            source = Source(
                1, p.group_channels, lambda n, y, ix, g, plane: (x, [n, y, ix, g * p.group_channels]), lambda *_: zero
            )
            row = blocked(
                p, knobs["mr"], nr, knobs["tile"], source, dots, (beta, gamma), epilogue, 2 * UNIT, dot.ordered
            )
            with rows(p, knobs) as index:
                row(index // p.out_height, index % p.out_height)

        def assembled(*args: Any) -> None:
            # Around all loops, of which the first takes the weights apart.
            with assembly(dot.ordered):
                body(*args)

        return frame(p, self.in_layout(p), [(shape, "uint8"), *correction_shapes(p)], assembled)

    def expand(self, problem: DotProblem, packed: Any, weights: Any, loop: Any, rolled: bool) -> None:
        """Emit, once a call, the codes of pairs as bytes."""
        p, per = problem, per_byte(problem.w.bits)
        blocks, vectors_ = weights.shape[1], padded_pairs(p) // per
        with loop(0, p.groups * blocks) as block, T.serial(0, vectors_) as v:
            keep_rolled(rolled)
            at = [block // blocks, block % blocks]
            for place in range(per):
                code = vload(packed, [*at, v, 0], BYTES)
                if place:
                    code = code >> splat(const(place * p.w.bits, "uint8"), BYTES)
                if (place + 1) * p.w.bits < 8:
                    code = code & splat(const(p.w.max_code, "uint8"), BYTES)
                vstore(T, weights, code, [*at, v * per + place, 0], BYTES)


def pairs(problem: DotProblem) -> int:
    """Pairs of codes of a patch, filled up to eight bytes."""
    return -(-problem.k // (2 * UNIT)) * UNIT


def padded_pairs(problem: DotProblem) -> int:
    """The same, filled up to whole vectors of packed codes."""
    per = per_byte(problem.w.bits)
    return -(-pairs(problem) // per) * per


def tile(problem: DotProblem) -> int:
    """Pixels to a tile: equal parts of a row whose sums take 16 KiB and whose patches take 24 KiB at most."""
    p = problem
    fitting = min((16 << 10) // (2 * p.out_channels), (24 << 10) // (2 * pairs(p)))
    return -(-p.out_width // -(-p.out_width // max(MOST_PIXELS, fitting)))


def largest_product(problem: DotProblem) -> int:
    """Of two codes."""
    return problem.a.max_code * (problem.w.span or (0, problem.w.max_code))[1]


def fitting(problem: DotProblem) -> int:
    """Pairs of products that fit a byte."""
    return 255 // max(1, 2 * largest_product(problem))


def chunk(problem: DotProblem) -> int:
    """Pairs between flushes: the most that fit, while the loop over them stays short."""
    return max((n for n in range(1, min(fitting(problem), MOST_PAIRS) + 1) if body(n) <= MOST_PAIRS), default=0)


def span(problem: DotProblem) -> int:
    """Flushes that fit 16 bits, at least as many as whole loads need."""
    return 65535 // max(1, 2 * largest_product(problem) * chunk(problem))
