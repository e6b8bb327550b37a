"""``bit_serial``: AND two bit planes, count the bits, add; one pass for each pair of planes.

``sum(a w) = sum over planes p, q of 2**(p + q) popcount(a_p AND w_q)`` on unsigned planes (Umuroglu et al., BISMO,
FPL 2018, eq. 1; Cowan et al., CGO 2020); offsets and bipolar codes are corrected afterwards from the sum of the
activation codes. On Armv8 the inner step is AND, CNT, UADALP, or AND, CNT, ADD in bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.bit_classes import ClassDot, fits, operations, split_row
from schedules.bit_dot import STEP, BitDot
from schedules.blocked import CHANNEL_BLOCK, Dots, blocked, even_blocks, padded_channels, tile
from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.epilogue import Epilogue
from schedules.intrinsics import const
from schedules.knob_space import Space, around, block_pixels, row_tiles
from schedules.layout import Layout, pack_planes, plane_bytes
from schedules.ordered_column import OrderedColumn
from schedules.panel import Source, copy_instructions
from schedules.techniques.base import Array, Knobs, Technique, correction_shapes, corrections, frame, rows
from schedules.vectors import assembly, in_order, shared_loads, vectors

# A uint16 lane takes the bits of two bytes each step, 16 at the most: 4095 steps fill it with 65520.
MAX_STEPS = 65535 // 16
# Pixels for which weights of tails are written out.
FEW = 8
# More pairs of planes than this are run by a loop, not written out.
MAX_PAIRS = 4


class BitSerial(Technique):
    """Blocks of ``mr`` pixels x ``nr`` channels held in registers, 128 bits of K a step."""

    name = "bit_serial"
    # Whether weights are signs and a mask; see `ternary`.
    signs = False

    def declines(self, problem: DotProblem, core: CoreSpec) -> str | None:
        """K must fit the 16-bit lanes."""
        if steps(problem) > MAX_STEPS:
            return f"{steps(problem)} steps of 128 bits would overflow a 16-bit lane (at most {MAX_STEPS})"
        return super().declines(problem, core)

    def cycles(self, problem: DotProblem, core: CoreSpec) -> float:
        """The steps of all pairs of planes, a fixed part of each output, and the copies of the patches."""
        p = problem
        outputs = p.batch * p.out_height * p.out_width * p.groups * padded_channels(p, CHANNEL_BLOCK)
        pairs = p.a.bits * (1 if self.signs else p.w.bits)
        moves = copy_instructions(p, p.a.bits, plane_bytes(p.group_channels))
        copies = moves * core.cycles({"ldr": 1, "str": 1})
        knobs, parts = self.knobs(p, core), short(p, self.signs)
        if in_order(core) and not self.signs and is_column(p):
            # A vector of weights is loaded in a cycle; reduced and finished.
            return outputs * (steps(p) * (3 * pairs + p.w.bits) + 6 + 3.5) + copies
        if in_order(core):
            # Each pair of planes is a loop of its own; beyond a few, all are widened each step.
            wide = pairs > MAX_PAIRS
            step = 3.05 + 2.3 * self.signs + 2 * wide + shared_loads(knobs["mr"])
            return outputs * (pairs * (steps(p) * step + 3 * (pairs > 1)) + 5) + copies
        fixed = 4 / core.vector_issue
        if knobs["short"] and parts is not None:
            vectors_ = operations(p.a.bits, p.w.bits, *parts)
            return outputs * (vectors_ / core.vector_issue + fixed) + copies
        flush = core.cycles({"uadalp": 1, "and": 1}) if pairs > MAX_PAIRS else 0.5
        # Half a step is done in vectors of 64 bits, but for what it is added to.
        run = steps(p) - (0.375 if row_bytes(p) % STEP else 0)
        return outputs * (pairs * (run * core.cycles(self.step) + flush) + fixed) + copies

    @property
    def step(self) -> dict[str, float]:
        """Instructions for 128 bits of an output; a block's outputs share loads."""
        return {"and": 1 + self.signs, "cnt": 1, "uadalp": 1, "ldr": 0.5}

    def knobs(self, problem: DotProblem, core: CoreSpec) -> Knobs:
        """``bytes`` is the vector width of byte accumulators, 0 for 16-bit ones; x86 has half the registers.

        ``short``: see `bit_classes`.
        """
        slow, pixels = int(in_order(core)), tile(problem)
        parts = short(problem, self.signs)
        # Weights of tails are written out first, which takes pixels to be worth it.
        enough = parts is not None and (not parts[1] or problem.batch * problem.out_height * problem.out_width >= FEW)
        # Patches of more than a pixel are copied as they are put together: there a search has to show that it pays.
        brief = core.is_arm and not slow and enough and problem.kernel == (1, 1)
        mr = even_blocks(pixels, 4 if self.signs else 5) if slow else 4 if core.is_arm and not brief else 2
        limits = {"mr": min(mr, problem.out_width), "nr": 4, "tile": pixels, "bytes": 16 * slow, "split": slow}
        limits["short"] = int(brief)
        return {**super().knobs(problem, core), **limits}

    def space(self, problem: DotProblem, core: CoreSpec) -> Space:
        """Accumulators of all widths, both ways to load, blocks up to those that weights are packed for."""
        blocks = {"mr": block_pixels(problem), "nr": (CHANNEL_BLOCK, NR_LIMIT), "tile": row_tiles(problem)}
        sums = range(1 + (short(problem, self.signs) is not None))
        more = {**blocks, "bytes": (0, 8, 16), "split": range(1 + core.is_arm), "short": sums}
        return around(self.knobs(problem, core), problem, more)

    def in_layout(self, problem: DotProblem) -> Layout:
        """Bit planes, each group's channels starting at a byte."""
        return Layout("planes", problem.a.bits, problem.groups)

    def constants(self, problem: DotProblem, weights: Array, weight_offset: Array) -> list[Array]:
        """Weight planes ``(groups, blocks, bits, steps, 4, 16)``, K as kernel positions outside, channels inside."""
        p = problem
        beta, gamma = corrections(p, weights, weight_offset)
        if bipolar(p):
            gamma += (weights.sum(axis=(1, 2, 3), dtype=np.int64) * p.a.max_code * p.a.multiplier).astype(gamma.dtype)
        return [self.pack(p, weights), beta, gamma]

    def pack(self, problem: DotProblem, weights: Array) -> Array:
        """Codes ``(O, C / groups, kh, kw)`` to blocked planes."""
        p = problem
        grouped = weights.reshape(p.groups, p.group_out_channels, p.group_channels, *p.kernel)
        planes = pack_planes(grouped.transpose(0, 1, 3, 4, 2), p.w.bits).transpose(0, 1, 4, 2, 3, 5)
        planes = planes.reshape(p.groups, p.group_out_channels, p.w.bits, -1)
        channels = padded_channels(p, NR_LIMIT) - p.group_out_channels
        pad = steps(p) * STEP - planes.shape[-1]
        planes = np.pad(planes, ((0, 0), (0, channels), (0, 0), (0, pad)))
        blocks = planes.reshape(p.groups, -1, CHANNEL_BLOCK, p.w.bits, steps(p), STEP)
        return np.ascontiguousarray(blocks.transpose(0, 1, 3, 4, 2, 5))

    def unpack_weights(self, problem: DotProblem, constant: Array) -> Array:
        """The codes again, from their planes."""
        p = problem
        used = p.kernel[0] * p.kernel[1] * plane_bytes(p.group_channels)
        rows_ = constant.transpose(0, 1, 4, 2, 3, 5).reshape(p.groups, -1, p.w.bits, steps(p) * STEP)
        planes = rows_[:, : p.group_out_channels, :, :used]
        planes = planes.reshape(p.groups, p.group_out_channels, p.w.bits, *p.kernel, -1)
        bits = np.unpackbits(planes, axis=-1, bitorder="little", count=p.group_channels)
        codes = (bits << np.arange(p.w.bits, dtype=np.uint8)[:, None, None, None]).sum(axis=2, dtype=np.uint8)
        return codes.transpose(0, 1, 4, 2, 3).reshape(p.out_channels, p.group_channels, *p.kernel)

    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """One bit from each plane."""
        p = problem
        group, channel = o // p.group_out_channels, o % p.group_out_channels
        byte = (y * p.kernel[1] + x) * plane_bytes(p.group_channels) + c // 8
        code: Any = const(0, "uint8")
        for q in range(p.w.bits):
            found = at(group, channel // CHANNEL_BLOCK, q, byte // STEP, channel % CHANNEL_BLOCK, byte % STEP)
            bit = (found >> (c % 8).astype("uint8")) & const(1, "uint8")
            code = code | (bit << const(q, "uint8"))
        return code

    def build(self, problem: DotProblem, knobs: Knobs, core: CoreSpec) -> Any:
        """See `Technique.build`."""
        p = problem
        nr = knobs["nr"]
        shape = (p.groups, padded_channels(p, NR_LIMIT) // CHANNEL_BLOCK, p.w.bits, steps(p), CHANNEL_BLOCK, STEP)

        def body(x: Any, constants: list[Any], epilogue: Epilogue) -> None:
            weights, beta, gamma = constants
            planes = 1 if self.signs else p.w.bits
            differ = not self.signs and bipolar(p)
            kind = form(p, planes, knobs["bytes"])
            # A written loop has no half steps; more than one whole step outweighs what stands in for half a one.
            unit = STEP if knobs["split"] and row_bytes(p) > STEP and p.kernel != (1, 1) else STEP // 2
            parts = short(p, self.signs) if knobs["short"] else None
            if parts is not None and not parts[1]:
                unit = STEP
            row = -(-row_bytes(p) // unit) * unit
            block = (row, nr, kind, knobs["bytes"], weights, large(p, planes), self.signs, differ)
            dot = BitDot(vectors(core), p.a.bits, p.w.bits, *block, bool(knobs["split"]))
            constant = self.signs or differ
            sum_codes = dot.sum_codes if p.needs_code_sum and not constant else None
            scale = p.a.multiplier * (-1 if differ else 1 if self.signs else p.w.multiplier)
            column = dot.column if p.groups == p.out_height == p.out_width == 1 else None
            if parts is None:
                loops = (dot.dtype(), dot.lanes(), dot.multiply)
                dots = Dots(*loops, sum_codes, scale, centred=constant, column=column)
            else:
                classes = ClassDot(vectors(core), p.a.bits, p.w.bits, *parts, nr, weights, differ)
                classes.expand(T.parallel if knobs["parallel"] else T.serial)
                loops = (classes.dtype, classes.lanes, classes.multiply)
                prepare = classes.prepare if parts[1] else None
                dots = Dots(*loops, sum_codes, scale, centred=constant, prepare=prepare)
            args = (source(p, x), dots, (beta, gamma), epilogue, unit, dot.split)
            emit = blocked(p, knobs["mr"], nr, knobs["tile"], *args)
            with assembly(dot.split), rows(p, knobs) as index:
                if parts is not None:
                    classes.begin(min(knobs["tile"], p.out_width))
                emit(index // p.out_height, index % p.out_height)

        return frame(p, self.in_layout(p), [(shape, "uint8"), *correction_shapes(p)], body)


# The widest block of channels that the packed weights are padded for.
NR_LIMIT = 8


def large(problem: DotProblem, planes: int) -> bool:
    """Whether a sum of products of codes, of weights with this many planes, may exceed 16 bits."""
    return problem.k * problem.a.max_code * ((1 << planes) - 1) > 65535


def is_column(problem: DotProblem) -> bool:
    """Whether an in-order core does all channels of the only pixel at once; see `BitDot.column`."""
    p = problem
    row, blocks = row_bytes(p), padded_channels(p, NR_LIMIT) // NR_LIMIT
    plain = p.groups * p.out_height * p.out_width == 1 and row % STEP == 0 and not bipolar(p) and not large(p, p.w.bits)
    return (
        plain
        and p.a.bits * p.w.bits <= MAX_PAIRS
        and OrderedColumn(p.a.bits, p.w.bits, steps(p), row, blocks).possible()
    )


def short(problem: DotProblem, signs: bool) -> tuple[int, Any] | None:
    """Whole steps and tails of a patch whose sums are short; None where they are not: see `bit_classes`."""
    p = problem
    parts = split_row(p.kernel[0] * p.kernel[1] * plane_bytes(p.group_channels), p.a.bits, p.w.bits)
    return parts if not signs and fits(p.k, p.a.max_code, p.w.max_code) else None


def bipolar(problem: DotProblem) -> bool:
    """Whether weights are -1 and +1: then ``popcount(a XOR u)`` is the number of +1 less ``sum(a w)``.

    What is left of the sum is a constant, where AND would need the sum of the patch's codes.
    """
    w = problem.w
    return w.bits == 1 and w.one_offset and w.multiplier == 2 and w.offset == -1


def row_bytes(problem: DotProblem) -> int:
    """Bytes of one plane of one patch, a multiple of 8."""
    used = problem.kernel[0] * problem.kernel[1] * plane_bytes(problem.group_channels)
    return -(-used // 8) * 8


def steps(problem: DotProblem) -> int:
    """Steps of 16 bytes through a plane of a patch."""
    return -(-row_bytes(problem) // STEP)


def form(problem: DotProblem, planes: int, width: int) -> str:
    """The narrowest accumulators that are exact for this many planes of weights; see `bit_dot`."""
    full = STEP * steps(problem) * problem.a.max_code * ((1 << planes) - 1)
    if full > 65535 or problem.a.bits * planes > MAX_PAIRS:
        return "uint32"
    return "bytes" if width else "uint16"


def source(problem: DotProblem, x: Any) -> Source:
    """Planes of the input; padded positions hold the code of 0.0 in every channel, zero bits where there is none."""
    p = problem
    size = plane_bytes(p.group_channels)
    zero = p.a.zero_code or 0
    last = (1 << (p.group_channels - 8 * (size - 1))) - 1

    def padding(plane: Any, byte: Any) -> Any:
        full = tirx.Select(byte == size - 1, const(last, "uint8"), const(0xFF, "uint8"))
        bit = (const(zero) >> plane) & const(1)
        return tirx.Select(bit == 1, full, const(0, "uint8"))

    return Source(p.a.bits, size, lambda n, y, ix, g, plane: (x, [n, y, ix, g, plane, 0]), padding)
