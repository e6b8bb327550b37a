"""The inner loops of ``bit_select``: three counts for products of 2-bit codes, where `bit_dot` takes four.

With ``a = 2 a1 + a0`` and ``g = a1 ^ a0``, and two planes ``p``, ``q`` that stand for a weight (`PLANES`)::

    f1 = a1 ^ p        f2 = f1 ? q : g        f3 = f2 ? q : g
    2 a w = 3 f1 + 4 f2 + 2 f3 + 3 (a1 + 2 a1 a0) - 3 p (1 + 2 q)

for all sixteen pairs of codes. Each line is one instruction (EOR; BSL, which overwrites only the mask), with CNT and an
addition nine for 128 products. Summed over K, with counts ``c``, ``u`` of the patch and ``v`` of the output channel::

    sum(a w) = 2 c2 + c3 + 3 (c1 + u - v) / 2

A vector holds two bytes of each of eight channels, and two bytes of a patch meet all of them: widened (UADDLP), a lane
of 16 bits is a channel's count, so that nothing is added up over lanes in the end, and steps of K are 16 long.

Worst cases: ``2 c2 + c3`` and ``u`` are at most 3 K, which 16 bits hold up to K = 21845. ``c1 + u - v`` lies in -3 K to
4 K: 16 bits with a sign hold that up to K = 8191, and the sum, of 9 K, up to 7281 without one. Beyond, in 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.intrinsics import const, splat, vload, vstore
from schedules.panel import Panel
from schedules.registers import Registers, held
from schedules.select_rows import COUNTS, DEEP, LANES, MOST_UNITS, WEIGHTS, SelectRows
from schedules.vectors import Vectors, call_loop, transpose_sums

STEP = DEEP * LANES


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
    codes_too : bool
        Whether the sum of a patch's codes is asked for.
    """

    v: Vectors
    row_bytes: int
    nr: int
    weights: Any
    sums: Any
    large: bool
    codes_too: bool
    defined: set[str] = field(default_factory=set)
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
        self.masses = T.alloc_buffer((1 + self.codes_too, pixels), "uint32")

    def prepare(self, panel: Panel, pixel: Any) -> None:
        """Emit the planes ``a1`` and ``g`` of a patch, its ``u`` and the sum of its codes; a lane holds 3 K at most."""
        totals = Registers([(0, number) for number in range(1 + self.codes_too)], "uint16", 8)
        for first, count, size in pieces(self.row_bytes):
            with T.serial(0, count) as index:
                at = first + index * size
                low, high = (held(panel.load(pixel, plane, at, size), "uint8", size) for plane in range(2))
                vstore(T, self.codes, high, [pixel, 0, at], size)
                vstore(T, self.codes, high ^ low, [pixel, 1, at], size)
                ones, both = (held(tirx.popcount(x), "uint8", size) for x in (high, high & low))
                sums = (ones + both + both, ones + ones + tirx.popcount(low))
                for (_, number), sum_ in zip(totals.buffers, sums, strict=False):
                    wide = self.v.widen_pairs(_filled(sum_, size), "uint16", 8)
                    totals[0, number] = totals[0, number] + wide
        for number, lanes in enumerate(totals.vectors()):
            (total,) = transpose_sums(self.v, [self.v.widen_pairs(lanes, "uint32", 4)], "uint32", 4)
            T.buffer_store(self.masses, tirx.Shuffle([total], [0]), [number, pixel])

    def sum_codes(self, panel: Panel, pixel: Any) -> Any:
        """See `blocked.Dots`."""
        return self.masses[1, pixel].astype("int32")

    def multiply(self, panel: Panel, g: Any, channel: Any, pixel: Any, pixels: int) -> list[Any]:
        """See `blocked.Dots`."""
        outputs = list(product(range(pixels), range(self.nr // LANES)))
        units = self.row_bytes // DEEP
        loop = SelectRows(pixels, self.nr // LANES, self.row_bytes, units * WEIGHTS, chunk(units))
        once, rest = self._counts(outputs, loop, g, channel, pixel)
        found = [self._combined(once[i, j], rest[i, j], pixel + i, [g, channel + j * LANES]) for i, j in outputs]
        return [sums for vectors in found for sums in vectors]

    def _counts(self, outputs: list[Any], loop: SelectRows, g: Any, channel: Any, pixel: Any) -> list[Registers]:
        """``c1`` and ``2 c2 + c3``, out of counts in bytes that are widened after each call."""
        rounds, rest = divmod(self.row_bytes // DEEP, loop.units)
        counts = [Registers(outputs, "uint16", LANES, clear=rounds > 1) for _ in range(2)]

        def run(part: SelectRows, first: Any, add: bool) -> None:
            codes = tirx.address_of(self.codes[pixel, 0, first * DEEP])
            weights = tirx.address_of(self.weights[g, channel // LANES, first, 0, 0])
            made = call_loop(part, self.defined, (codes, weights), "uint8", STEP)
            for number, ij in enumerate(outputs):
                c1, c2, c3 = (self.v.widen_pairs(c, "uint16", LANES) for c in made[COUNTS * number :][:COUNTS])
                two = held(c2, "uint16", LANES)
                counts[0][ij] = counts[0][ij] + c1 if add else c1
                counts[1][ij] = (counts[1][ij] + two if add else two) + two + c3

        if rounds > 1:
            with T.serial(0, rounds) as index:
                run(loop, index * loop.units, True)
        else:
            run(loop, const(0), False)
        if rest:
            run(replace(loop, units=rest), const(rounds * loop.units), True)
        return counts

    def _combined(self, once: Any, rest: Any, pixel: Any, channel: list[Any]) -> list[Any]:
        """The sums of eight channels out of ``c1`` and ``2 c2 + c3``."""
        kind, pairs = "int16", [(tirx.reinterpret("int16x8", once), tirx.reinterpret("int16x8", rest))]
        if self.large:
            kind, lanes = "int32", [[*range(at, at + 4)] for at in (0, 4)]
            pairs = [tuple(tirx.Shuffle([c], four).astype("int32x4") for c in (once, rest)) for four in lanes]
        u = splat(self.masses[0, pixel].astype(kind), self.lanes)
        found = []
        for number, (c1, c23) in enumerate(pairs):
            v = vload(self.sums, [channel[0], channel[1] + number * self.lanes], self.lanes)
            twice = held(c1 + (u - v), kind, self.lanes)
            half = twice >> splat(const(1, kind), self.lanes)
            found.append(tirx.reinterpret(f"{self.dtype}x{self.lanes}", c23 + twice + half))
        return found


def chunk(units: int) -> int:
    """Units that are counted in bytes: as many as a loop of equal ones allows, else as they are left."""
    least = -(-units // MOST_UNITS)
    return next((units // n for n in range(least, least + 3) if units % n == 0), -(-units // least))


def _filled(vector: Any, size: int) -> Any:
    """A vector of 16 bytes that begins with those of a shorter one, the others zero."""
    while size < STEP:
        vector = tirx.Shuffle([vector, splat(const(0, "uint8"), size)], list(range(2 * size)))
        size *= 2
    return vector
