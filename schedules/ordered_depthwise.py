"""``depthwise`` of 16 channels in the order in which an in-order core is to start it: a run of pixels, sums to codes.

Columns of the image pass by once: each of its vectors meets all pixels that it has a tap for, whose sums are in
registers. A pixel's comparisons stand among the next column's products, so none waits for another, and the next
channels' weights are loaded beside the last products with these. Loads as in `ordered_back`: of each vector the lower
half together with moving the one before's upper half.

Worst case: a sum of all taps' products, and what is compared with it, fits a signed byte.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

from schedules.half_loads import HalfLoads
from schedules.written_function import written_function

LANES = 16
# Unrolled, so this bounds the code: about 110 bytes a pixel.
MOST_PIXELS, MOST_ROWS = 32, 3
# The farthest that a 64-bit load reaches from its base, and what an addition can add.
REACH, IMMEDIATE = 32752, 4095
_X, _TABLE, _OUT = "x9", "x10", "x11"
_ROWS, _HIGH = (_X, "x12", "x13"), ("x14", "x15", "x16")
_COUNT, _LANES, _BACK, _SIZE, _STEP = "x8", "x7", "x6", "x5", "x4"
_MASKS, _REGISTERS = 3, 32
# Columns that are loaded before they are needed, where registers suffice.
_AHEAD = 2


@dataclass(frozen=True)
class OrderedDepthwise:
    """Codes of neighbouring pixels of a row, of all channels, from bytes of the image and a table of vectors.

    Of each 16 channels the table has the weights of all taps and the thresholds. A code is how many are reached.

    Attributes
    ----------
    pixels : int
        How many.
    rows, taps : int
        Rows of taps inside the image, and taps of each.
    stride : int
        Columns from a pixel to the next one.
    begin, end : int
        Columns inside the image, counted from the first tap of the first pixel.
    channels : int
        Bytes from a column to the next one, of the image and of the codes.
    row : int
        Bytes of the image from a row of taps to the next one.
    tap, tables : int
        Where in the table the weights of the first row inside begin, and where the thresholds do.
    levels : int
        Thresholds.
    """

    pixels: int
    rows: int
    taps: int
    stride: int
    begin: int
    end: int
    channels: int
    row: int
    tap: int
    tables: int
    levels: int

    @property
    def name(self) -> str:
        """A name that no other loop has."""
        shape = self.pixels, self.rows, self.taps, self.stride, self.begin, self.end
        places = self.channels, self.row, self.tap, self.tables, self.levels
        return "_".join(map(str, ("lowbit_depthwise", *shape, *places)))

    @property
    def outputs(self) -> int:
        """It leaves its codes in memory."""
        return 0

    @property
    def sums(self) -> int:
        """Registers of sums: of pixels that one column meets, and of one that is being compared."""
        return -(-self.taps // self.stride) + 1

    @property
    def held(self) -> int:
        """Registers that are no column's."""
        return self.rows * self.taps + self.levels + 1 + self.sums + _MASKS

    def columns(self, pixel: int) -> range:
        """The columns inside that a pixel meets."""
        first = pixel * self.stride
        return range(max(first, self.begin), min(first + self.taps, self.end))

    def possible(self) -> bool:
        """Whether registers suffice, loads and stores reach, and each pixel has a product."""
        few = 0 < self.pixels <= MOST_PIXELS and 0 < self.rows <= MOST_ROWS
        fits = self.channels % LANES == 0 and self.channels <= IMMEDIATE and self.row < 1 << 32
        near = max(self.end - self.begin, self.pixels) * self.channels <= REACH
        # A column's vectors are loaded while those of the one before are multiplied.
        registers = self.held + 2 * self.rows <= _REGISTERS
        return few and fits and near and registers and all(self.columns(i) for i in range(self.pixels))

    def definition(self) -> str:
        """An LLVM function ``(codes of the image, table, codes)``, inlined where it is called."""
        general = [*_ROWS[1:], *_HIGH, _COUNT, _LANES, _BACK, _SIZE, _STEP]
        clobbered = [*(f"v{r}" for r in range(_REGISTERS)), *general]
        bases = _X, _TABLE, _OUT
        return written_function(self.name, self.instructions(), "<16 x i8>", (), bases, clobbered, once=True)

    def instructions(self) -> list[str]:
        """The whole of it."""
        lines = []
        for before, base in itertools.pairwise(_ROWS[: self.rows]):
            lines += [f"movz {base}, #{self.row & 0xFFFF}", f"movk {base}, #{self.row >> 16}, lsl #16"]
            lines.append(f"add {base}, {base}, {before}")
        lines += [f"mov {_COUNT}, #{self.channels // LANES}", f"mov {_LANES}, #{LANES}"]
        lines.append(f"mov {_BACK}, #{self.pixels * self.channels - LANES}")
        lines.append(f"mov {_SIZE}, #{LANES * (self.tables + self.levels)}")
        return [*lines, *_Emission(self).whole()]


class _Emission(HalfLoads):
    """The instructions, and comparisons that wait for their turn."""

    def __init__(self, loop: OrderedDepthwise) -> None:
        super().__init__(_HIGH)
        self.loop = loop
        self.thresholds = loop.rows * loop.taps
        self.added = self.thresholds + loop.levels
        self.sums = self.added + 1
        self.masks = self.sums + loop.sums
        self.free = deque(range(loop.held, _REGISTERS))
        self.shallow = len(self.free) < (1 + _AHEAD) * loop.rows
        # Instructions and the sum that they read.
        self.late: deque[tuple[list[str], int | None]] = deque()

    def whole(self) -> list[str]:
        """Load what the first channels need, then 16 channels a round."""
        loop = self.loop
        met = sorted({column for pixel in range(loop.pixels) for column in loop.columns(pixel)})
        first = [self.column(column) for column in met[: 1 if self.shallow else _AHEAD]]
        self.table(*range(self.added))
        self.settle()
        self.lines.append(f"movi v{self.added}.16b, #{loop.levels}")
        # After the last round nothing else comes: it loads the same again.
        self.lines += ["1:", f"subs {_COUNT}, {_COUNT}, #1", f"csel {_STEP}, {_LANES}, xzr, ne"]
        self.lines += [f"csel {_SIZE}, {_SIZE}, xzr, ne", f"add {_TABLE}, {_TABLE}, {_SIZE}"]
        self.round(met, first)
        self.lines += [f"sub {_OUT}, {_OUT}, {_BACK}", "b.ne 1b"]
        return self.lines

    def round(self, met: list[int], first: list[list[int]]) -> None:
        """Column by column; then all is as at the beginning, for the next channels."""
        loop, coming = self.loop, deque(met[len(first) :])
        columns = deque(zip(met, first, strict=False))
        last = {column - pixel * loop.stride: column for pixel in range(loop.pixels) for column in loop.columns(pixel)}
        begun = False
        while columns:
            while coming and len(self.free) >= loop.rows and len(columns) <= _AHEAD:
                columns.append((coming[0], self.column(coming.popleft())))
            column, registers = columns.popleft()
            self.multiply(column, registers)
            self.free += registers
            if not coming and not begun and set(itertools.chain(*first)) <= set(self.free):
                # Once the loads before are written, the bases may go on.
                begun = True
                self.loads.append((-1, "", 0))
                for following, vectors in zip(met, first, strict=False):
                    self.load(following, vectors)
            for tap in (tap for tap, final in last.items() if final == column):
                self.table(*(row * loop.taps + tap for row in range(loop.rows)))
        self.finish_round(sum(map(len, first)))

    def finish_round(self, begun: int) -> None:
        """Compare what is left, and load the next thresholds when the last pixel has met these."""
        pixel = self.sums + (self.loop.pixels - 1) % self.loop.sums
        levels = itertools.count(self.thresholds)
        while self.late:
            reads = self.late[0][1]
            self.compare()
            if reads == pixel:
                self.table(next(levels))
        self.settle()
        self.free = deque(sorted(self.free)[begun:])

    def table(self, *registers: int) -> None:
        """Have vectors of the table loaded: registers of weights, then of what belongs to thresholds."""
        for register in registers:
            weight = register < self.thresholds
            vector = self.loop.tap + register if weight else self.loop.tables + register - self.thresholds
            self.loads.append((register, _TABLE, LANES * vector))

    def settle(self) -> None:
        """Write all loads that wait."""
        while self.loads:
            self.advance()
        self.join()
        self.turn = 0

    def column(self, column: int) -> list[int]:
        """Have a column's vectors loaded; returns their registers."""
        registers = [self.free.popleft() for _ in range(self.loop.rows)]
        self.load(column, registers)
        return registers

    def load(self, column: int, registers: list[int]) -> None:
        """Have a column's vectors loaded into registers."""
        at = (column - self.loop.begin) * self.loop.channels
        self.loads += [(register, base, at) for register, base in zip(registers, _ROWS, strict=False)]

    def multiply(self, column: int, vectors: list[int]) -> None:
        """All products of a column, the pixel that is complete by them first."""
        loop = self.loop
        meeting = [pixel for pixel in range(loop.pixels) if column in loop.columns(pixel)]
        done: list[int] = []
        for pixel in meeting:
            target = self.sums + pixel % loop.sums
            inside = loop.columns(pixel)
            for row, vector in enumerate(vectors):
                fresh = column == inside[0] and row == 0
                while fresh and any(reads == target for _, reads in self.late):
                    self.compare()
                weight = row * loop.taps + column - pixel * loop.stride
                name = "mul" if fresh else "mla"
                self.write(f"{name} v{target}.16b, v{vector}.16b, v{weight}.16b", vector)
                self.compare()
            if column == inside[-1]:
                done.append(target)
        for target in done:
            self.late += self.finish(target)

    def finish(self, target: int) -> list[tuple[list[str], int | None]]:
        """What makes a code of a sum, all levels less those that are greater: comparisons apart from their sums."""
        total, others = self.masks, (self.masks + 1, self.masks + 2)
        found: list[tuple[list[str], int | None]] = []
        waiting = f"add v{total}.16b, v{total}.16b, v{self.added}.16b"
        for level in range(self.loop.levels):
            mask = total if level == 0 else others[level % 2]
            found.append(([f"cmgt v{mask}.16b, v{self.thresholds + level}.16b, v{target}.16b"], target))
            if level:
                found.append(([waiting], None))
                waiting = f"add v{total}.16b, v{total}.16b, v{mask}.16b"
        found.append(([waiting], None))
        step = f"add {_OUT}, {_OUT}, #{self.loop.channels}"
        return [*found, ([f"str q{total}, [{_OUT}]", step], None)]

    def compare(self) -> None:
        """Emit the next of what waits."""
        if self.late:
            lines, _ = self.late.popleft()
            self.write(lines[0])
            self.lines += lines[1:]

    def advance(self) -> None:
        """As always; before the loads of the next channels the bases go on."""
        while self.loads and self.loads[0][0] < 0:
            self.loads.popleft()
            self.lines += [f"add {base}, {base}, {_STEP}" for base in _ROWS[: self.loop.rows]]
        if not self.loads and self.shallow:
            # No other load comes before this vector is needed.
            self.join()
        super().advance()
