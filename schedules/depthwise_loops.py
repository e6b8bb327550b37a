"""The loops of ``depthwise``: runs of a row that meet the same taps, vectors of channels, pixels that share loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.compact import LANES, centred_value, expand_vectors, per_byte
from schedules.depthwise_codes import ByteCodes, Store, spans
from schedules.depthwise_sums import Sums, together
from schedules.depthwise_tiles import WrittenTiles
from schedules.dot_problem import DotProblem
from schedules.epilogue import Epilogue
from schedules.intrinsics import const, of_lanes, splat, vload, vstore
from schedules.padding import runs
from schedules.registers import held

# Weights of more taps than this would fill the registers.
HELD_TAPS = 9
# Written out, kernels of more taps, or of more columns at the border or anywhere, would take LLVM minutes: they loop.
# Weights that are held are not looked up, so fewer columns than those have taps do not.
WRITTEN_TAPS = 25
BORDER_COLUMNS, WRITTEN_COLUMNS = 9, 31


@dataclass(frozen=True)
class Run:
    """Neighbouring pixels of a tile that meet the same columns of taps; ``columns`` None: each looks for its own."""

    first: int
    count: int
    columns: tuple[int, ...] | None


@dataclass(frozen=True)
class Channels:
    """A vector of channels of a tile, as `Loops.sums` works on it.

    Attributes
    ----------
    first, lanes
        The first channel, and how many.
    load : callable
        ``(y, x)``: emits the activations of a pixel of the image as int8.
    weight : callable
        ``(ky, kx)``: the weights of a tap as int8.
    store : callable
        ``(first pixel, vectors)``: emits the storing of neighbouring pixels' sums.
    """

    first: Any
    lanes: int
    load: Callable[[Any, Any], Any]
    weight: Callable[[Any, Any], Any]
    store: Store


@dataclass(frozen=True)
class Loops:
    """What a kernel's loops emit.

    Attributes
    ----------
    problem : DotProblem
        The convolution.
    dtype : str
        Of a sum.
    centre : int
        What is taken off an activation's code.
    mr, tile : int
        Pixels that share loads; pixels of a row whose sums are kept before they become codes.
    codes : ByteCodes, optional
        Makes codes of sums as they are; without it sums of a tile are kept for the epilogue.
    written : WrittenTiles, optional
        Loops for a core in order, where it has them.
    """

    problem: DotProblem
    dtype: str
    centre: int
    mr: int
    tile: int
    codes: ByteCodes | None = None
    written: WrittenTiles | None = None

    def weights(self, packed: Any) -> Any:
        """Emit, once a call, the weights' values as bytes; row ``tap * blocks + block`` has 16 channels."""
        p = self.problem
        per = per_byte(p.w.bits)
        values = T.alloc_buffer((packed.shape[0] * per, LANES), "uint8")
        with T.serial(0, packed.shape[0]) as vector:
            for place, code in enumerate(expand_vectors(vload(packed, [vector, 0], LANES), p.w.bits)):
                value = centred_value(code, p.w.multiplier, p.w.offset)
                vstore(T, values, value, [vector * per + place, 0], LANES)
        return values

    def row(self, x: Any, weights: Any, gamma: Any, epilogue: Epilogue, n: Any, oy: Any) -> None:
        """Emit all pixels of an output row, tile by tile; tiles that meet the same taps share their code."""
        for (pixels, parts), found in groupby(self._tiles(), key=lambda tile: tile[1:]):
            alike = list(found)
            with T.serial(0, len(alike)) as index:
                where = n, oy, alike[0][0] + index * self.tile
                if self.codes is not None:
                    sums = self.codes.rows(pixels)
                    self._sum_tile(x, weights, sums, where, parts)
                    self.codes.pack(sums, where, pixels)
                    continue
                sums = T.alloc_buffer((pixels, self.problem.channels), self.dtype)
                self._sum_tile(x, weights, sums, where, parts)
                self._finish(sums, gamma, epilogue, where, pixels)

    def _tiles(self) -> Iterator[tuple[int, int, tuple[Run, ...]]]:
        """First pixel, number of pixels, and their runs."""
        p = self.problem
        inside = [self._columns(ox) for ox in range(p.out_width)]
        for first in range(0, p.out_width, self.tile):
            pixels = min(self.tile, p.out_width - first)
            found, at = [], 0
            for columns, run in groupby(inside[first : first + pixels]):
                count = len(list(run))
                found.append(Run(at, count, columns))
                at += count
            yield first, pixels, tuple(found)

    def _columns(self, ox: int) -> tuple[int, ...] | None:
        p = self.problem
        at = [ox * p.stride[1] - p.padding[1] + kx * p.dilation[1] for kx in range(p.kernel[1])]
        found = tuple(kx for kx, ix in enumerate(at) if 0 <= ix < p.width)
        return found if len(at) <= (WRITTEN_COLUMNS if len(found) == len(at) else BORDER_COLUMNS) else None

    def _sum_tile(self, x: Any, weights: Any, sums: Any, where: Any, parts: tuple[Run, ...]) -> None:
        """Emit the sums of all channels of a tile; taps are asked for their row only where some may lie outside."""
        p = self.problem
        _, oy, ox = where
        top = oy * p.stride[0] - p.padding[0]
        left = ox * p.stride[1] - p.padding[1]

        columns = [part.columns for part in parts for _ in range(part.count)]
        every_row = range(p.kernel[0])
        written = None if self.written is None else self.written.loop(columns, every_row)

        def every_vector(guarded: bool) -> None:
            if self.written is not None and written is not None:
                if not guarded:
                    self.written.call(written, every_row, x, where)
                    return
                if self.written.call_border(columns, x, where):
                    return
            for first, count, lanes in spans(p.channels):
                with T.serial(0, count) as index:
                    channels = self._channels(x, weights, sums, where, first + index * lanes, lanes)
                    for part in parts:
                        self._sum_run(channels, top, left, part, guarded)

        if max(p.padding[0], p.padding[2]) <= 0:
            every_vector(False)
            return
        last = top + (p.kernel[0] - 1) * p.dilation[0]
        with T.If(tirx.all(top >= 0, last < p.height)):
            with T.Then():
                every_vector(False)
            with T.Else():
                every_vector(True)

    def _channels(self, x: Any, weights: Any, sums: Any, where: Any, first: Any, lanes: int) -> Channels:
        p, codes, n = self.problem, self.codes, where[0]
        blocks, kind = -(-p.channels // LANES), of_lanes("int8", lanes)

        def load(y: Any, ix: Any) -> Any:
            code = vload(x, [n, y, ix, first], lanes)
            if self.centre:
                code = code ^ splat(const(self.centre, "uint8"), lanes)
            return held(code.astype(kind), "int8", lanes)

        def read(tap: Any) -> Any:
            return vload(weights, [tap * blocks + first // LANES, first % LANES], lanes).astype(kind)

        kept = [held(read(tap), "int8", lanes) for tap in range(p.k)] if p.k <= HELD_TAPS else None

        def weight(ky: Any, kx: Any) -> Any:
            tap = ky * p.kernel[1] + kx
            return read(tap) if kept is None else kept[tap]

        def keep(pixel: Any, vectors: Sequence[Any]) -> None:
            for i, vector in enumerate(vectors):
                vstore(T, sums, vector, [pixel + i, first], lanes)

        store = keep if codes is None else codes.store(sums, where, first, lanes)
        return Channels(first, lanes, load, weight, store)

    def _sum_run(self, channels: Channels, top: Any, left: Any, part: Run, guarded: bool) -> None:
        if part.columns is None:
            with T.serial(0, part.count) as index:
                self._sum_alone(channels, top, left, part.first + index, guarded)
            return
        whole, rest = divmod(part.count, self.mr)
        if whole:
            with T.serial(0, whole) as index:
                self._sum_pixels(channels, top, left, part.first + index * self.mr, self.mr, part.columns, guarded)
        if rest:
            first = const(part.first + whole * self.mr)
            self._sum_pixels(channels, top, left, first, rest, part.columns, guarded)

    def _sum_pixels(
        self, channels: Channels, top: Any, left: Any, pixel: Any, count: int, columns: tuple[int, ...], guarded: bool
    ) -> None:
        """Emit the sums of pixels; each activation is loaded once in a row of taps, for all pixels that meet it."""
        p = self.problem
        meeting: dict[int, list[tuple[int, int]]] = {}
        for i in range(count):
            for kx in columns:
                meeting.setdefault(i * p.stride[1] + kx * p.dilation[1], []).append((i, kx))
        sums = Sums(count, self.dtype, channels.lanes, together(p, self.dtype, self.centre))
        for ky in self._tap_rows() if meeting else ():
            y = top + ky * p.dilation[0]
            with _where(tirx.all(y >= 0, y < p.height) if guarded else None):
                for shift in sorted(meeting):
                    value = channels.load(y, left + pixel * p.stride[1] + shift)
                    for i, kx in meeting[shift]:
                        sums.add(i, value, channels.weight(ky, kx))
                # A row that may be left out, or is a loop, ends what waits.
                if guarded or p.k > WRITTEN_TAPS:
                    sums.settle()
        sums.settle()
        channels.store(pixel, sums.vectors())

    def _sum_alone(self, channels: Channels, top: Any, left: Any, pixel: Any, guarded: bool) -> None:
        """Emit the sums of a pixel in loops over the taps inside."""
        p = self.problem
        x, apart = left + pixel * p.stride[1], p.dilation[1]

        def reached(distance: Any) -> Any:
            """Taps before so many columns."""
            return tirx.min((tirx.max(distance, 0) + (apart - 1)) // apart, p.kernel[1])

        sums = Sums(1, self.dtype, channels.lanes, 1)
        first = reached(-x)
        with T.serial(0, p.kernel[0]) as ky:
            y = top + ky * p.dilation[0]
            inside = tirx.all(y >= 0, y < p.height) if guarded else None
            with _where(inside), T.serial(0, tirx.max(reached(p.width - x) - first, 0)) as index:
                kx = first + index
                value = channels.load(y, x + kx * apart)
                sums.add(0, value, channels.weight(ky, kx))
        channels.store(pixel, sums.vectors())

    def _tap_rows(self) -> Iterator[Any]:
        """The rows of taps, written out or as the loop that this emits."""
        if self.problem.k <= WRITTEN_TAPS:
            yield from range(self.problem.kernel[0])
            return
        with T.serial(0, self.problem.kernel[0]) as ky:
            yield ky

    def _finish(self, sums: Any, gamma: Any, epilogue: Epilogue, where: Any, pixels: int) -> None:
        """Emit what turns the sums of a tile into accumulators, and those into codes."""
        p = self.problem
        n, oy, ox = where
        row_runs, column_runs = runs(p, skipped=True)
        corrected = bool(p.a.offset or self.centre)

        def accumulators(pixel: Any, group: Any, channel: Any, lanes: int, dtype: str) -> Any:
            kind = of_lanes(dtype, lanes)
            value = vload(sums, [pixel, channel], lanes).astype(kind)
            if p.a.multiplier != 1:
                value = value * splat(const(p.a.multiplier, dtype), lanes)
            if corrected:
                at = [row_runs.at(oy), column_runs.at(ox + pixel), channel]
                value = value + vload(gamma, at, lanes).astype(kind)
            return value

        # A byte's sums reach neither end of it; corrections might.
        narrow = self.dtype == "int8" and p.a.multiplier == 1 and not corrected
        epilogue.write_tile(accumulators, lambda i: (n, oy, ox + i), pixels, joined=True, narrow=narrow)


@contextmanager
def _where(condition: Any) -> Iterator[None]:
    if condition is None:
        yield
    else:
        with T.If(condition), T.Then():
            yield
