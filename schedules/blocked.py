"""The loops that block kernels share: tiles of pixels, a panel for each, blocks of channels, then the epilogue.

For a run of ``tile`` pixels, of an output row or across rows, and each group: fill the panel of patches, sum their
codes, and for each block of ``nr`` channels run over the pixels ``mr`` at a time, so that its weights stay in
L1 while the panel is read. All sums of the tile go to a scratch buffer that the epilogue reads in vectors of channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.code_sum import RunningSum
from schedules.dot_problem import DotProblem
from schedules.epilogue import Epilogue
from schedules.intrinsics import const, splat, vload, vstore
from schedules.padding import runs
from schedules.panel import Panel, Source
from schedules.pixel_run import PixelRun, across_rows, in_row
from schedules.vectors import keep_rolled, part

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
    running : callable or None
        ``(store, after)`` to the `RunningSum` that adds codes as they are copied.
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
    running: Callable[..., RunningSum] | None = None


class Scratch:
    """The sums of a tile and what corrects them to accumulators."""

    def __init__(self, problem: DotProblem, dots: Dots, pixels: int, nr: int, beta: Any, gamma: Any) -> None:
        p = problem
        self.problem, self.dots, self.nr = p, dots, nr
        self.beta, self.gamma = beta, gamma
        self.sums = T.alloc_buffer((pixels, p.groups * padded_channels(p, nr)), dots.dtype)
        self.code_sums = T.alloc_buffer((pixels, p.groups), p.threshold_dtype) if dots.sum_codes else None
        self.row_runs, self.column_runs = runs(p)
        self.run = in_row(const(0), const(0), const(0))

    def store(self, pixel: Any, g: Any, channel: Any, pixels: int, vectors: list[Any]) -> None:
        """Emit the storing of a block's result vectors."""
        first = g * padded_channels(self.problem, self.nr) + channel
        store_block(self.sums, lambda i, j: [pixel + i, first + j], vectors, self.dots.lanes, pixels, self.nr)

    def store_sum(self, pixel: Any, g: Any, total: Any) -> None:
        """Emit the storing of the sum of a patch's codes."""
        T.buffer_store(self.code_sums, total.astype(self.problem.threshold_dtype), [pixel, g])

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
        if p.a.offset or self.dots.centred:
            _, oy, ox = self.run.place(pixel)
            value = value + read(self.gamma, [self.row_runs.at(oy), self.column_runs.at(ox), c])
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


@dataclass(frozen=True)
class Blocks:
    """The loops over blocks of ``mr`` pixels x ``nr`` channels.

    Attributes
    ----------
    problem : DotProblem
        What is computed.
    mr, nr : int
        Pixels and channels to a block.
    source : Source
        Where patches come from.
    dots : Dots
        What a block computes.
    corrected : tuple of Buffer
        ``beta`` and ``gamma`` of `techniques.base.corrections`.
    epilogue : Epilogue
        What takes the accumulators.
    unit : int
        See `Panel`.
    rolled : bool
        See `vectors.keep_rolled`.
    written : bool
        Whether what a block computes is written out in assembly.
    """

    problem: DotProblem
    mr: int
    nr: int
    source: Source
    dots: Dots
    corrected: tuple[Any, Any]
    epilogue: Epilogue
    unit: int = 8
    rolled: bool = False
    written: bool = False

    def tile(self, run: PixelRun, pixels: int, mr: int | None = None) -> None:
        """Emit the first ``pixels`` of a run, in blocks of ``mr`` instead of its own if there is one."""
        p, dots = self.problem, self.dots
        scratch = Scratch(p, dots, pixels, self.nr, *self.corrected)
        scratch.run = run
        with T.serial(0, p.groups) as g:
            panel = Panel(p, self.source, pixels, self.unit)
            sums = self._sums(panel, scratch, g)
            panel.fill(run, g, pixels, sums)
            if dots.prepare is not None:
                with T.serial(0, pixels) as i:
                    dots.prepare(panel, i)
            if dots.sum_codes is not None and sums is None:
                with T.serial(0, pixels) as i:
                    scratch.store_sum(i, g, dots.sum_codes(panel, i))
            if dots.column is None or not dots.column(panel, scratch.sums):
                self._blocks(panel, scratch, g, pixels, mr or self.mr)
        self.epilogue.write_tile(scratch.accumulators, run.stands, pixels, rolled=self.rolled)

    def _sums(self, panel: Panel, scratch: Scratch, g: Any) -> RunningSum | None:
        running, sum_codes = self.dots.running, self.dots.sum_codes
        if running is None or sum_codes is None or panel.direct:
            return None
        return running(
            lambda pixel, total: scratch.store_sum(pixel, g, total.astype("int32")),
            lambda pixel: scratch.store_sum(pixel, g, sum_codes(panel, pixel)),
        )

    def _blocks(self, panel: Panel, scratch: Scratch, g: Any, pixels: int, mr: int) -> None:
        nr = self.nr
        with T.serial(0, padded_channels(self.problem, nr) // nr) as block:

            def group_of(first: Any, count: int) -> None:
                vectors = self.dots.multiply(panel, g, block * nr, first, count)
                scratch.store(first, g, block * nr, count, vectors)

            whole, rest = divmod(pixels, mr)
            if whole:
                with T.serial(0, self._count(whole)) as index:
                    keep_rolled(self.written)
                    group_of(index * mr, mr)
            if rest:
                group_of(const(whole * mr), rest)

    def _count(self, blocks: int) -> Any:
        """The number of blocks, hidden from LLVM: what is written out would be repeated until it fills the cache."""
        if not self.written or blocks == 1:
            return blocks
        hidden = tirx.call_extern("int64", "lowbit_through_general", const(blocks, "int64"))
        return hidden.astype("int32")


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
    """What emits all pixels of an output row ``(n, oy)``, ``tile`` of them at a time; for the rest, see `Blocks`."""
    blocks = Blocks(problem, mr, nr, source, dots, corrected, epilogue, unit, rolled)
    return lambda n, oy: along(blocks, tile, n, oy)


def along(blocks: Blocks, tile: int, n: Any, oy: Any) -> None:
    """Emit the pixels of an output row, ``tile`` of them at a time."""
    whole, rest = divmod(blocks.problem.out_width, tile)
    if whole:
        with T.serial(0, whole) as index:
            blocks.tile(in_row(n, oy, index * tile), tile)
    if rest:
        blocks.tile(in_row(n, oy, const(whole * tile)), rest)


def across(blocks: Blocks, tile: int, most: int, loop: Callable[[int, int], Any]) -> None:
    """Emit all pixels of the batch, ``tile`` of them at a time whatever their rows, in the given kind of loop.

    What remains is divided into as few blocks as ``most`` pixels to a block allow.
    """
    p = blocks.problem
    whole, rest = divmod(p.batch * p.out_height * p.out_width, tile)

    def remainder() -> None:
        blocks.tile(across_rows(p, const(whole * tile), rest), rest, even_blocks(rest, most))

    # One loop, so that threads share the remainder too.
    with loop(0, whole + (rest > 0)) as index:
        if not whole:
            remainder()
        elif not rest:
            blocks.tile(across_rows(p, index * tile, tile), tile)
        else:
            with T.If(index < whole):
                with T.Then():
                    blocks.tile(across_rows(p, index * tile, tile), tile)
                with T.Else():
                    remainder()
