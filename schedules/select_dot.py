"""The inner loops of ``bit_select``: three counts for products of 2-bit codes, where `bit_dot` takes four.

With ``a = 2 a1 + a0`` and ``g = a1 ^ a0``, and two planes ``p``, ``q`` that stand for a weight (`PLANES`)::

    f1 = a1 ^ p        f2 = f1 ? q : g        f3 = f2 ? q : g
    2 a w = 3 f1 + 4 f2 + 2 f3 + 3 (a1 + 2 a1 a0) - 3 p (1 + 2 q)

for all sixteen pairs of codes. Each line is one instruction (EOR; BSL, which overwrites only the mask), with CNT and an
addition nine for 128 products. Summed over K, with counts ``c``, ``u`` of the patch and ``v`` of the output channel::

    sum(a w) = 2 c2 + c3 + 3 (c1 + u - v) / 2

A vector holds two bytes of each of eight channels, and two bytes of a patch meet all of them: UADALP adds a channel's
counts in a lane of 16 bits, so that nothing is added up over lanes in the end.

Worst cases: a lane counts each product once, so it ends at K. ``c1 + u - v`` lies in -3 K and 4 K: 16 bits, with a sign,
hold that up to K = 8191, and the sum, of 9 K, up to 7281 without one. Beyond, both are computed in 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.intrinsics import const, splat, vload, vstore
from schedules.panel import Panel
from schedules.registers import Registers, held
from schedules.vectors import Vectors, transpose_sums

# Bytes of K and channels of a vector.
DEEP, LANES = 2, 8
STEP = DEEP * LANES
COUNTS = 3


def pieces(row_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Runs of vectors of one size that make up a row: where a run begins, its vectors, and their bytes."""
    at = 0
    for size in (STEP, 8, 4, 2):
        count = (row_bytes - at) // size
        if count:
            yield at, count, size
        at += count * size


@dataclass
class SelectDot:
    """Sums of products of 2-bit codes.

    Attributes
    ----------
    v : Vectors
        Operations of the core.
    row_bytes : int
        Bytes of a plane of a patch, a multiple of two.
    nr : int
        Channels of a block, a multiple of eight.
    weights : Buffer
        ``(groups, blocks of 8, units of 2 bytes, planes, 16)``.
    sums : Buffer
        ``v`` of each channel, ``(groups, channels)``.
    large : bool
        Whether a sum may not fit 16 bits.
    times : int
        Units to a round of the loop.
    """

    v: Vectors
    row_bytes: int
    nr: int
    weights: Any
    sums: Any
    large: bool
    times: int
    codes: Any = field(default=None, init=False)
    masses: Any = field(default=None, init=False)

    @property
    def dtype(self) -> str:
        """Type of the sums."""
        return "uint32" if self.large else "uint16"

    @property
    def lanes(self) -> int:
        """Sums to a result vector."""
        return 4 if self.large else 8

    def begin(self, pixels: int) -> None:
        """Declare, within the loop over rows, what `prepare` writes of each pixel of a tile."""
        self.codes = T.alloc_buffer((pixels, 2, self.row_bytes), "uint8")
        self.masses = T.alloc_buffer((2, pixels), "uint32")

    def prepare(self, panel: Panel, pixel: Any) -> None:
        """Emit the planes ``a1`` and ``g`` of a patch, its ``u`` and the sum of its codes."""
        totals = Registers([(0, 0), (0, 1)], "uint16", 8)
        for first, count, size in pieces(self.row_bytes):
            with T.serial(0, count) as index:
                at = first + index * size
                low, high = (held(panel.load(pixel, plane, at, size), "uint8", size) for plane in range(2))
                vstore(T, self.codes, high, [pixel, 0, at], size)
                vstore(T, self.codes, high ^ low, [pixel, 1, at], size)
                ones, both = (held(tirx.popcount(x), "uint8", size) for x in (high, high & low))
                for number, sum_ in enumerate((ones + both + both, ones + ones + tirx.popcount(low))):
                    whole = sum_ if size == STEP else _filled(sum_, size)
                    totals[0, number] = totals[0, number] + self.v.widen_pairs(whole, "uint16", 8)
        for number in range(2):
            (total,) = transpose_sums(self.v, [self.v.widen_pairs(totals[0, number], "uint32", 4)], "uint32", 4)
            T.buffer_store(self.masses, tirx.Shuffle([total], [0]), [number, pixel])

    def sum_codes(self, panel: Panel, pixel: Any) -> Any:
        """See `blocked.Dots`."""
        return self.masses[1, pixel].astype("int32")

    def multiply(self, panel: Panel, g: Any, channel: Any, pixel: Any, pixels: int) -> list[Any]:
        """See `blocked.Dots`."""
        vectors = self.nr // LANES
        outputs = list(product(range(pixels), range(vectors)))
        counts = [Registers(outputs, "uint16", LANES) for _ in range(COUNTS)]
        units = self.row_bytes // DEEP
        with T.serial(0, units // self.times) as index:
            for part in range(self.times):
                self._unit(counts, g, channel, pixel, pixels, index * self.times + part)
        for unit in range(units // self.times * self.times, units):
            self._unit(counts, g, channel, pixel, pixels, const(unit))
        return [
            sum_
            for i, j in outputs
            for sum_ in self._combined([c[i, j] for c in counts], pixel + i, [g, channel + j * LANES])
        ]

    def _unit(self, counts: list[Registers], g: Any, channel: Any, pixel: Any, pixels: int, unit: Any) -> None:
        def spread(i: int, plane: int) -> Any:
            two = tirx.reinterpret("uint16", vload(self.codes, [pixel + i, plane, unit * DEEP], DEEP))
            return held(tirx.reinterpret("uint8x16", splat(two, LANES)), "uint8", STEP)

        codes = [[spread(i, plane) for plane in range(2)] for i in range(pixels)]
        for j in range(self.nr // LANES):
            p, q = (
                held(vload(self.weights, [g, channel // LANES + j, unit, plane, 0], STEP), "uint8", STEP)
                for plane in range(2)
            )
            for i, (high, gray) in enumerate(codes):
                mask = held(high ^ p, "uint8", STEP)
                for number in range(COUNTS):
                    if number:
                        mask = held((mask & q) | (~mask & gray), "uint8", STEP)
                    ones = self.v.widen_pairs(tirx.popcount(mask), "uint16", LANES)
                    counts[number][i, j] = counts[number][i, j] + ones

    def _combined(self, counts: list[Any], pixel: Any, channel: list[Any]) -> list[Any]:
        """The sums of eight channels out of their counts."""
        if self.large:
            parts = [[tirx.Shuffle([c], list(range(at, at + 4))).astype("int32x4") for c in counts] for at in (0, 4)]
        else:
            parts = [[tirx.reinterpret("int16x8", c) for c in counts]]
        kind = "int32" if self.large else "int16"
        u = splat(self.masses[0, pixel].astype(kind), self.lanes)
        found = []
        for number, (c1, c2, c3) in enumerate(parts):
            v = vload(self.sums, [channel[0], channel[1] + number * self.lanes], self.lanes)
            twice = held(c1 + u - v, kind, self.lanes)
            half = twice + (twice >> splat(const(1, kind), self.lanes))
            found.append(tirx.reinterpret(f"{self.dtype}x{self.lanes}", half + c3 + c2 + c2))
        return found


def _filled(vector: Any, size: int) -> Any:
    """A vector of 16 bytes that begins with those of a shorter one, the others zero."""
    zeros = splat(const(0, "uint8"), size)
    return tirx.Shuffle([vector, zeros], [*range(size), *[size] * (STEP - size)])
