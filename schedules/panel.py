"""``Panel``: the input patches of a run of output pixels, each as one row of bytes that a kernel's K loop reads.

Built once and read for every block of output channels. A patch is copied in vectors, position by position, or row by
row of the kernel where that saves some; positions in the padding get a given byte. Where a patch is a whole input pixel
already (1x1, stride 1, no padding) nothing is copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.code_sum import RunningSum
from schedules.dot_problem import DotProblem
from schedules.intrinsics import const, splat, vload, vstore
from schedules.pixel_run import PixelRun, in_row

WIDE, NARROW = 16, 8


def copy_instructions(problem: DotProblem, planes: int, size: int) -> float:
    """Loads and stores (as many of each) that build all panels, ``size`` bytes of a position in each plane."""
    p = problem
    together = neighbours(p, planes, size)
    moves = len(_pieces(size * together)[0]) + len(_pieces(size * together)[1])
    return p.batch * p.out_height * p.out_width * p.groups * p.kernel[0] * p.kernel[1] // together * planes * moves


def neighbours(problem: DotProblem, planes: int, size: int) -> int:
    """Positions that are copied as one: those of a kernel row, where they follow one another and are no vectors."""
    return problem.kernel[1] if size % WIDE and problem.groups == planes == problem.dilation[1] == 1 else 1


def _pieces(size: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Vectors that copy so many bytes, each with its first byte and length, the last two overlapping; or the bytes."""
    for lanes in (WIDE, NARROW):
        if size >= lanes:
            firsts = {*range(0, size - lanes, lanes), size - lanes}
            return [(first, lanes) for first in sorted(firsts)], []
    return [], list(range(size))


@dataclass(frozen=True)
class Source:
    """Where the bytes of one kernel position come from.

    Attributes
    ----------
    planes : int
        Rows of bytes to a patch.
    size : int
        Bytes that one position adds to each plane.
    at : callable
        ``(n, y, x, g, plane) -> (buffer, indices)``: where a position's bytes begin; the last index counts bytes.
    padding : callable
        ``(plane, byte) -> uint8`` expression: what stands at padded positions.
    shift : int
        Taken off each byte as it is copied (centring).
    copied : bool
        Whether patches are to be copied even where they are whole pixels, as they will be changed.
    """

    planes: int
    size: int
    at: Callable[..., tuple[Any, list[Any]]]
    padding: Callable[[Any, Any], Any]
    shift: int = 0
    copied: bool = False


class Panel:
    """Patches of up to ``pixels`` output pixels of one run and one group.

    Rows are ``row_bytes`` long, a multiple of ``unit``, zero past the patch.
    """

    def __init__(self, problem: DotProblem, source: Source, pixels: int, unit: int = NARROW) -> None:
        self.problem, self.source = problem, source
        self.used = problem.kernel[0] * problem.kernel[1] * source.size
        self.row_bytes = -(-self.used // unit) * unit
        self.together = neighbours(problem, source.planes, source.size)
        p = problem
        plain = p.kernel == (1, 1) and p.stride == (1, 1) and p.out_width == p.width and p.out_height == p.height
        self.direct = (
            plain and not any(p.padding) and self.used == self.row_bytes and not (source.shift or source.copied)
        )
        self.run, self.g = in_row(const(0), const(0), const(0)), const(0)
        self.sums: RunningSum | None = None
        self.buffer = None if self.direct else T.alloc_buffer((pixels, source.planes, self.row_bytes), "uint8")

    def load(self, pixel: Any, plane: Any, byte: Any, lanes: int) -> Any:
        """Bytes of a patch; ``pixel`` counts from the first one filled."""
        if self.buffer is not None:
            return vload(self.buffer, [pixel, plane, byte], lanes)
        buffer, at = self.source.at(*self.run.stands(pixel), self.g, plane)
        return vload(buffer, [*at[:-1], at[-1] + byte], lanes)

    def stride(self) -> int:
        """Bytes from a patch to that of the next pixel."""
        if self.buffer is not None:
            return self.source.planes * self.row_bytes
        buffer, _ = self.source.at(*self.run.stands(const(0)), self.g, const(0))
        return math.prod(int(size) for size in buffer.shape[3:])

    def address(self, pixel: Any, plane: Any, byte: Any) -> Any:
        """Where a byte of a patch is."""
        if self.buffer is not None:
            return tirx.address_of(self.buffer[pixel, plane, byte])
        buffer, at = self.source.at(*self.run.stands(pixel), self.g, plane)
        return tirx.address_of(buffer[(*at[:-1], at[-1] + byte)])

    def fill(self, run: PixelRun, g: Any, pixels: int, sums: RunningSum | None = None) -> None:
        """Emit the copy of the patches of the run's first ``pixels`` output pixels, and of the sum of each."""
        self.run, self.g, self.sums = run, g, sums
        if self.buffer is None:
            return
        p, s = self.problem, self.source
        with T.serial(0, pixels) as pixel:
            n, oy, ox = run.place(pixel)
            y0 = oy * p.stride[0] - p.padding[0]
            x0 = ox * p.stride[1] - p.padding[1]
            if max(p.padding) <= 0:
                self._inside(n, y0, x0, g, pixel)
            else:
                y1, x1 = (o + (k - 1) * d for o, k, d in zip((y0, x0), p.kernel, p.dilation, strict=True))
                with T.If(tirx.all(y0 >= 0, y1 < p.height, x0 >= 0, x1 < p.width)):
                    with T.Then():
                        self._inside(n, y0, x0, g, pixel)
                    with T.Else():
                        self._border(n, y0, x0, g, pixel)
                        if sums is not None:
                            sums.after(pixel)
            if self.used < self.row_bytes:
                with T.grid(s.planes, self.row_bytes - self.used) as (plane, byte):
                    T.buffer_store(self.buffer, const(0, "uint8"), [pixel, plane, self.used + byte])

    def _inside(self, n: Any, y0: Any, x0: Any, g: Any, pixel: Any) -> None:
        p, sums = self.problem, self.sums
        if sums is not None:
            sums.begin()
        with T.grid(p.kernel[0], p.kernel[1] // self.together) as (ky, kx):
            position = ky * p.kernel[1] + kx
            add = None if sums is None else sums.add
            y, x = y0 + ky * p.dilation[0], x0 + kx * p.dilation[1]
            self._copy(n, y, x, g, pixel, position, self.together, add)
            if sums is not None:
                sums.position()
        if sums is not None:
            sums.end(pixel)

    def _border(self, n: Any, y0: Any, x0: Any, g: Any, pixel: Any) -> None:
        p, s = self.problem, self.source
        with T.grid(*p.kernel) as (ky, kx):
            y, x = y0 + ky * p.dilation[0], x0 + kx * p.dilation[1]
            position = ky * p.kernel[1] + kx
            with T.If(tirx.all(y >= 0, y < p.height, x >= 0, x < p.width)):
                with T.Then():
                    self._copy(n, y, x, g, pixel, position)
                with T.Else(), T.grid(s.planes, s.size) as (plane, byte):
                    value = s.padding(plane, byte) + const(-s.shift % 256, "uint8")
                    T.buffer_store(self.buffer, value, [pixel, plane, position * s.size + byte])

    def _copy(
        self, n: Any, y: Any, x: Any, g: Any, pixel: Any, position: Any, together: int = 1, add: Any = None
    ) -> None:
        s = self.source
        for plane in range(s.planes):
            buffer, at = s.at(n, y, x, g, plane)

            def move(byte: Any, lanes: int, buffer: Any = buffer, at: Any = at, plane: int = plane) -> None:
                value = vload(buffer, [*at[:-1], at[-1] + byte], lanes)
                if s.shift:
                    value = value + splat(const(-s.shift % 256, "uint8"), lanes)
                vstore(T, self.buffer, value, [pixel, plane, position * s.size + byte], lanes)
                if add is not None:
                    add(value)

            vectors, single = _pieces(s.size * together)
            # Whole vectors from the first byte on are a loop, however many there are.
            whole = sum(first == i * WIDE for i, (first, lanes) in enumerate(vectors) if lanes == WIDE)
            if whole:
                with T.serial(0, whole) as step:
                    move(step * WIDE, WIDE)
            for first, lanes in vectors[whole:]:
                move(const(first), lanes)
            if single:
                with T.serial(0, len(single)) as byte:
                    move(byte, 1)
