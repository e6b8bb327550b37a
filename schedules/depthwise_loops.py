"""The loops of ``depthwise``: runs of a row that meet the same taps, vectors of channels, pixels that share loads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.compact import LANES, centred_value, expand_vectors, per_byte
from schedules.dot_problem import DotProblem
from schedules.epilogue import Epilogue
from schedules.intrinsics import const, of_lanes, splat, vload, vstore
from schedules.padding import runs
from schedules.registers import Registers, held

# Weights of more taps than this would fill the registers.
HELD_TAPS = 9


def widths() -> tuple[int, ...]:
    """Channels to a vector, the widest first."""
    return (LANES, 8, 1)


@dataclass(frozen=True)
class Run:
    """Neighbouring pixels of a tile that meet the same columns of taps."""

    first: int
    count: int
    columns: tuple[int, ...]


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
    """

    problem: DotProblem
    dtype: str
    centre: int
    mr: int
    tile: int

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
        for (pixels, _), tiles in groupby(self._tiles(), key=lambda tile: (tile[1], tile[2])):
            alike = list(tiles)
            first, _, parts = alike[0]
            with T.serial(0, len(alike)) as index:
                self._tile(x, weights, gamma, epilogue, (n, oy, first + index * self.tile), pixels, parts)

    def _tiles(self) -> Iterator[tuple[int, int, tuple[Run, ...]]]:
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

    def _columns(self, ox: int) -> tuple[int, ...]:
        p = self.problem
        at = [ox * p.stride[1] - p.padding[1] + kx * p.dilation[1] for kx in range(p.kernel[1])]
        return tuple(kx for kx, ix in enumerate(at) if 0 <= ix < p.width)

    def _tile(
        self, x: Any, weights: Any, gamma: Any, epilogue: Epilogue, where: Any, pixels: int, parts: tuple[Run, ...]
    ) -> None:
        p = self.problem
        n, oy, ox = where
        sums = T.alloc_buffer((pixels, p.channels), self.dtype)
        top = oy * p.stride[0] - p.padding[0]
        reach = (p.kernel[0] - 1) * p.dilation[0]

        def every_vector(guarded: bool) -> None:
            done = 0
            for lanes in widths():
                count = (p.channels - done) // lanes
                if count:
                    with T.serial(0, count) as index:
                        self._channels(x, weights, sums, (n, top, ox), parts, done + index * lanes, lanes, guarded)
                done += count * lanes

        if max(p.padding[0], p.padding[2]) > 0:
            with T.If(tirx.all(top >= 0, top + reach < p.height)):
                with T.Then():
                    every_vector(False)
                with T.Else():
                    every_vector(True)
        else:
            every_vector(False)
        row_runs, column_runs = runs(p, skipped=True)

        def accumulators(pixel: Any, group: Any, channel: Any, lanes: int, dtype: str) -> Any:
            kind = of_lanes(dtype, lanes)
            value = vload(sums, [pixel, channel], lanes).astype(kind)
            if p.a.multiplier != 1:
                value = value * splat(const(p.a.multiplier, dtype), lanes)
            if p.a.offset or self.centre:
                at = [row_runs.at(oy), column_runs.at(ox + pixel), channel]
                value = value + vload(gamma, at, lanes).astype(kind)
            return value

        # A byte's sums reach neither end of it; corrections might.
        narrow = self.dtype == "int8" and p.a.multiplier == 1 and not (p.a.offset or self.centre)
        epilogue.write_tile(accumulators, lambda i: (n, oy, ox + i), pixels, joined=True, narrow=narrow)

    def _channels(
        self,
        x: Any,
        weights: Any,
        sums: Any,
        where: Any,
        parts: tuple[Run, ...],
        channel: Any,
        lanes: int,
        guarded: bool,
    ) -> None:
        """Emit the sums of a vector of channels for all pixels of a tile."""
        p = self.problem
        blocks = -(-p.channels // LANES)

        def weight(tap: int) -> Any:
            at = [tap * blocks + channel // LANES, channel % LANES]
            return vload(weights, at, lanes).astype(of_lanes("int8", lanes))

        taps: list[Any] = [None] * p.k
        if p.k <= HELD_TAPS:
            taps = [held(weight(tap), "int8", lanes) for tap in range(p.k)]

        def tap_of(ky: int, kx: int) -> Any:
            tap = ky * p.kernel[1] + kx
            return weight(tap) if taps[tap] is None else taps[tap]

        for part in parts:
            whole, rest = divmod(part.count, self.mr)
            if whole:
                with T.serial(0, whole) as index:
                    at = part.first + index * self.mr
                    self._pixels(x, tap_of, sums, where, at, self.mr, part.columns, channel, lanes, guarded)
            if rest:
                at = const(part.first + whole * self.mr)
                self._pixels(x, tap_of, sums, where, at, rest, part.columns, channel, lanes, guarded)

    def _pixels(
        self,
        x: Any,
        tap_of: Any,
        sums: Any,
        where: Any,
        pixel: Any,
        count: int,
        columns: tuple[int, ...],
        channel: Any,
        lanes: int,
        guarded: bool,
    ) -> None:
        p = self.problem
        n, top, ox = where
        left = (ox + pixel) * p.stride[1] - p.padding[1]
        registers = Registers([(i, 0) for i in range(count)], self.dtype, lanes)
        users: dict[int, list[tuple[int, int]]] = {}
        for i in range(count):
            for kx in columns:
                users.setdefault(i * p.stride[1] + kx * p.dilation[1], []).append((i, kx))
        for ky in range(p.kernel[0]) if users else ():
            y = top + ky * p.dilation[0]
            with _where(tirx.all(y >= 0, y < p.height) if guarded else None):
                for shift in sorted(users):
                    value = self._load(x, [n, y, left + shift, channel], lanes)
                    for i, kx in users[shift]:
                        registers[i, 0] = registers[i, 0] + self._product(value, tap_of(ky, kx), lanes)
        for i in range(count):
            vstore(T, sums, registers[i, 0], [pixel + i, channel], lanes)

    def _load(self, x: Any, at: list[Any], lanes: int) -> Any:
        code = vload(x, at, lanes)
        if self.centre:
            code = code ^ splat(const(self.centre, "uint8"), lanes)
        return held(code.astype(of_lanes("int8", lanes)), "int8", lanes)

    def _product(self, value: Any, weight: Any, lanes: int) -> Any:
        """A byte times a byte, in 16 bits, which hold it, or in 8 where all sums fit them."""
        wide = of_lanes("int8" if self.dtype == "int8" else "int16", lanes)
        return (value.astype(wide) * weight.astype(wide)).astype(of_lanes(self.dtype, lanes))


@contextmanager
def _where(condition: Any) -> Iterator[None]:
    if condition is None:
        yield
    else:
        with T.If(condition), T.Then():
            yield
