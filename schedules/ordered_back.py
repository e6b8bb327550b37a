"""The way back of ``winograd_mla`` in the order in which an in-order core is to start it: 6x6 products to 4x4 sums.

Vectors of eight channels stay in registers from the products to the sums. Loads are spread among the operations: of
each vector the lower half together with moving the one before's upper half, as in `ordered_rows`.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

from schedules.half_loads import HalfLoads
from schedules.winograd_points import FOUR, NINTH
from schedules.written_function import written_function

# Bytes of eight channels, and of the 16 that a tile's products and sums hold side by side.
VECTOR, CHANNELS = 16, 32
# The farthest that a 64-bit load reaches from its base, and what an instruction can set.
REACH, IMMEDIATE = 32760, 1 << 16
_PRODUCTS, _SUMS = ("x9", "x13", "x14"), "x10"
_COUNT, _TILE, _HIGH = "x8", "x12", ("x11", "x15", "x16")
# Registers of the multiples of the inverse of 9 (by element) and of what shifts the sums.
_NINTHS, _BIAS, _FIRST, _REGISTERS = 0, 1, 2, 32
_MULTIPLES = (1, 2, 4, 8)
_SIDE, _POINTS = FOUR.side, FOUR.count

# An instruction, the register that it needs, and one that is free after it.
Late = tuple[str, int, int | None]


@dataclass(frozen=True)
class OrderedBack:
    """Quarters of ``A' F m (A' F)'`` of some tiles, written or added to sums modulo 2**16.

    Attributes
    ----------
    tiles : int
        How many.
    stride : int
        Bytes from a position's products to the next one's.
    pixel : int
        Bytes from a pixel's sums to the next one's.
    bias : int
        What is added to 4 times each sum first, modulo 2**16.
    add : bool
        Whether to add to the sums that are there.
    """

    tiles: int
    stride: int
    pixel: int
    bias: int
    add: bool

    @property
    def name(self) -> str:
        """A name that no other loop has."""
        return f"lowbit_back_{self.tiles}_{self.stride}_{self.pixel}_{self.bias}_{int(self.add)}"

    @property
    def outputs(self) -> int:
        """It leaves its sums in memory."""
        return 0

    def possible(self) -> bool:
        """Whether loads reach their operands, and sizes fit instructions."""
        reached = (2 * _POINTS - 1) * self.stride + CHANNELS <= REACH and _SIDE**2 * self.pixel <= REACH
        return reached and 0 < self.tiles < IMMEDIATE

    def definition(self) -> str:
        """An LLVM function ``(products, sums, the last sum)``, inlined where it is called."""
        general = [*_PRODUCTS[1:], _COUNT, _TILE, *_HIGH]
        clobbered = [*(f"v{r}" for r in range(_REGISTERS)), *general]
        return written_function(self.name, self.instructions(), "<8 x i16>", (), (_PRODUCTS[0], _SUMS), clobbered, 1)

    def instructions(self) -> list[str]:
        """The whole of it."""
        lines = []
        for lane, multiple in enumerate(_MULTIPLES):
            lines += [f"mov w8, #{multiple * NINTH % IMMEDIATE}", f"ins v{_NINTHS}.h[{lane}], w8"]
        if self.bias:
            lines += [f"mov w8, #{self.bias % IMMEDIATE}", f"dup v{_BIAS}.8h, w8"]
        for before, base in itertools.pairwise(_PRODUCTS):
            lines += [f"mov {base}, #{2 * _POINTS * self.stride}", f"add {base}, {base}, {before}"]
        lines += [f"mov {_TILE}, #{_SIDE**2 * self.pixel}", f"mov {_COUNT}, #{self.tiles}", "1:"]
        lines += _Emission(self).tile()
        lines += [f"subs {_COUNT}, {_COUNT}, #1", *(f"add {base}, {base}, #{CHANNELS}" for base in _PRODUCTS)]
        return [*lines, f"add {_SUMS}, {_SUMS}, {_TILE}", "b.ne 1b"]


class _Emission(HalfLoads):
    """The instructions of one tile, and free registers."""

    def __init__(self, loop: OrderedBack) -> None:
        super().__init__(_HIGH)
        self.loop = loop
        self.free = deque(range(_FIRST, _REGISTERS))

    def take(self) -> int:
        """A free register, the one that has been free for longest."""
        return self.free.popleft()

    def enqueue(self, base: str, at: int) -> int:
        """Have a vector loaded; returns its register."""
        register = self.take()
        self.loads.append((register, base, at))
        return register

    def tile(self) -> list[str]:
        """Both halves of 16 channels."""
        column: list[int] = self.column(0, 0)
        late: list[Late] = []
        for half in (0, 1):
            column, late = self.half(half, column, late)
        for item in late:
            self.finished(item)
        return self.lines

    def column(self, half: int, j: int) -> list[int]:
        """Have six products loaded, first what is multiplied first."""
        found = {}
        for i in (2, 1, 0, 5, 3, 4):
            at = (i % 2 * _POINTS + j) * self.loop.stride + half * VECTOR
            found[i] = self.enqueue(_PRODUCTS[i // 2], at)
        return [found[i] for i in range(_POINTS)]

    def half(self, half: int, column: list[int], late: list[Late]) -> tuple[list[int], list[Late]]:
        """Eight channels of a tile; returns the first products of what comes next, and what is still to be stored."""
        rows: list[list[int]] = [[] for _ in range(_SIDE)]
        ninth = self.ninth(column)
        for j in range(_POINTS):
            coming = self.column(half, j + 1) if j + 1 < _POINTS else rows[0]
            if j == 1 and self.loop.bias:
                self.write(f"add v{column[1]}.8h, v{column[1]}.8h, v{_BIAS}.8h", column[1])
            made, following = self.along(column, ninth, late, coming)
            for row, register in zip(rows, made, strict=True):
                row.append(register)
            column, ninth, late = coming, following, []
        for dy in range(_SIDE):
            if dy + 1 == _SIDE and half == 0:
                column = self.column(1, 0)
            made, ninth = self.along(rows[dy], ninth, late, rows[dy + 1] if dy + 1 < _SIDE else None)
            late = self.finish(made, [self.loop.pixel * (dy * _SIDE + dx) + half * VECTOR for dx in range(_SIDE)])
        return column, late

    def ninth(self, m: list[int]) -> int:
        """A ninth of the third of six vectors."""
        register = self.take()
        self.write(f"mul v{register}.8h, v{m[2]}.8h, v{_NINTHS}.h[0]", m[2])
        return register

    def along(self, m: list[int], ninth: int, late: list[Late], coming: list[int] | None) -> tuple[list[int], int]:
        """``A' F m`` in place: see `winograd_points.output_along`; returns it and a ninth of what is coming.

        Between the operations stands what came too early.
        """
        m0, m1, m2, m3, m4, m5 = m
        waiting, following = deque(late), -1
        steps = [
            (f"add v{m2}.8h, v{m1}.8h, v{ninth}.8h", (m1, m2)),
            (f"sub v{m1}.8h, v{m1}.8h, v{ninth}.8h", (m1,)),
            (f"add v{m0}.8h, v{m0}.8h, v{m2}.8h", (m0,)),
            (f"add v{m5}.8h, v{m5}.8h, v{m1}.8h", (m5,)),
        ]
        for source, lanes in ((m3, (2, 1, 0, 3)), (m4, (1, 2, 3, 0))):
            for target, lane in zip((m2, m1, m0, m5), lanes, strict=True):
                steps.append((f"mla v{target}.8h, v{source}.8h, v{_NINTHS}.h[{lane}]", (source, target)))
        for number, (instruction, registers) in enumerate(steps):
            self.write(instruction, *registers)
            if number == 1:
                self.free.append(ninth)
            if number == 7:
                self.free.append(m3)
                following = -1 if coming is None else self.ninth(coming)
            if waiting and number >= len(steps) - len(waiting):
                self.finished(waiting.popleft())
        self.free.append(m4)
        return [m0, m1, m2, m5], following

    def finish(self, made: list[int], pixels: list[int]) -> list[Late]:
        """Shift, add and store, the earliest made first: an instruction, the register it needs and one it frees."""
        lines: list[Late] = []
        order = (2, 1, 0, 3)
        if not self.loop.add:
            lines += [(f"sshr v{made[dx]}.8h, v{made[dx]}.8h, #2", made[dx], None) for dx in order]
            return [*lines, *((f"str q{made[dx]}, [{_SUMS}, #{pixels[dx]}]", made[dx], made[dx]) for dx in order)]
        before = {dx: self.enqueue(_SUMS, pixels[dx]) for dx in order}
        lines += [(f"ssra v{before[dx]}.8h, v{made[dx]}.8h, #2", before[dx], made[dx]) for dx in order]
        return [*lines, *((f"str q{before[dx]}, [{_SUMS}, #{pixels[dx]}]", before[dx], before[dx]) for dx in order)]

    def finished(self, item: Late) -> None:
        """An instruction of `finish`."""
        instruction, needed, freed = item
        self.write(instruction, needed)
        if freed is not None:
            self.free.append(freed)
