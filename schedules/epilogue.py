"""What happens to the accumulators of one output pixel: written as they are, or turned into packed codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.counting import (
    LINEAR_LEVELS,
    SEARCH_LEVELS,
    count_by_line,
    count_grouped,
    count_reached,
    count_vector,
    declare_tables,
    slanted,
)
from schedules.dot_problem import DotProblem, Thresholds
from schedules.intrinsics import const, vstore
from schedules.pack_codes import load_vector, loads_vectors, pack_pixel, store_codes
from schedules.vectors import bits_of, keep_rolled, part

# Up to here a vector selects each threshold among the rows of all the second operand's codes.
SIDE_THRESHOLDS = 64
SIDE_LANES = 8
# Neighbours whose codes are guessed by lines at once.
LINE_LANES = 8
# Bits of a vector register.
REGISTER = 128


class Epilogue:
    """Declares the epilogue's kernel parameters (thresholds, flip, side operand, output) and writes pixels.

    Parameters come in the order thresholds ``(rows, levels, O)``, flip ``(O,)`` uint8, falling thresholds
    ``(rows, falls, O)`` or lines ``(2, O)`` float32 if there are any, side codes, out; without thresholds there is only
    out, int32 ``(N, OH, OW, O)``.
    """

    def __init__(self, problem: DotProblem) -> None:
        self.problem = problem
        self.spec = problem.epilogue
        p = problem
        shape = (p.batch, p.out_height, p.out_width, p.out_channels)
        if self.spec is None:
            self.out = T.arg("out", T.buffer(shape, "int32"))
            return
        if (self.spec.side is None) != (self.spec.side_bits == 0):
            raise ValueError(f"a side operand needs both bits and a layout: {self.spec}")
        self.dtype = self.spec.dtype or p.threshold_dtype
        self.tables = declare_tables(self.spec, p.out_channels, self.dtype)
        if self.spec.side is not None:
            self.side = T.arg("side", T.buffer(self.spec.side.shape(*shape), "uint8"))
        self.out = T.arg("out", T.buffer(self.spec.out.shape(*shape), "uint8"))

    def scratch(self) -> Any:
        """A row for the codes of one pixel, allocated where it is called; None if no codes are made."""
        return None if self.spec is None else T.alloc_buffer((self.problem.out_channels,), "uint8")

    def write(self, accumulators: Any, codes: Any, n: Any, y: Any, x: Any) -> None:
        """Emit the writing of one pixel.

        Parameters
        ----------
        accumulators : callable
            Channel index to the int32 accumulator expression.
        codes : Buffer or None
            What `scratch` gave.
        n, y, x : expressions
            Batch, row and column of the pixel.
        """
        channels = self.problem.out_channels
        if self.spec is None:
            with T.serial(0, channels) as c:
                T.buffer_store(self.out, accumulators(c), [n, y, x, c])
            return
        with T.serial(0, channels) as c:
            row: Any = const(0)
            if self.spec.side is not None:
                at = lambda *i: tirx.BufferLoad(self.side, list(i))  # noqa: E731 - a view of one buffer
                row = self.spec.side.load(at, n, y, x, c, channels).astype("int32")
            count_reached(self.spec, self.tables, accumulators(c), row, c, codes, [c])
        store_codes(self.spec.out, self.out, codes, n, y, x, channels)

    def write_tile(
        self,
        accumulators: Any,
        place: Any,
        pixels: int,
        exists: Any = None,
        rolled: bool = False,
        joined: bool = False,
        narrow: bool = False,
    ) -> None:
        """Emit the writing of some pixels, vectors of channels at a time.

        Parameters
        ----------
        accumulators : callable
            ``(pixel, group, channel of the group, lanes, dtype)`` to the accumulators of neighbouring channels.
        place : callable
            Pixel to its batch, row and column.
        pixels : int
            How many.
        exists : callable, optional
            Pixel to whether it lies in the output; the others are not written.
        rolled : bool
            See `vectors.keep_rolled`.
        joined : bool
            Whether a vector may hold channels of several groups: they are counted as those of one.
        narrow : bool
            Whether accumulators lie within -127..126, so that bytes can be compared with few thresholds.
        """
        p = self.problem
        groups, channels = (1, p.out_channels) if joined else (p.groups, p.group_out_channels)
        codes = None if self.spec is None else T.alloc_buffer((pixels, p.out_channels), "uint8")

        def chunk(group: Any, first: Any, lanes: int) -> None:
            # Pixels innermost: the tables of these channels stay in registers.
            # Two at a time, so that one's instructions stand between another's that wait for each other.
            together = next(n for n in (2, 1) if pixels % n == 0) if rolled and lanes > 1 else 1
            with T.serial(0, pixels // together) as i:
                keep_rolled(rolled)
                for pixel in [i * together + j for j in range(together)]:
                    self._write_channels(accumulators, codes, place, exists, pixel, group, first, lanes, narrow)

        with T.serial(0, groups) as group:
            done = 0
            for lanes in self._widths(groups, channels):
                count = (channels - done) // lanes
                if count:
                    with T.serial(0, count) as index:
                        chunk(group, done + index * lanes, lanes)
                done += count * lanes
        if self.spec is not None:
            with T.serial(0, pixels) as i, guard(exists, i):
                n, y, x = place(i)
                pack_pixel(self.spec.out, self.out, codes, i, n, y, x, p.out_channels)

    def _widths(self, groups: int, channels: int) -> tuple[int, ...]:
        """Channels to a vector, the widest first; a search wants its thresholds in registers, a vector of each."""
        spec = self.spec
        if spec is None:
            return (16, 8, 1)
        if spec.lines:
            return (LINE_LANES, 1)
        found = self._counted(spec)
        if spec.side is None:
            return found
        whole = groups == 1 or channels % SIDE_LANES == 0 or spec.side.kind == "nhwc"
        return tuple(n for n in found if n == 1 or (whole and loads_vectors(spec.side, self.problem.out_channels, n)))

    def _counted(self, spec: Thresholds) -> tuple[int, ...]:
        """The same where a second operand's codes can be read by vectors."""
        search = (4, 1) if self.dtype == "int32" else (8, 1)
        most = max(spec.levels, spec.falls)
        if most > LINEAR_LEVELS:
            return search if not spec.falls and spec.rows == 1 else (1,)
        if spec.rows > 1:
            return (SIDE_LANES, 1) if spec.rows * most <= SIDE_THRESHOLDS else (1,)
        return search if most >= SEARCH_LEVELS else (16, 8, 1)

    def _write_channels(
        self,
        accumulators: Any,
        codes: Any,
        place: Any,
        exists: Any,
        i: Any,
        group: Any,
        first: Any,
        lanes: int,
        narrow: bool,
    ) -> None:
        p = self.problem
        c = group * p.group_out_channels + first
        if self.spec is None:
            value = accumulators(i, group, first, lanes, "int32")
            with guard(exists, i):
                if lanes == 1:
                    T.buffer_store(self.out, value, [*place(i), c])
                else:
                    vstore(T, self.out, value, [*place(i), c], lanes)
        elif lanes == 1:
            row: Any = const(0)
            if self.spec.side is not None:
                at = lambda *j: tirx.BufferLoad(self.side, list(j))  # noqa: E731 - a view of one buffer
                n, y, x = place(i)
                row = self.spec.side.load(at, n, y, x, c, p.out_channels).astype("int32")
            with guard(exists, i):
                count_reached(self.spec, self.tables, accumulators(i, group, first, 1, "int32"), row, c, codes, [i, c])
        elif self.spec.lines:
            value = accumulators(i, group, first, lanes, "int32")
            with guard(exists, i):
                count_by_line(self.spec, self.tables, value, c, lanes, codes, i)
        else:
            spec, moves = self.spec, self.spec.shift is not None
            kind = "int8" if narrow and not moves else self.dtype
            # Registers' widths apart: each is counted by itself, and all are narrowed together.
            width = min(lanes, REGISTER // bits_of(kind))
            starts = range(0, lanes, width)
            values = [accumulators(i, group, first + at, width, kind) for at in starts]
            with guard(exists, i):
                side = None
                if spec.side is not None:
                    n, y, x = place(i)
                    side = load_vector(spec.side, self.side, n, y, x, c, p.out_channels, lanes)
                if moves:
                    sides = [side if width == lanes else part(side, at, width) for at in starts]
                    columns = [c + at for at in starts]
                    moved = zip(values, sides, columns, strict=True)
                    values, side = [slanted(spec, self.tables, *each, width) for each in moved], None
                if spec.levels > LINEAR_LEVELS:
                    count_grouped(spec, self.tables, values[0], c, lanes, codes, i)
                else:
                    vstore(T, codes, count_vector(spec, self.tables, values, side, c, lanes), [i, c], lanes)


@contextmanager
def guard(exists: Any, i: Any) -> Iterator[None]:
    """Emit what follows only for pixels that exist."""
    if exists is None:
        yield
    else:
        with T.If(exists(i)), T.Then():
            yield
