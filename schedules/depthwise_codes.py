"""Codes of ``depthwise`` from sums that are still in registers: a byte of each channel compared with few thresholds.

Nine products are soon done. Sums that are stored, loaded again and compared in a loop of their own cost as much again
(on cores in order), or leave a pipe idle that the comparisons could have had beside the products (on others).
"""

from __future__ import annotations

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

# More thresholds would take registers that products need.
MOST_LEVELS = 7
# Channels to a vector, the widest first.
_WIDTHS = (LANES, 8, 1)


@dataclass(frozen=True)
class ByteCodes:
    """Thresholds of a kernel as bytes, and where its codes go.

    Attributes
    ----------
    spec : Thresholds
        Their number, and the layout of the codes.
    epilogue : Epilogue
        The kernel's.
    thresholds : Buffer
        int8 ``(levels, channels)``: sums lie in -126 to 126, so what lies beyond a byte counts the same at its ends.
    turn : Buffer
        uint8 ``(channels,)``: all ones where codes count downwards, else 0.
    channels : int
        How many.
    """

    spec: Thresholds
    epilogue: Epilogue
    thresholds: Any
    turn: Any
    channels: int

    @staticmethod
    def prepare(problem: DotProblem, dtype: str, centre: int, epilogue: Epilogue) -> ByteCodes | None:
        """Emit, once a call, the tables; None where sums are not accumulators yet, or have many or several tables."""
        spec, channels = problem.epilogue, problem.channels
        few = spec is not None and spec.side is None and not spec.falls and spec.levels <= MOST_LEVELS
        corrected = problem.a.multiplier != 1 or problem.a.offset or centre
        if spec is None or not few or dtype != "int8" or corrected:
            return None
        wide, flip = epilogue.tables[:2]
        thresholds = T.alloc_buffer((spec.levels, channels), "int8")
        turn = T.alloc_buffer((channels,), "uint8")

        def ends(kind: str, lanes: int) -> Any:
            return (splat(const(end, kind), lanes) for end in (-128, 127))

        for first, count, lanes in spans(channels):
            with T.serial(0, count) as index:
                c = first + index * lanes
                for level in range(spec.levels):
                    low, high = ends(str(wide.dtype), lanes)
                    value = tirx.max(tirx.min(vload(wide, [0, level, c], lanes), high), low)
                    vstore(T, thresholds, value.astype(of_lanes("int8", lanes)), [level, c], lanes)
                flipped = vload(flip, [c], lanes) != splat(const(0, "uint8"), lanes)
                ones, none = (splat(const(code, "uint8"), lanes) for code in (255, 0))
                vstore(T, turn, tirx.Select(flipped, ones, none), [c], lanes)
        return ByteCodes(spec, epilogue, thresholds, turn, channels)

    def counter(self, first: Any, lanes: int) -> Any:
        """Emit the loading of the tables of some channels; returns what makes codes of a vector of their sums."""
        rows = [held(vload(self.thresholds, [i, first], lanes), "int8", lanes) for i in range(self.spec.levels)]
        turn = held(vload(self.turn, [first], lanes), "uint8", lanes)
        levels = splat(const(self.spec.levels, "uint8"), lanes)

        def code(sums: Any) -> Any:
            hits = [(sums >= row).astype(of_lanes("uint8", lanes)) for row in rows]
            # Downwards is levels - n: n ^ -1 is -1 - n, so what is missing is levels + 1, which is 0 modulo 2**bits.
            number = sum(hits[1:], hits[0])
            if self.spec.levels & (self.spec.levels + 1) == 0:
                return number ^ (turn & levels)
            return (number ^ turn) + (turn & (levels + splat(const(1, "uint8"), lanes)))

        return code

    def rows(self, pixels: int) -> Any:
        """Emit where the codes of a tile wait to be packed; None where they need not."""
        if self.spec.out.kind == "nhwc":
            return None
        return T.alloc_buffer((pixels, self.channels), "uint8")

    def store(self, rows: Any, where: Any, pixel: Any, first: Any, code: Any, lanes: int) -> None:
        """Emit the storing of a vector of codes of a pixel of a tile; ``where`` is the tile's first pixel."""
        n, y, x = where
        if rows is None:
            vstore(T, self.epilogue.out, code, [n, y, x + pixel, first], lanes)
        else:
            vstore(T, rows, code, [pixel, first], lanes)

    def pack(self, rows: Any, where: Any, pixels: int) -> None:
        """Emit what is left to do for a tile once all its codes are made."""
        if rows is None:
            return
        n, y, x = where
        with T.serial(0, pixels) as i:
            pack_pixel(self.spec.out, self.epilogue.out, rows, i, n, y, x + i, self.channels)


def spans(channels: int) -> list[tuple[int, int, int]]:
    """First channel, number and width of all vectors, those of each width together."""
    found, done = [], 0
    for lanes in _WIDTHS:
        count = (channels - done) // lanes
        if count:
            found.append((done, count, lanes))
        done += count * lanes
    return found
