"""``depthwise``: convolutions of one channel a group, with neighbouring channels as the lanes of a vector.

No patch is gathered: a tap of 16 channels is a load from the image, and pixels next to each other share it. Taps
outside the image are left out, and what they would add is part of the corrections.

Worst case: the sum of all taps' products is kept in the narrowest of 8, 16 and 32 bits that holds it whatever the codes
are. Weights are the values they stand for, as signed bytes; activation codes of 8 bits are taken less 128.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from schedules.blocked import even_blocks
from schedules.compact import LANES, pack_vectors, per_byte, unpack_vectors, vector_code_at
from schedules.cores import CoreSpec
from schedules.depthwise_codes import ByteCodes, spans
from schedules.depthwise_loops import Loops
from schedules.depthwise_tiles import WrittenTiles
from schedules.dot_problem import INT32_MAX, DotProblem
from schedules.epilogue import Epilogue
from schedules.knob_space import Space, around, block_pixels, row_tiles
from schedules.layout import Layout
from schedules.ordered_depthwise import MOST_PIXELS
from schedules.techniques.base import Array, Knobs, Technique, correction_shapes, corrections, frame, rows
from schedules.vectors import in_order

# Rows of the image that a tile reads, and its sums and codes, take no more than this of L1.
TILE_BYTES = 24 << 10
# Instructions that turn the sums of a vector of channels into codes.
_FINISH = 14


class Depthwise(Technique):
    """``mr`` pixels of 16 channels at a time, weights in registers."""

    name = "depthwise"

    def declines(self, problem: DotProblem, core: CoreSpec) -> str | None:
        """Groups of several channels, weights that are no signed bytes."""
        p = problem
        reason = super().declines(problem, core)
        if reason is not None:
            return reason
        if p.group_channels != 1 or p.group_out_channels != 1:
            return "only for convolutions with one input and one output channel in each group"
        if not p.w.one_offset:
            return "the output channels' weights have different offsets"
        low, high = p.w.values
        if low < -128 or high > 127:
            return f"weights lie in [{low}, {high}], outside a signed byte"
        if 3 * p.accumulator_bound() > INT32_MAX:
            return "three terms of the correction, each as large as the sum can be, would need more than 32 bits"
        return None

    def cycles(self, problem: DotProblem, core: CoreSpec) -> float:
        """Products and loads of each vector of channels, and what follows them."""
        p = problem
        vectors = sum(count for _, count, _ in spans(p.channels))
        loads = (1 + 1 / self.knobs(problem, core)["mr"]) * p.kernel[0] * p.kernel[1] / 2
        taps = {name: count * p.k for name, count in _TAP[sum_dtype(p, core)].items()}
        each = core.cycles({**taps, "ldr": loads}) + _FINISH / core.vector_issue
        return p.batch * p.out_height * p.out_width * vectors * each

    def knobs(self, problem: DotProblem, core: CoreSpec) -> Knobs:
        """Pixels that share loads, and pixels of a row whose sums are kept before they become codes."""
        p = problem
        dtype = sum_dtype(p, core)
        kept = 0 if ByteCodes.serves(p, dtype, centre_of(p)) else int(dtype[3:]) // 8
        each = p.channels * (p.kernel[0] * p.stride[1] + kept + 1)
        most = MOST_PIXELS if in_order(core) else p.out_width
        pixels = even_blocks(p.out_width, min(most, max(8, TILE_BYTES // each)))
        # Sums of 32 bits take four registers a pixel: loading twice costs a core in order less than spilling.
        shared = 1 if in_order(core) and dtype == "int32" else 4
        return {**super().knobs(problem, core), "mr": min(shared, p.out_width), "tile": pixels}

    def space(self, problem: DotProblem, core: CoreSpec) -> Space:
        """Any block and any part of a row."""
        values = {"mr": block_pixels(problem), "tile": row_tiles(problem)}
        return around(self.knobs(problem, core), problem, values)

    def in_layout(self, problem: DotProblem) -> Layout:
        """Plain codes."""
        return Layout()

    def constants(self, problem: DotProblem, weights: Array, weight_offset: Array) -> list[Array]:
        """Codes, several to a byte: vectors of 16 channels, tap by tap; then gamma with all that is constant."""
        p = problem
        codes = np.pad(weights.reshape(p.channels, p.k), ((0, -p.channels % LANES), (0, 0)))
        packed = pack_vectors(codes.T.reshape(-1, LANES), p.w.bits)
        # sum(a v) = ma sum(a' v) + (oa + ma centre) sum(v), over the taps inside.
        _, taps = corrections(replace(p, a=replace(p.a, offset=1)), weights, weight_offset, skipped=True)
        gamma = (p.a.offset + p.a.multiplier * centre_of(p)) * taps.astype(np.int64)
        return [packed, gamma.astype(p.threshold_dtype)]

    def unpack_weights(self, problem: DotProblem, constant: Array) -> Array:
        """The codes again."""
        p = problem
        flat = unpack_vectors(constant, p.w.bits, p.k * blocks(p)).reshape(p.k, -1)[:, : p.channels]
        return np.ascontiguousarray(flat.T).reshape(p.channels, 1, *p.kernel)

    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """The bits of one place of one byte."""
        p = problem
        number = (y * p.kernel[1] + x) * blocks(p) + o // LANES
        return vector_code_at(at, p.w.bits, number, o % LANES)

    def build(self, problem: DotProblem, knobs: Knobs, core: CoreSpec) -> Any:
        """See `Technique.build`."""
        p = problem
        shape = (-(-p.k * blocks(p) // per_byte(p.w.bits)), LANES)

        def body(x: Any, constants: list[Any], epilogue: Epilogue) -> None:
            packed, gamma = constants
            dtype = sum_dtype(p, core)
            codes = ByteCodes.prepare(p, dtype, centre_of(p), epilogue)
            loops = Loops(p, dtype, centre_of(p), knobs["mr"], knobs["tile"], codes)
            weights = loops.weights(packed)
            loops = replace(loops, written=WrittenTiles.prepare(p, weights, codes, core))
            with rows(p, knobs) as index:
                loops.row(x, weights, gamma, epilogue, index // p.out_height, index % p.out_height)

        return frame(p, self.in_layout(p), [(shape, "uint8"), correction_shapes(p, skipped=True)[1]], body)


# Instructions for a tap of 16 channels, by the type of the sums.
_TAP = {"int8": {"mla": 1.0}, "int16": {"widen": 2.0}, "int32": {"widen": 2.0, "and": 4.0}}


def blocks(problem: DotProblem) -> int:
    """Vectors of 16 channels."""
    return -(-problem.channels // LANES)


def centre_of(problem: DotProblem) -> int:
    """What is taken off an activation's code so that it fits a signed byte."""
    return 128 if problem.a.bits == 8 else 0


def sum_dtype(problem: DotProblem, core: CoreSpec) -> str:
    """The narrowest type that holds any sum of taps; bytes only where a core multiplies them."""
    p = problem
    low, high = p.w.values
    largest = p.k * max(abs(low), abs(high)) * (128 if centre_of(p) else p.a.max_code)
    if largest <= 126 and core.is_arm:
        return "int8"
    return "int16" if largest < 1 << 15 else "int32"
