"""The inner loop of ``tbl_lookup`` in the order in which an in-order core is to start its instructions.

A byte of a patch names the table of its four activations; both halves of the 16 bytes lie in two arrays of eight bytes
a table, so that a load needs no address of its own. For each pixel two TBL look 32 channels' sums up and two ADD add
them to bytes; meanwhile the next tables and indices come in as `ordered_rows` says.

Worst case: a look-up gives at most 12, so the 16 between two flushes give 192; 16-bit sums take what K allows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from schedules.written_function import written_function

# Channels of a block, look-ups between flushes (and in a round of the loop), and the most pixels of a block.
CHANNELS, ROUND, MOST_PIXELS = 32, 16, 4
BYTES = 16
_CODES = ("x9", "x2", "x3", "x4")
_W, _LOW, _HIGH, _COUNT = "x10", "x5", "x6", "x8"
_NAMES, _HALVES = ("x11", "x12"), ("x13", "x14")
_LANES, _TABLE, _INDEX, _FOUND = 16, 24, 26, 30


@dataclass(frozen=True)
class OrderedTables:
    """Sums over ``groups`` of four activations each, for ``pixels`` pixels and 32 channels.

    Attributes
    ----------
    pixels : int
        1 to 4.
    stride : int
        Bytes from a pixel's codes to the next one's.
    groups : int
        A multiple of 16.
    """

    pixels: int
    stride: int
    groups: int

    @property
    def name(self) -> str:
        """A name that no other loop has."""
        return f"lowbit_tables_{self.pixels}_{self.stride}_{self.groups}"

    @property
    def outputs(self) -> int:
        """Sums, vectors of eight."""
        return self.pixels * CHANNELS // 8

    def definition(self) -> str:
        """An LLVM function ``(names, indices, tables, a place for each vector of sums)``, inlined where called."""
        free = [f"v{r}" for r in range(self.outputs, 32)]
        clobbered = [*free, *_CODES[1:], _HIGH, _COUNT, *_NAMES, *_HALVES]
        bases, results = (_CODES[0], _W, _LOW), range(self.outputs)
        return written_function(self.name, self.instructions(), "<8 x i16>", results, bases, clobbered)

    def instructions(self) -> list[str]:
        """The whole of it."""
        emission = _Emission(self)
        emission.begin()
        rounds = self.groups // ROUND - 1
        if rounds:
            emission.lines += [f"mov {_COUNT}, #{rounds}", "1:"]
            emission.round(last=False)
            emission.lines.append(f"subs {_COUNT}, {_COUNT}, #1")
            emission.lines += [f"add {base}, {base}, #{ROUND}" for base in _CODES[: self.pixels]]
            emission.lines += [f"add {_W}, {_W}, #{ROUND * CHANNELS}", "b.ne 1b"]
        emission.round(last=True)
        return emission.lines


class _Emission:
    """The instructions so far, and the load whose upper half is on its way."""

    def __init__(self, loop: OrderedTables) -> None:
        self.loop, self.pixels = loop, loop.pixels
        self.lines: list[str] = []
        self.pending: str | None = None
        self.loads = 0

    def name(self, slot: int) -> str:
        """Load which table a pixel of a group needs; slots count pixels of all groups."""
        group, pixel = divmod(slot, self.pixels)
        return f"ldrb w{_NAMES[slot % 2][1:]}, [{_CODES[pixel]}, #{group}]"

    def upper(self, address: str) -> str:
        """Load the upper half of what the next `pair` loads."""
        return f"ldr {_HALVES[self.loads % 2]}, [{address}]"

    def pair(self, register: int, address: str) -> None:
        """Load a lower half together with moving the upper half of the load before."""
        self.lines.append(f"ldr d{register}, [{address}]")
        self.join()
        self.pending = f"ins v{register}.d[1], {_HALVES[self.loads % 2]}"
        self.loads += 1

    def join(self) -> None:
        """Complete what was loaded last."""
        if self.pending is not None:
            self.lines.append(self.pending)
        self.pending = None

    def table(self, slot: int, base: str) -> str:
        """Where half a table is."""
        return f"{base}, {_NAMES[slot % 2]}, lsl #3"

    def index(self, group: int, vector: int) -> tuple[int, str, str]:
        """Register and addresses of the halves of 16 channels' indices."""
        at = CHANNELS * group + BYTES * vector
        return _INDEX + 2 * (group % 2) + vector, f"{_W}, #{at}", f"{_W}, #{at + 8}"

    def begin(self) -> None:
        """Addresses, sums, and what the first look-ups need."""
        for before, base in itertools.pairwise(_CODES[: self.pixels]):
            self.lines += [f"mov {base}, #{self.loop.stride}", f"add {base}, {base}, {before}"]
        self.lines.append(f"add {_HIGH}, {_LOW}, #2048")
        self.lines += [f"movi d{i}, #0" for i in range(self.loop.outputs)]
        for vector in (0, 1):
            register, low, high = self.index(0, vector)
            self.lines.append(self.upper(high))
            self.pair(register, low)
        for slot in (0, 1):
            self.lines += [self.name(slot), self.upper(self.table(slot, _HIGH))]
            self.pair(_TABLE + slot, self.table(slot, _LOW))
        self.lines.append(self.name(2))

    def round(self, last: bool) -> None:
        """Look 16 groups up, and add their sums."""
        end = ROUND if last else 2 * ROUND
        for group in range(ROUND):
            for pixel in range(self.pixels):
                self.slot(group, pixel, end)
        for i in range(2 * self.pixels):
            for half, operand in (("", "8b"), ("2", "16b")):
                to = 2 * i + bool(half)
                self.lines.append(f"uaddw{half} v{to}.8h, v{to}.8h, v{_LANES + i}.{operand}")

    def slot(self, group: int, pixel: int, end: int) -> None:
        """Look one pixel's sums up."""
        slot = group * self.pixels + pixel
        index, table = self.index(group, 0)[0], _TABLE + slot % 2
        lanes = _LANES + 2 * pixel
        found = (lanes, lanes + 1) if group == 0 else (_FOUND, _FOUND + 1)
        early = self.pixels == 1
        coming = [v for v in (0, 1) if min(v, max(0, self.pixels - 2)) == pixel] if group + 1 < end else []
        if early:
            self.indices(group + 1, coming)
        self.lines.append(f"tbl v{found[0]}.16b, {{v{table}.16b}}, v{index}.16b")
        if slot + 3 < end * self.pixels:
            self.lines.append(self.name(slot + 3))
        self.lines.append(f"tbl v{found[1]}.16b, {{v{table}.16b}}, v{index + 1}.16b")
        if slot + 2 < end * self.pixels:
            self.lines.append(self.upper(self.table(slot + 2, _HIGH)))
            self.pair(table, self.table(slot + 2, _LOW))
        else:
            self.join()
        for vector in (0, 1) if group else ():
            self.lines.append(f"add v{lanes + vector}.16b, v{lanes + vector}.16b, v{found[vector]}.16b")
        if not early:
            self.indices(group + 1, coming)

    def indices(self, group: int, coming: list[int]) -> None:
        """Load some of a group's indices; the last load of a round is a table's, as the last before it is."""
        for vector in coming:
            register, low, high = self.index(group, vector)
            self.lines.append(self.upper(high))
            self.pair(register, low)
