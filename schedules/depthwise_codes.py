"""Codes of ``depthwise`` from sums that are still in registers: a byte of each channel compared with few thresholds.

Nine products are soon done. Sums that are stored, loaded again and compared in a loop of their own cost as much again
(on cores in order), or leave a pipe idle that the comparisons could have had beside the products (on others).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.compact import LANES
from schedules.dot_problem import DotProblem, Thresholds
from schedules.epilogue import Epilogue
from schedules.intrinsics import const, of_lanes, splat, vload, vstore
from schedules.pack_codes import pack_pixel
from schedules.registers import held
from schedules.vectors import ArmVectors, part

# More thresholds would take registers that products need.
MOST_LEVELS = 7
# Channels to a vector, the widest first.
_WIDTHS = (LANES, 8, 1)
# Vectors that become one as each eight lanes become a byte of a plane.
_MERGED = 8

# ``(first pixel of a run, its sums)``: emits what is done with the sums of neighbouring pixels.
Store = Callable[[Any, Sequence[Any]], None]


@dataclass(frozen=True)
class ByteCodes:
    """Thresholds of a kernel as bytes, and where its codes go.

    Attributes
    ----------
    spec : Thresholds
        Their number, and the layout of the codes.
    epilogue : Epilogue
        The kernel's.
    tables : Buffer
        int8 ``(levels + 2, channels)``: thresholds (sums lie in -126 to 126, so what lies beyond a byte counts the same
        at its ends), then what the number reached is taken from, and what flips the bits of that: -1 and -1, or
        ``levels`` and 0 where codes count downwards.
    channels : int
        How many.
    """

    spec: Thresholds
    epilogue: Epilogue
    tables: Any
    channels: int

    @staticmethod
    def serves(problem: DotProblem, dtype: str, centre: int) -> bool:
        """Whether sums are accumulators as they are, in bytes (on Arm's cores only), and have few thresholds."""
        spec, a = problem.epilogue, problem.a
        few = spec is not None and spec.side is None and not spec.falls and spec.levels <= MOST_LEVELS
        return few and dtype == "int8" and a.multiplier == 1 and not (a.offset or centre)

    @staticmethod
    def prepare(problem: DotProblem, dtype: str, centre: int, epilogue: Epilogue) -> ByteCodes | None:
        """Emit, once a call, the tables; None where they do not serve."""
        spec, channels = problem.epilogue, problem.channels
        if spec is None or not ByteCodes.serves(problem, dtype, centre):
            return None
        wide, flip = epilogue.tables[:2]
        tables = T.alloc_buffer((spec.levels + 2, channels), "int8")
        for first, count, lanes in spans(channels):
            low, high = (splat(const(end, str(wide.dtype)), lanes) for end in (-128, 127))
            with T.serial(0, count) as index:
                c = first + index * lanes
                for level in range(spec.levels):
                    value = tirx.max(tirx.min(vload(wide, [0, level, c], lanes), high), low)
                    vstore(T, tables, value.astype(of_lanes("int8", lanes)), [level, c], lanes)
                flipped = vload(flip, [c], lanes) != _bytes(0, lanes)
                for row, (down, up) in enumerate(((spec.levels, -1), (0, -1))):
                    value = tirx.Select(flipped, *(splat(const(end, "int8"), lanes) for end in (down, up)))
                    vstore(T, tables, value, [spec.levels + row, c], lanes)
        return ByteCodes(spec, epilogue, tables, channels)

    @property
    def _downwards_is_complement(self) -> bool:
        return self.spec.levels & (self.spec.levels + 1) == 0

    @property
    def _in_planes(self) -> bool:
        """Whether vectors become whole bytes of planes, and those of codes that count downwards their complements."""
        out = self.spec.out
        return out.kind == "planes" and out.groups == 1 and self.channels % 8 == 0 and self._downwards_is_complement

    def rows(self, pixels: int) -> Any:
        """Emit where the codes of a tile wait to be packed; None where they need not."""
        if self.spec.out.kind == "nhwc" or self._in_planes:
            return None
        return T.alloc_buffer((pixels, self.channels), "uint8")

    def pack(self, rows: Any, where: Any, pixels: int) -> None:
        """Emit what is left to do for a tile once all its codes are made."""
        if rows is None:
            return
        n, y, x = where
        with T.serial(0, pixels) as i:
            pack_pixel(self.spec.out, self.epilogue.out, rows, i, n, y, x + i, self.channels)

    def store(self, rows: Any, where: Any, first: Any, lanes: int) -> Store:
        """Emit the loading of the tables of some channels; ``where`` is the tile's first pixel."""
        n, y, x = where
        rows_of = [held(vload(self.tables, [i, first], lanes), "int8", lanes) for i in range(self.spec.levels + 2)]
        if self._in_planes:
            return self._planes(rows_of, where, first, lanes)

        def store(pixel: Any, sums: Sequence[Any]) -> None:
            for i, vector in enumerate(sums):
                code = _count(vector, rows_of, lanes)
                if rows is None:
                    vstore(T, self.epilogue.out, code, [n, y, x + pixel + i, first], lanes)
                else:
                    vstore(T, rows, code, [pixel + i, first], lanes)

        return store

    def _planes(self, tables: Sequence[Any], where: Any, first: Any, lanes: int) -> Store:
        """Bits without codes: bit ``p`` changes at each threshold whose number is a multiple of ``2**p``."""
        n, y, x = where
        place = held(_places(lanes), "uint8", lanes)
        flipped = tables[-1].astype(of_lanes("uint8", lanes)) == _bytes(0, lanes)
        turn = held(tirx.Select(flipped, place, _bytes(0, lanes)), "uint8", lanes)
        flips = held(_merge([turn] * _MERGED, lanes), "uint8", lanes)
        live = self.spec.levels.bit_length()

        def store(pixel: Any, sums: Sequence[Any]) -> None:
            places, bits = [], []
            for i, vector in enumerate(sums):
                masks = [_mask(vector >= row, lanes) for row in tables[:-2]]
                for plane in range(live):
                    step = 1 << plane
                    bit = masks[step - 1]
                    for mask in masks[2 * step - 1 :: step]:
                        bit = bit ^ mask
                    places.append([n, y, x + pixel + i, 0, plane, first // 8])
                    bits.append(held(bit & place, "uint8", lanes))
                for plane in range(live, self.spec.out.bits):
                    self._store_bytes(_bytes(0, lanes), 0, [n, y, x + pixel + i, 0, plane, first // 8], lanes)
            for start in range(0, len(bits), _MERGED):
                merged = held(_merge(bits[start : start + _MERGED], lanes) ^ flips, "uint8", lanes)
                for i, at in enumerate(places[start : start + _MERGED]):
                    self._store_bytes(merged, i, at, lanes)

        return store

    def _store_bytes(self, merged: Any, number: int, at: Any, lanes: int) -> None:
        """Emit the storing of the bytes that one of the merged vectors became."""
        if lanes == 8:
            T.buffer_store(self.epilogue.out, part(merged, number, 1), at)
            return
        # Two bytes as one lane: LLVM would store one after the other.
        both = part(tirx.reinterpret("uint16x8", merged), number, 1)
        vstore(T, self.epilogue.out, tirx.reinterpret("uint8x2", both), at, 2)


def spans(channels: int) -> list[tuple[int, int, int]]:
    """First channel, number and width of all vectors, those of each width together."""
    found, done = [], 0
    for lanes in _WIDTHS:
        count = (channels - done) // lanes
        if count:
            found.append((done, count, lanes))
        done += count * lanes
    return found


def _count(sums: Any, tables: Sequence[Any], lanes: int) -> Any:
    """Codes of a vector of sums."""
    kind = of_lanes("int8", lanes)
    hits = [(sums >= row).astype(kind) for row in tables[:-2]]
    return ((tables[-2] - sum(hits[1:], hits[0])) ^ tables[-1]).astype(of_lanes("uint8", lanes))


def _bytes(value: int, lanes: int) -> Any:
    return splat(const(value, "uint8"), lanes)


def _mask(hit: Any, lanes: int) -> Any:
    return tirx.Select(hit, _bytes(255, lanes), _bytes(0, lanes))


def _places(lanes: int) -> Any:
    """1, 2, 4 to 128, and again."""
    place = tirx.Ramp(const(0, "int32"), const(1, "int32"), lanes).astype(f"uint8x{lanes}")
    return _bytes(1, lanes) << (place & _bytes(7, lanes))


def _merge(vectors: Sequence[Any], lanes: int) -> Any:
    """Sums of each eight lanes of up to eight vectors, in order; what is left of the result means nothing."""
    level = list(vectors)
    for _ in range(3):
        level += level[-1:] * (len(level) % 2)
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [held(ArmVectors().add_pairs(a, b, "uint8", lanes), "uint8", lanes) for a, b in pairs]
    return level[0]
