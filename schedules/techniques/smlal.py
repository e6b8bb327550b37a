"""``smlal`` and ``sdot``: products of bytes, for every width and shape.

A patch is a row of bytes, K as kernel positions outside, channels inside. Activation codes below 8 bits are read as
they are, of 8 bits as ``a - 128``. Weights are the values they stand for where all channels have the same offset, else
codes less half their range; what that leaves of the sum is a constant per channel and a multiple of the sum of codes.
How they are stored is a matter of `byte_weights`.

Worst cases: an int8 operand holds both; a 16-bit lane takes two products a step and is flushed before it can overflow
(after each where even two do not fit); 32-bit sums hold three times the problem's bound, since each term of the
correction formula stays below it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.blocked import Dots, blocked, even_blocks, padded_channels, tile
from schedules.byte_dot import CHANNELS, OFTEN, STEP, ByteDot
from schedules.byte_weights import FEW, NR_LIMIT, ByteWeights
from schedules.compact import per_byte
from schedules.cores import CoreSpec
from schedules.dot_problem import INT32_MAX, DotProblem
from schedules.epilogue import Epilogue
from schedules.intrinsics import const, vload
from schedules.knob_space import Space, around, block_pixels, row_tiles
from schedules.layout import Layout
from schedules.panel import Panel, Source, copy_instructions
from schedules.techniques.base import Array, Knobs, Technique, correction_shapes, corrections, frame, rows
from schedules.vectors import assembly, in_order, shared_loads, vectors

# LLVM 22 moves shuffles of vectors that are all but zero before what they shuffle.
FEW_PRODUCTS = 4


class Smlal(Technique):
    """Blocks of ``mr`` pixels x ``nr`` channels held in registers, 16 products of each output a step."""

    name = "smlal"
    form = "smlal"

    def declines(self, problem: DotProblem, core: CoreSpec) -> str | None:
        """Sums whose correction might leave 32 bits on the way."""
        reason = super().declines(problem, core)
        if reason is None and 3 * problem.accumulator_bound() > INT32_MAX:
            reason = "three terms of the correction, each as large as the sum can be, would need more than 32 bits"
        if reason is None and not core.is_arm and problem.k < FEW_PRODUCTS:
            reason = f"sums of fewer than {FEW_PRODUCTS} products, whose shuffles LLVM gets wrong for x86"
        return reason

    def cycles(self, problem: DotProblem, core: CoreSpec) -> float:
        """The steps, a fixed part of each output, and the copies of the patches."""
        p = problem
        outputs = p.batch * p.out_height * p.out_width * p.groups * padded_channels(p, self.padding)
        fixed = 6 / core.vector_issue
        copies = copy_instructions(p, 1, p.group_channels) * core.cycles({"ldr": 1, "str": 1})
        kept = self.weights(p)
        apart = kept.compact * p.out_channels * kept.steps * core.cycles({"and": 3, "str": 1})
        return outputs * (steps(p) * self.step(problem, core) + fixed) + copies + apart

    padding = 4

    def weights(self, problem: DotProblem) -> ByteWeights:
        """How weights are stored."""
        p = problem
        compact = per_byte(p.w.bits) > 1 and p.batch * p.out_height * p.out_width >= FEW
        return ByteWeights(self.form, p.groups, p.group_out_channels, p.k, p.w.bits, *stored(p), compact)

    def step(self, problem: DotProblem, core: CoreSpec) -> float:
        """Cycles for 16 products of an output: two multiplications, loads, and additions that are needed each step."""
        often = every(problem) < OFTEN and every(problem) != 0
        widen = (2.0 if every(problem) < 0 else 1.0) * often
        if in_order(core):
            return core.cycles({"widen": 2, "uadalp": widen}) + shared_loads(self.knobs(problem, core)["mr"])
        return max(core.cycles({"widen": 2}), core.cycles({"and": 2.5 + widen, "uadalp": widen}))

    def knobs(self, problem: DotProblem, core: CoreSpec) -> Knobs:
        """``split``: see `vectors.through_general`."""
        split = int(in_order(core))
        # Products that are widened each step need registers of their own, or in-order schedules spill.
        often = every(problem) < OFTEN and every(problem) != 0
        pixels, most = tile(problem), 3 if every(problem) < 0 else 4 if often else 6
        mr = even_blocks(pixels, most) if split else 4
        limits = {"mr": min(mr, problem.out_width), "nr": 4, "tile": pixels, "split": split}
        return {**super().knobs(problem, core), **limits}

    def space(self, problem: DotProblem, core: CoreSpec) -> Space:
        """Both ways to load, blocks up to those that weights are packed for."""
        split = range(1 + (core.is_arm and self.form == "smlal"))
        blocks = {"mr": block_pixels(problem), "nr": (CHANNELS, NR_LIMIT), "tile": row_tiles(problem)}
        return around(self.knobs(problem, core), problem, {**blocks, "split": split})

    def in_layout(self, problem: DotProblem) -> Layout:
        """Plain codes."""
        return Layout()

    def constants(self, problem: DotProblem, weights: Array, weight_offset: Array) -> list[Array]:
        """Weights as `ByteWeights` has them, then corrections."""
        p = problem
        multiplier, offset = stored(p)
        grouped = weights.reshape(p.groups, p.group_out_channels, p.group_channels, *p.kernel).transpose(0, 1, 3, 4, 2)
        packed = self.weights(p).pack(grouped.reshape(p.groups, p.group_out_channels, p.k))
        beta, gamma = corrections(p, weights, weight_offset)
        # sum(a u) = sum(a' u') + centre sum(u') - offset sum(a) for u' = u + offset, and so for values.
        scale = scale_of(p)
        rest = beta.astype(np.int64) - scale * offset
        sums = multiplier * weights.sum(axis=(1, 2, 3), dtype=np.int64) + offset * p.k
        centre = scale * centre_of(p) * sums
        return [packed, rest.astype(beta.dtype), (gamma + centre).astype(gamma.dtype)]

    def unpack_weights(self, problem: DotProblem, constant: Array) -> Array:
        """The codes that are stored."""
        p = problem
        grouped = self.weights(p).unpack(constant).reshape(p.groups, p.group_out_channels, *p.kernel, p.group_channels)
        return grouped.transpose(0, 1, 4, 2, 3).reshape(p.out_channels, p.group_channels, *p.kernel)

    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """See `ByteWeights.code_at`."""
        p = problem
        k = (y * p.kernel[1] + x) * p.group_channels + c
        return self.weights(p).code_at(at, o // p.group_out_channels, o % p.group_out_channels, k)

    def build(self, problem: DotProblem, knobs: Knobs, core: CoreSpec) -> Any:
        """See `Technique.build`."""
        p = problem
        nr = knobs["nr"]
        half = 0 < p.k % STEP <= STEP // 2
        dot = ByteDot(vectors(core), self.form, steps(p), nr, every(p), bool(knobs.get("split")), half)
        kept = self.weights(p)

        def body(x: Any, constants: list[Any], epilogue: Epilogue) -> None:
            stored_weights, beta, gamma = constants
            weights = kept.to_bytes(stored_weights, nr, T.parallel if knobs["parallel"] else T.serial)

            def reader(panel: Panel, pixel: Any) -> Callable[[int, Any, int], Any]:
                return lambda i, byte, count: panel.load(pixel + i, 0, byte, count).astype(f"int8x{count}")

            def multiply(panel: Panel, g: Any, channel: Any, pixel: Any, pixels: int) -> list[Any]:
                def load_w(j: int, step: Any, row: int, byte: int, count: int) -> Any:
                    at = [g, channel // CHANNELS + j, step, row, byte]
                    return vload(weights, at, count).astype(f"int8x{count}")

                def place(step: Any) -> tuple[Any, int, Any]:
                    at = tirx.address_of(weights[g, channel // CHANNELS, step, 0, 0])
                    return panel.address(pixel, 0, step * STEP), panel.stride(), at

                return dot.multiply(reader(panel, pixel), load_w, pixels, place)

            def sum_codes(panel: Panel, pixel: Any) -> Any:
                return dot.sum_bytes(reader(panel, pixel)) + const(p.k * centre_of(p))

            needed = None if holds_values(p) else sum_codes
            dots = Dots(dot.dtype, dot.lanes, multiply, needed, scale_of(p), centre_of(p) != 0)
            args = (source(p, x), dots, (beta, gamma), epilogue, STEP, dot.split)
            row = blocked(p, knobs["mr"], nr, knobs["tile"], *args)
            with assembly(dot.split), rows(p, knobs) as index:
                row(index // p.out_height, index % p.out_height)

        return frame(p, self.in_layout(p), [(kept.shape, kept.dtype), *correction_shapes(p)], body)


class Sdot(Smlal):
    """The same with SDOT, four products a lane."""

    name = "sdot"
    needs = frozenset({"asimd", "dotprod"})
    form = "sdot"

    padding = 8

    def step(self, problem: DotProblem, core: CoreSpec) -> float:
        """One SDOT, which starts as often as AND does."""
        return core.cycles({"and": 1.05})

    def knobs(self, problem: DotProblem, core: CoreSpec) -> Knobs:
        """A result vector has four channels, so blocks may be larger."""
        return {**super().knobs(problem, core), "mr": min(8, problem.out_width), "nr": 8, "split": 0}


def steps(problem: DotProblem) -> int:
    """Steps of 16 products."""
    return -(-problem.k // STEP)


def centre_of(problem: DotProblem) -> int:
    """What is taken off an activation's code so that it fits a signed byte."""
    return 128 if problem.a.bits == 8 else 0


def holds_values(problem: DotProblem) -> bool:
    """Whether the stored weights are the values they stand for."""
    low, high = problem.w.values
    return problem.w.one_offset and low >= -128 and high <= 127


def stored(problem: DotProblem) -> tuple[int, int]:
    """Multiplier and offset that make the stored byte of a weight's code."""
    if holds_values(problem):
        return problem.w.multiplier, problem.w.offset
    return 1, -(1 << (problem.w.bits - 1))


def scale_of(problem: DotProblem) -> int:
    """What a sum of stored products is multiplied with."""
    return problem.a.multiplier * (1 if holds_values(problem) else problem.w.multiplier)


def largest_product(problem: DotProblem) -> int:
    """The largest magnitude of one stored product."""
    multiplier, offset = stored(problem)
    weight = max(abs(multiplier * code + offset) for code in problem.w.span or (0, problem.w.max_code))
    return weight * (128 if centre_of(problem) else problem.a.max_code)


def every(problem: DotProblem) -> int:
    """Steps between flushes of the 16-bit lanes; see `ByteDot`."""
    if problem.k * largest_product(problem) < 1 << 15:
        return 0
    return ((1 << 15) - 1) // (2 * largest_product(problem)) or -1


def source(problem: DotProblem, x: Any) -> Source:
    """Bytes of the input, centred; padded positions hold the code of 0.0."""
    p = problem
    zero = const(p.a.zero_code or 0, "uint8")
    return Source(
        1,
        p.group_channels,
        lambda n, y, ix, g, plane: (x, [n, y, ix, g * p.group_channels]),
        lambda *_: zero,
        centre_of(p),
    )
