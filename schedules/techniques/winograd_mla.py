"""``winograd_mla``: 3x3 convolutions of stride 1 by F(4x4, 3x3) modulo 2**16, exactly: 36 products instead of 144.

Everything is computed modulo 2**16, where odd divisors have inverses: see `winograd_points`. Transformed values and
weights may wrap, and so may sums; what comes out is 4 times the sum modulo 2**16.

Worst case: the sum over a chunk of channels, of codes less their centre times weights, lies in a range of less than
2**14 numbers, so the sum less the range's middle is a quarter of what comes out, read as a signed number. Chunks are
added in 16 bits, in groups of as many as fit, and groups in the type of the accumulator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from schedules.blocked import even_blocks
from schedules.compact import compact_at, pack_compact, unpack_compact, vectors_of
from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.element_dot import ElementDot
from schedules.epilogue import Epilogue
from schedules.knob_space import Space, around
from schedules.layout import Layout
from schedules.ordered_elements import CHANNELS, MOST_TILES, UNIT
from schedules.techniques.base import Array, Knobs, Technique, correction_shapes, corrections, frame
from schedules.tile_copy import STEP
from schedules.vectors import assembly, in_order
from schedules.winograd_mla_loops import Chunks
from schedules.winograd_mla_loops import WinogradMla as Loops
from schedules.winograd_points import POINTS, SCALE, TAPS

# The result is known modulo this.
_SPAN = (1 << 16) // SCALE
# A run of more tiles than this leaves the caches.
MOST_RUN = 64
SIDES = tuple(POINTS)


class WinogradMla(Technique):
    """Tiles of ``side x side`` outputs; ``mr`` tiles x 16 channels in registers."""

    name = "winograd_mla"

    def declines(self, problem: DotProblem, core: CoreSpec) -> str | None:
        """What is no plain 3x3 convolution of stride 1, and sums of a few channels that do not fit."""
        p = problem
        reason = super().declines(problem, core)
        if reason is not None:
            return reason
        if p.kernel != (TAPS, TAPS) or p.stride != (1, 1) or p.dilation != (1, 1) or p.groups != 1:
            return "only for 3x3 convolutions of stride 1, without dilation or groups"
        if not p.w.one_offset:
            return "the output channels' weights have different offsets"
        low, high = p.w.values
        if low < -128 or high > 127:
            return f"weights lie in [{low}, {high}], outside a signed byte"
        if chunks(p) is None:
            return f"sums of {min(UNIT, p.channels)} channels may take more than {_SPAN} values"
        return None

    def cycles(self, problem: DotProblem, core: CoreSpec) -> float:
        """Products of C for each position, tile and channel, their loads, and all transforms."""
        p, knobs = problem, self.knobs(problem, core)
        side, ordered = knobs["side"], in_order(core)
        number, positions = tiles(p, side), (side + 2) ** 2
        blocks = padded(p) // CHANNELS * 2
        loads = (knobs["mr"] / 2 + 2 * UNIT) / (2 * UNIT * knobs["mr"])
        # Where LLVM orders the loops, each value is spread over a register first.
        each = core.cycles({"mla": 1, "and": loads if ordered else 0.5 + loads}) * (1 if ordered else 1.3)
        products = number * positions * blocks * (steps(p) * STEP * each + 4 * parts_of(p).count)
        there = number * steps(p) * (750 if side == SIDES[-1] else 250) / core.vector_issue
        parts = parts_of(p).count
        each_back = (230 if side == SIDES[-1] else 100) + (parts > 1) * 2 * side**2
        back = number * parts * blocks * each_back / core.vector_issue
        spread = (1 if ordered else 3) * (180 if side == SIDES[-1] else 70)
        weights = steps(p) * STEP * blocks * spread / core.vector_issue
        return p.batch * (products + there + back) + weights

    def knobs(self, problem: DotProblem, core: CoreSpec) -> Knobs:
        """Outputs of a tile along each dimension, tiles to a run, and blocks of them."""
        p, side = problem, SIDES[-1]
        run = tiles_to_run(tiles(p, side))
        ordered = in_order(core)
        mr = min(MOST_TILES if ordered else 6, run)
        return {**super().knobs(p, core), "side": side, "mr": mr, "tile": run, "ordered": int(ordered)}

    def space(self, problem: DotProblem, core: CoreSpec) -> Space:
        """Any number of tiles there are, in blocks of any size."""
        p = problem
        runs = sorted(
            {tiles_to_run(tiles(p, side), most) for side in SIDES for most in (16, 32, MOST_RUN, 2 * MOST_RUN)}
        )
        more = {"side": SIDES, "mr": range(2, MOST_TILES + 1), "tile": [n for n in runs if n <= tiles(p, SIDES[-1])]}
        return around(self.knobs(p, core), p, {**more, "ordered": range(1 + core.is_arm)})

    def in_layout(self, problem: DotProblem) -> Layout:
        """Plain codes."""
        return Layout()

    def constants(self, problem: DotProblem, weights: Array, weight_offset: Array) -> list[Array]:
        """Codes, several to a byte: see `compact`, with input and output channels in each other's place."""
        p = problem
        if (weight_offset != p.w.offset).any():
            raise ValueError(f"every weight offset must be the problem's {p.w.offset}")
        pad = ((0, padded(p) - p.out_channels), (0, steps(p) * STEP - p.channels), (0, 0))
        codes = np.pad(weights.reshape(p.out_channels, p.channels, TAPS * TAPS), pad).transpose(1, 0, 2)
        _, gamma = corrections(p, weights, weight_offset)
        values = p.w.multiplier * weights.astype(np.int64) + p.w.offset
        parts = parts_of(p)
        rest = centre(p) * values.sum(axis=(1, 2, 3)) + middle(p, parts) * parts.count
        return [pack_compact(codes, p.w.bits), (gamma + p.a.multiplier * rest).astype(gamma.dtype)]

    def unpack_weights(self, problem: DotProblem, constant: Array) -> Array:
        """The codes again."""
        p = problem
        codes = unpack_compact(constant, p.w.bits, TAPS * TAPS).transpose(1, 0, 2)[: p.out_channels, : p.channels]
        return codes.reshape(p.out_channels, p.channels, TAPS, TAPS)

    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """See `compact_at`."""
        return compact_at(at, problem.w.bits, c, o, y * TAPS + x)

    def build(self, problem: DotProblem, knobs: Knobs, core: CoreSpec) -> Any:
        """See `Technique.build`."""
        p, points = problem, POINTS[knobs["side"]]
        dot, parts = ElementDot(bool(knobs["ordered"])), parts_of(p)
        # A run tuned for larger tiles may be more than there are.
        run = min(knobs["tile"], tiles(p, knobs["side"]))
        mr = even_blocks(run, knobs["mr"])

        def body(x: Any, constants: list[Any], epilogue: Epilogue) -> None:
            loop = T.parallel if knobs["parallel"] else T.serial
            with assembly(dot.ordered):
                Loops(p, points, dot, (x, *constants), epilogue, (mr, run), parts, middle(p, parts), loop).emit()

        shape = (steps(p) * STEP // UNIT, padded(p) // CHANNELS, vectors_of(p.w.bits, TAPS * TAPS), STEP)
        return frame(p, self.in_layout(p), [(shape, "uint8"), correction_shapes(p)[1]], body)


def padded(problem: DotProblem) -> int:
    """Output channels, rounded up to whole blocks."""
    return -(-problem.out_channels // CHANNELS) * CHANNELS


def steps(problem: DotProblem) -> int:
    """Steps of 16 channels."""
    return -(-problem.channels // STEP)


def tiles(problem: DotProblem, side: int) -> int:
    """Tiles of an image."""
    return -(-problem.out_height // side) * -(-problem.out_width // side)


def tiles_to_run(total: int, most: int = MOST_RUN) -> int:
    """Tiles transformed at once: as many as are allowed, in runs of like length, which may overlap by a few."""
    return -(-total // -(-total // most))


def centre(problem: DotProblem) -> int:
    """What is taken off an activation's code."""
    return 1 << (problem.a.bits - 1)


def sums(problem: DotProblem, channels: int) -> tuple[int, int]:
    """The least and the largest sum of some neighbouring channels' products, as far as the weights are known."""
    p = problem
    channels = min(channels, p.channels)
    corners = [(code - centre(p)) * w for code in (0, p.a.max_code) for w in p.w.values]
    low, high = (TAPS * TAPS * channels * bound for bound in (min(corners), max(corners)))
    # A centred code's magnitude is at most the centre.
    known = [centre(p) * mass for count, mass in p.w.mass or () if count >= channels]
    return max(low, -min(known, default=-low)), min(high, min(known, default=high))


def fits(problem: DotProblem, channels: int) -> bool:
    """Whether the sums of so many channels take fewer than `_SPAN` values."""
    low, high = sums(problem, channels)
    return high - low < _SPAN


def chunks(problem: DotProblem) -> Chunks | None:
    """Chunks of channels of like length, in whole loads, and as many of them to a group as fit 16 bits."""
    channels = steps(problem) * STEP
    most = next((n for n in range(channels, 0, -UNIT) if fits(problem, n)), None)
    if most is None:
        return None
    if most == channels:
        return Chunks(channels, channels, 1)
    length = -(-channels // -(-channels // most) // UNIT) * UNIT
    low, high = sums(problem, length)
    farthest = max(high - centred_on(low, high), centred_on(low, high) - low, 1)
    return Chunks(channels, length, ((1 << 15) - 1) // farthest)


def parts_of(problem: DotProblem) -> Chunks:
    """The same of a problem that is not declined."""
    found = chunks(problem)
    if found is None:
        raise ValueError(f"{problem} is to be declined")
    return found


def centred_on(low: int, high: int) -> int:
    """The middle of a range."""
    return (low + high) // 2


def middle(problem: DotProblem, parts: Chunks) -> int:
    """What is taken off a chunk's sum, so that it lies in ``[-_SPAN / 2, _SPAN / 2)``; of a single one, the least."""
    low, high = sums(problem, parts.length)
    if parts.count > 1:
        return centred_on(low, high)
    return min(max(0, high - _SPAN // 2 + 1), low + _SPAN // 2)
