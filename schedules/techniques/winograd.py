"""``winograd``: 3x3 convolutions of stride 1 as 16 products of transformed bytes where 36 would stand, exactly.

Activation codes are centred (``a - 2**(bits - 1)``; the rest of the sum is a constant per channel) so that their
transforms stay small; weights are transformed as the values they stand for, at compile time. Each of the 16 positions
of the transform is a matrix product over the channels, by SMLAL or SDOT.

Worst cases: a transformed byte fits int8 or the problem is declined; a 16-bit lane takes two products a step and is
flushed before it can overflow, or never where 4 times every sum fits 16 bits, as additions wrap; 32-bit sums hold
``4 K max|a| max|w|``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from schedules.byte_dot import CHANNELS, STEP, ByteDot, for_quarters
from schedules.compact import compact_at, pack_compact, unpack_compact, vectors_of
from schedules.cores import CoreSpec
from schedules.dot_problem import INT32_MAX, DotProblem
from schedules.epilogue import Epilogue
from schedules.knob_space import MOST_PIXELS, Space, around, winograd_tiles
from schedules.layout import Layout
from schedules.techniques.base import Array, Knobs, Technique, correction_shapes, corrections, frame
from schedules.vectors import assembly, in_order, shared_loads, vectors
from schedules.winograd_loops import Winograd as Loops
from schedules.winograd_transform import POSITIONS, TAPS, input_range, weight_range

# Channels to which the packed weights are padded; the output transform takes as many at a time.
CHANNEL_PAD = 8


class Winograd(Technique):
    """Tiles of 2x2 outputs; ``mr`` tiles x ``nr`` channels in registers."""

    name = "winograd"
    form = "smlal"

    def declines(self, problem: DotProblem, core: CoreSpec) -> str | None:
        """What is no plain 3x3 convolution of stride 1, and values whose transforms do not fit a byte."""
        p = problem
        reason = super().declines(problem, core)
        if reason is not None:
            return reason
        if p.kernel != (3, 3) or p.stride != (1, 1) or p.dilation != (1, 1) or p.groups != 1:
            return "only for 3x3 convolutions of stride 1, without dilation or groups"
        if not p.w.one_offset:
            return "the output channels' weights have different offsets"
        for what, ranges in (("activations", input_range(centred(p))), ("weights", weight_range(p.w.values))):
            low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
            if low < -128 or high > 127:
                return f"transformed {what} lie in [{low}, {high}], outside a signed byte"
        if 4 * sum_bound(p) > INT32_MAX:
            return "4 times the sum would need more than 32 bits"
        return None

    def cycles(self, problem: DotProblem, core: CoreSpec) -> float:
        """16 products of C for a tile and channel, their reduction over lanes, transforms, and the epilogue."""
        p = problem
        tiles = p.batch * (-(-p.out_height // 2)) * (-(-p.out_width // 2))
        products = tiles * POSITIONS * padded(p)
        wide = 1 if self.form == "smlal" and fits16(p) else 2
        if self.form == "sdot":
            each, reduction = core.cycles({"and": 1.05}), 0.0
        elif in_order(core):
            flushes = 1 if wide == 1 else -(-steps(p) // flush_every(p))
            each = core.cycles({"widen": 2}) + shared_loads(self.knobs(p, core)["mr"])
            reduction = 1.2 if wide == 1 else 3.4 * flushes
        else:
            each, reduction = core.cycles({"widen": 2}), 0.4 + 0.5 * wide
        transforms = tiles * (steps(p) * 80 + padded(p) / 8 * wide * 50) / core.vector_issue
        outputs = products / 4 * 2 * wide / core.vector_issue
        weights = padded(p) * steps(p) * 120 / core.vector_issue
        return products * (steps(p) * each + reduction) + transforms + outputs + weights

    def knobs(self, problem: DotProblem, core: CoreSpec) -> Knobs:
        """Blocks of the products and tiles to a run."""
        dotprod = self.form == "sdot"
        run = tiles_to_run(problem)
        slow = in_order(core) and not dotprod
        mr = next((m for m in (8, 7, 6) if run % m == 0), 8) if dotprod else 6 if slow else 4
        blocks = {"mr": min(mr, run), "nr": 8 if dotprod else 4, "tile": run}
        blocks["split"] = int(self.form == "smlal" and in_order(core))
        return {**super().knobs(problem, core), **blocks}

    def space(self, problem: DotProblem, core: CoreSpec) -> Space:
        """Any number of tiles there are, in blocks of any size."""
        tiles = winograd_tiles(problem)
        split = range(1 + (core.is_arm and self.form == "smlal"))
        more = {"mr": range(2, min(MOST_PIXELS, max(tiles)) + 1), "nr": (CHANNELS, CHANNEL_PAD), "tile": tiles}
        return around(self.knobs(problem, core), problem, {**more, "split": split})

    def in_layout(self, problem: DotProblem) -> Layout:
        """Plain codes."""
        return Layout()

    def constants(self, problem: DotProblem, weights: Array, weight_offset: Array) -> list[Array]:
        """Codes, several to a byte: see `compact`; and the rest of the sum per channel."""
        p = problem
        if (weight_offset != p.w.offset).any():
            raise ValueError(f"every weight offset must be the problem's {p.w.offset}")
        pad = ((0, padded(p) - p.out_channels), (0, steps(p) * STEP - p.channels), (0, 0))
        codes = np.pad(weights.reshape(p.out_channels, p.channels, TAPS * TAPS), pad)
        _, gamma = corrections(p, weights, weight_offset)
        values = p.w.multiplier * weights.astype(np.int64) + p.w.offset
        centre = p.a.multiplier * centre_of(p) * values.sum(axis=(1, 2, 3))
        return [pack_compact(self.order(codes), p.w.bits), (gamma + centre).astype(gamma.dtype)]

    def order(self, codes: Array) -> Array:
        """Codes ``(O, C, 9)`` in the order of the products' rows; its own inverse."""
        return codes

    def unpack_weights(self, problem: DotProblem, constant: Array) -> Array:
        """The codes again."""
        p = problem
        codes = self.order(unpack_compact(constant, p.w.bits, TAPS * TAPS))[: p.out_channels, : p.channels]
        return codes.reshape(p.out_channels, p.channels, TAPS, TAPS)

    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """See `compact_at`."""
        return compact_at(at, problem.w.bits, o, c, y * TAPS + x)

    def build(self, problem: DotProblem, knobs: Knobs, core: CoreSpec) -> Any:
        """See `Technique.build`."""
        p = problem
        every = 0 if fits16(p) else flush_every(p)
        dot = ByteDot(vectors(core), self.form, steps(p), knobs["nr"], every, bool(knobs["split"]))

        def body(x: Any, constants: list[Any], epilogue: Epilogue) -> None:
            weights, gamma = constants
            sizes = knobs["mr"], knobs["tile"], CHANNEL_PAD, centre_of(p)
            loops = Loops(p, dot, x, weights, gamma, epilogue, *sizes)
            loop = T.parallel if knobs["parallel"] else T.serial
            with assembly(dot.split):
                loops.expand_weights(loop)
                with loop(0, p.batch * loops.runs) as run:
                    loops.emit(run // loops.runs, run % loops.runs)

        shape = (padded(p) // CHANNELS, steps(p), vectors_of(p.w.bits, TAPS * TAPS), STEP)
        return frame(p, self.in_layout(p), [(shape, "uint8"), correction_shapes(p)[1]], body)


class WinogradSdot(Winograd):
    """The same with SDOT."""

    name = "winograd_sdot"
    needs = frozenset({"asimd", "dotprod"})
    form = "sdot"

    def order(self, codes: Array) -> Array:
        """See `for_quarters`."""
        return for_quarters(codes)

    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """See `for_quarters`."""
        row, column = o // CHANNELS * CHANNELS + c % STEP // 4, c // STEP * STEP + o % CHANNELS * 4 + c % 4
        return super().weight_at(problem, at, row, column, y, x)


def padded(problem: DotProblem) -> int:
    """Output channels, rounded up to whole blocks."""
    return -(-problem.out_channels // CHANNEL_PAD) * CHANNEL_PAD


def steps(problem: DotProblem) -> int:
    """Steps of 16 channels."""
    return -(-problem.channels // STEP)


def centre_of(problem: DotProblem) -> int:
    """What is taken off an activation's code."""
    return 1 << (problem.a.bits - 1)


def centred(problem: DotProblem) -> tuple[int, int]:
    """The range of centred codes."""
    return -centre_of(problem), problem.a.max_code - centre_of(problem)


def sum_bound(problem: DotProblem) -> int:
    """The largest magnitude of a sum of products of centred codes and weights."""
    return problem.k * centre_of(problem) * max(map(abs, problem.w.values))


def fits16(problem: DotProblem) -> bool:
    """Whether 4 times every sum fits 16 bits."""
    return 4 * sum_bound(problem) < 1 << 15


def flush_every(problem: DotProblem) -> int:
    """Steps after which a 16-bit lane, which takes two products a step, might overflow."""
    pairs = zip(input_range(centred(problem)), weight_range(problem.w.values), strict=True)
    largest = max(max(map(abs, a)) * max(map(abs, w)) for a, w in pairs)
    return max(1, ((1 << 15) - 1) // (2 * largest))


def tiles_to_run(problem: DotProblem) -> int:
    """Tiles transformed at once: a divisor of their number, in whole blocks where there is one."""
    total = -(-problem.out_height // 2) * -(-problem.out_width // 2)
    fitting = [n for n in range(min(total, 8), min(total, 64) + 1) if total % n == 0]
    whole = [n for n in fitting if n % 4 == 0 and n <= 32]
    return max(whole or fitting or [min(total, 32)])
