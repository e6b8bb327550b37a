"""``bit_select``: products of 2-bit codes by three counts; see `select_dot`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from schedules.blocked import Dots, blocked, padded_channels, tile
from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.epilogue import Epilogue
from schedules.intrinsics import const
from schedules.knob_space import Space, around, row_tiles
from schedules.layout import Layout, pack_planes, plane_bytes
from schedules.panel import copy_instructions
from schedules.select_dot import STEP, SelectDot, chunk
from schedules.select_rows import DEEP, LANES, WEIGHTS, SelectRows
from schedules.techniques.base import Array, Knobs, Technique, correction_shapes, corrections, frame, rows
from schedules.techniques.bit_serial import source
from schedules.vectors import in_order, vectors

# Lanes of 16 bits hold three times as much.
MAX_K = 65535 // 3
# A sum of more products of 3 and 3 may not fit 16 bits.
MAX_SHORT_K = 65535 // 9
# Vectors of eight channels to a block of one pixel.
MOST_VECTORS = 8


class BitSelect(Technique):
    """Blocks of ``mr`` pixels x ``nr`` channels held in registers, 16 bits of K of eight channels a step."""

    name = "bit_select"
    needs = frozenset({"asimd"})

    def declines(self, problem: DotProblem, core: CoreSpec) -> str | None:
        """Both sides have two bits; K must fit 16 bits.

        Kernels are exact on any core with the instructions, but others were faster on all layers that were metered.
        """
        p, reason = problem, super().declines(problem, core)
        if (p.a.bits, p.w.bits) != (2, 2):
            return reason or f"three counts make products of 2-bit codes, not {p.name}"
        if p.k > MAX_K:
            return reason or f"counts of {p.k} products would overflow a 16-bit lane (at most {MAX_K})"
        if "dotprod" in core.features:
            return reason or f"{core.name} has SDOT, which multiplies faster than three counts do"
        if in_order(core):
            return reason or f"{core.name} would wait for each of the three counts"
        return reason

    def cycles(self, problem: DotProblem, core: CoreSpec) -> float:
        """The steps, what each output and each flush of bytes takes, and the copies of the patches."""
        p, knobs = problem, self.knobs(problem, core)
        pixels = p.batch * p.out_height * p.out_width * p.groups
        # Loads take half as many slots as vector operations.
        loads = 1 / knobs["mr"] + LANES / knobs["nr"]
        step = core.cycles({"and": 4, "cnt": 5, "ldr": loads})
        flushes = -(-units(p) // chunk(units(p))) - 1
        flush = core.cycles({"uadalp": 4, "and": 1, "ldr": 2, "str": 2})
        output = (units(p) * step + flushes * flush) / LANES + 2.1 / core.vector_issue
        vector = core.cycles({"ldr": 2, "str": 2, "and": 8, "cnt": 3, "uadalp": 2})
        patch = units(p) * DEEP / STEP * vector + 36 / core.vector_issue
        moves = 0 if whole(p) else copy_instructions(p, p.a.bits, plane_bytes(p.group_channels))
        copies = moves * core.cycles({"ldr": 1, "str": 1})
        return pixels * (padded_channels(p, LANES) * output + patch) + copies

    def knobs(self, problem: DotProblem, core: CoreSpec) -> Knobs:
        """The block that takes the fewest slots, of those whose weights leave L1 to the patches."""
        p = problem
        mr, nr = block(p, core)
        return {**super().knobs(p, core), "mr": mr, "nr": nr, "tile": tile(p)}

    def space(self, problem: DotProblem, core: CoreSpec) -> Space:
        """Blocks of whatever pixels and channels; `build` takes as many pixels as fit the registers."""
        p = problem
        more = {"mr": range(1, min(most_pixels(1), p.out_width) + 1), "nr": widths(p), "tile": row_tiles(p)}
        return around(self.knobs(p, core), p, more)

    def in_layout(self, problem: DotProblem) -> Layout:
        """Bit planes, each group's channels starting at a byte."""
        return Layout("planes", problem.a.bits, problem.groups)

    def constants(self, problem: DotProblem, weights: Array, weight_offset: Array) -> list[Array]:
        """Weight planes ``(groups, blocks, units, 2, 16)``, eight channels of two bytes each, and ``v`` of channels."""
        p = problem
        # Zero bits past the weights add to no count where the activations' are zero too.
        high, low = weights >> 1, weights & 1
        first, second = 1 - high, 1 - (high ^ low)
        v = (first * (1 + 2 * second.astype(np.int64))).sum(axis=(1, 2, 3)).reshape(p.groups, -1)
        channels = padded_channels(p, LANES) - p.group_out_channels
        v = np.pad(v, ((0, 0), (0, channels))).astype(kind(p))
        return [self.pack(p, first | second << 1), v, *corrections(p, weights, weight_offset)]

    def pack(self, problem: DotProblem, codes: Array) -> Array:
        """Codes ``(O, C / groups, kh, kw)`` to blocked planes."""
        p = problem
        grouped = codes.reshape(p.groups, p.group_out_channels, p.group_channels, *p.kernel)
        planes = pack_planes(grouped.transpose(0, 1, 3, 4, 2), 2).transpose(0, 1, 4, 2, 3, 5)
        planes = planes.reshape(p.groups, p.group_out_channels, 2, -1)
        channels = padded_channels(p, LANES) - p.group_out_channels
        pad = units(p) * DEEP - planes.shape[-1]
        planes = np.pad(planes, ((0, 0), (0, channels), (0, 0), (0, pad)))
        blocks = planes.reshape(p.groups, -1, LANES, 2, units(p), DEEP).transpose(0, 1, 4, 3, 2, 5)
        return np.ascontiguousarray(blocks).reshape(shape(p))

    def unpack_weights(self, problem: DotProblem, constant: Array) -> Array:
        """The codes again, from their planes."""
        p = problem
        blocks = constant.reshape(p.groups, -1, units(p), 2, LANES, DEEP).transpose(0, 1, 4, 3, 2, 5)
        used = p.kernel[0] * p.kernel[1] * plane_bytes(p.group_channels)
        planes = blocks.reshape(p.groups, -1, 2, units(p) * DEEP)[:, : p.group_out_channels, :, :used]
        planes = planes.reshape(p.groups, p.group_out_channels, 2, *p.kernel, -1)
        bits = np.unpackbits(planes, axis=-1, bitorder="little", count=p.group_channels)
        codes = 2 * (1 - bits[:, :, 0]) + (bits[:, :, 0] ^ bits[:, :, 1])
        return codes.transpose(0, 1, 4, 2, 3).reshape(p.out_channels, p.group_channels, *p.kernel)

    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """A bit of each plane."""
        p = problem
        group, channel = o // p.group_out_channels, o % p.group_out_channels
        byte = (y * p.kernel[1] + x) * plane_bytes(p.group_channels) + c // 8
        place = channel % LANES * DEEP + byte % DEEP

        def bit(plane: int) -> Any:
            found = at(group, channel // LANES, byte // DEEP, plane, place)
            return (found >> (c % 8).astype("uint8")) & const(1, "uint8")

        first = bit(0)
        return ((first ^ const(1, "uint8")) << const(1, "uint8")) | (first ^ bit(1))

    def build(self, problem: DotProblem, knobs: Knobs, core: CoreSpec) -> Any:
        """See `Technique.build`."""
        p, nr = problem, knobs["nr"]

        def body(x: Any, constants: list[Any], epilogue: Epilogue) -> None:
            weights, sums, beta, gamma = constants
            codes = p.needs_code_sum
            dot = SelectDot(vectors(core), units(p) * DEEP, nr, weights, sums, p.k > MAX_SHORT_K, codes)
            scale = p.a.multiplier * p.w.multiplier
            sum_codes = dot.sum_codes if codes else None
            dots = Dots(dot.dtype, dot.lanes, dot.multiply, sum_codes, scale, prepare=dot.prepare)
            mr = min(knobs["mr"], most_pixels(nr // LANES))
            emit = blocked(p, mr, nr, knobs["tile"], source(p, x), dots, (beta, gamma), epilogue, DEEP)
            with rows(p, knobs) as index:
                dot.begin(min(knobs["tile"], p.out_width))
                emit(index // p.out_height, index % p.out_height)

        shapes = [(shape(p), "uint8"), ((p.groups, padded_channels(p, LANES)), kind(p)), *correction_shapes(p)]
        return frame(p, self.in_layout(p), shapes, body)


def units(problem: DotProblem) -> int:
    """Steps of two bytes through a plane of a patch."""
    return -(-problem.kernel[0] * problem.kernel[1] * plane_bytes(problem.group_channels) // DEEP)


def shape(problem: DotProblem) -> tuple[int, ...]:
    """The packed weights'."""
    return problem.groups, padded_channels(problem, LANES) // LANES, units(problem), 2, STEP


def kind(problem: DotProblem) -> str:
    """Type of what is known of each channel."""
    return "int32" if problem.k > MAX_SHORT_K else "int16"


def widths(problem: DotProblem) -> list[int]:
    """Channels of a block that divide those of a group."""
    padded = padded_channels(problem, LANES)
    return [nr for nr in range(LANES, MOST_VECTORS * LANES + 1, LANES) if padded % nr == 0]


def most_pixels(vectors_: int) -> int:
    """Pixels of a block of so many vectors of channels whose counts fit the registers."""
    return next(mr for mr in range(8, 0, -1) if SelectRows(mr, vectors_, DEEP, WEIGHTS, 1).possible())


def block(problem: DotProblem, core: CoreSpec) -> tuple[int, int]:
    """Pixels and channels of a block."""
    p, pixels = problem, tile(problem)
    # More than once are weights read where there are several pixels; blocks below 16 channels cost more than misses.
    bound = max(core.l1.size * 3 // 8, 2 * WEIGHTS * units(p))
    single = p.batch * p.out_height * p.out_width == 1
    found = [nr for nr in widths(p) if single or nr // LANES * WEIGHTS * units(p) <= bound]

    def slots(mr: int, vectors_: int) -> float:
        """Of a row's pixels, for each vector of channels: nine operations of two slots, loads of one, two to loop."""
        sizes = [mr] * (pixels // mr) + [pixels % mr] * (pixels % mr > 0)
        return sum(18 * n + 2 * n / vectors_ + 2 + 2 / vectors_ for n in sizes)

    blocks = [(mr, nr) for nr in found for mr in range(1, min(pixels, most_pixels(nr // LANES)) + 1)]
    return min(blocks, key=lambda found: slots(found[0], found[1] // LANES))


def whole(problem: DotProblem) -> bool:
    """Whether patches are read where they lie."""
    p = problem
    return p.kernel == p.stride == (1, 1) and not any(p.padding)
