"""The loops that block kernels share: tiles of pixels, a panel for each, blocks of channels, then the epilogue.

For a run of ``tile`` pixels of an output row and each group: fill the panel of patches, sum their codes, and for each
block of ``nr`` channels run over the pixels ``mr`` at a time, so that the weights of a block stay in L1 while the panel
is read. All sums of the tile go to a scratch buffer that the epilogue reads in vectors of channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from schedules.dot_problem import DotProblem
from schedules.epilogue import Epilogue
from schedules.intrinsics import const, splat, vload, vstore
from schedules.padding import runs
from schedules.panel import Panel, Source
from schedules.vectors import part

# Weights are packed for blocks of this many channels; a kernel's block is a multiple of it.
CHANNEL_BLOCK = 4


def padded_channels(problem: DotProblem, nr: int) -> int:
    """Channels of a group, rounded up to whole blocks."""
    return -(-problem.group_out_channels // nr) * nr


def tile(problem: DotProblem) -> int:
    """Pixels to a tile: a row, or fewer so that the sums of all channels take 16 KiB, in steps of 8."""
    fitting = 4096 // problem.out_channels // 8 * 8
    return min(problem.out_width, max(8, fitting))


def even_blocks(pixels: int, most: int) -> int:
    """Pixels to a block, so that those of a tile are alike as far as possible."""
    return -(-pixels // -(-pixels // most))


@dataclass(frozen=True)
class Dots:
    """What a technique computes.

    Attributes
    ----------
    dtype, lanes
        Type of a sum, and how many of them a result vector holds.
    multiply : callable
        ``(panel, g, channel, first pixel, pixels) -> vectors``: emits one block's products; sums of ``pixels x nr``
        outputs, channels innermost.
    sum_codes : callable or None
        ``(panel, pixel) -> int32`` expression: emits the sum of a patch's codes. None if no channel needs it.
    scale : int
        What a sum is multiplied with first.
    centred : bool
        Whether gamma is more than the offset of the activations.
    prepare : callable or None
        ``(panel, pixel)``: emits what is to be done with each patch first.
    column : callable or None
        ``(panel, sums)``: emits all channels' products with the only pixel there is into a row of sums, where it can;
        returns whether it did.
    """

    dtype: str
    lanes: int
    multiply: Callable[..., list[Any]]
    sum_codes: Callable[[Panel, Any], Any] | None
    scale: int
    centred: bool = False
    prepare: Callable[[Panel, Any], None] | None = None
    column: Callable[[Panel, Any], bool] | None = None


class Scratch:
    """The sums of a tile and what corrects them to accumulators."""

    def __init__(self, problem: DotProblem, dots: Dots, pixels: int, nr: int, beta: Any, gamma: Any) -> None:
        p = problem
        self.problem, self.dots, self.nr = p, dots, nr
        self.beta, self.gamma = beta, gamma
        self.sums = T.alloc_buffer((pixels, p.groups * padded_channels(p, nr)), dots.dtype)
        self.code_sums = T.alloc_buffer((pixels, p.groups), p.threshold_dtype) if dots.sum_codes else None
        self.row_runs, self.column_runs = runs(p)
        self.where: tuple[Any, Any] = (const(0), const(0))

    def store(self, pixel: Any, g: Any, channel: Any, pixels: int, vectors: list[Any]) -> None:
        """Emit the storing of a block's result vectors."""
        first = g * padded_channels(self.problem, self.nr) + channel
        store_block(self.sums, lambda i, j: [pixel + i, first + j], vectors, self.dots.lanes, pixels, self.nr)

    def accumulators(self, pixel: Any, g: Any, channel: Any, lanes: int, dtype: str) -> Any:
        """The accumulators of neighbouring channels of one group as a vector (or a scalar if ``lanes`` is 1)."""
        p = self.problem
        kind = dtype if lanes == 1 else f"{dtype}x{lanes}"

        def read(buffer: Any, at: list[Any]) -> Any:
            return (buffer[tuple(at)] if lanes == 1 else vload(buffer, at, lanes)).astype(kind)

        def spread(value: Any) -> Any:
            return value if lanes == 1 else splat(value, lanes)

        value = read(self.sums, [pixel, g * padded_channels(p, self.nr) + channel])
        if self.dots.scale != 1:
            value = value * spread(const(self.dots.scale, dtype))
        c = g * p.group_out_channels + channel
        oy, ox = self.where
        if p.a.offset or self.dots.centred:
            value = value + read(self.gamma, [self.row_runs.at(oy), self.column_runs.at(ox + pixel), c])
        if self.code_sums is not None:
            value = value + read(self.beta, [c]) * spread(self.code_sums[pixel, g].astype(dtype))
        return value


def store_block(
    buffer: Any, at: Callable[[int, int], list[Any]], vectors: list[Any], lanes: int, pixels: int, nr: int
) -> None:
    """Emit the storing of ``pixels x nr`` sums, channels innermost, at ``at(pixel, channel)``."""
    width = min(lanes, nr)
    for r, vector in enumerate(vectors):
        for start in range(0, lanes, width):
            i, j = divmod(r * lanes + start, nr)
            if i < pixels:
                value = vector if width == lanes else part(vector, start, width)
                vstore(T, buffer, value, at(i, j), width)


def blocked(
    problem: DotProblem,
    mr: int,
    nr: int,
    tile: int,
    source: Source,
    dots: Dots,
    corrected: tuple[Any, Any],
    epilogue: Epilogue,
    unit: int = 8,
    rolled: bool = False,
) -> Callable[[Any, Any], None]:
    """What emits all pixels of an output row ``(n, oy)``."""
    p = problem

    def blocks(panel: Panel, scratch: Scratch, g: Any, pixels: int) -> None:
        with T.serial(0, padded_channels(p, nr) // nr) as block:

            def group_of(first: Any, count: int) -> None:
                vectors = dots.multiply(panel, g, block * nr, first, count)
                scratch.store(first, g, block * nr, count, vectors)

            whole, rest = divmod(pixels, mr)
            if whole:
                with T.serial(0, whole) as index:
                    group_of(index * mr, mr)
            if rest:
                group_of(const(whole * mr), rest)

    def pixels_from(n: Any, oy: Any, ox: Any, pixels: int) -> None:
        scratch = Scratch(p, dots, pixels, nr, *corrected)
        scratch.where = (oy, ox)
        with T.serial(0, p.groups) as g:
            panel = Panel(p, source, pixels, unit)
            panel.fill(n, oy, ox, g, pixels)
            if dots.prepare is not None:
                with T.serial(0, pixels) as i:
                    dots.prepare(panel, i)
            if dots.sum_codes is not None:
                with T.serial(0, pixels) as i:
                    total = dots.sum_codes(panel, i)
                    T.buffer_store(scratch.code_sums, total.astype(p.threshold_dtype), [i, g])
            if dots.column is None or not dots.column(panel, scratch.sums):
                blocks(panel, scratch, g, pixels)
        epilogue.write_tile(scratch.accumulators, lambda i: (n, oy, ox + i), pixels, rolled=rolled)

    def row(n: Any, oy: Any) -> None:
        whole, rest = divmod(p.out_width, tile)
        if whole:
            with T.serial(0, whole) as index:
                pixels_from(n, oy, index * tile, tile)
        if rest:
            pixels_from(n, oy, const(whole * tile), rest)

    return row
