"""The inner loop of `element_dot` in the order in which an in-order core is to start its instructions.

As in `ordered_pairs`: a 64-bit vector load and a move from a general register stand together, in one cycle; scalar
loads stand beside multiplications, which costs none. The weights of a channel are loaded a channel ahead, into one of
two sets of registers; a tile's four values as soon as their last product has begun.
"""

from __future__ import annotations

from dataclasses import dataclass

from schedules.written_function import written_function

# Values of a tile that a 64-bit load brings, and channels of a block.
UNIT, CHANNELS = 4, 16
# A weight and a value take two bytes.
WIDTH = 2
MOST_TILES = 9
# The farthest that a 64-bit load reaches from its base, in both operands' bytes.
REACH = 32760
_A, _W, _COUNT = "x9", "x10", "x8"
_HIGH, _CODES = ("x11", "x12"), ("x13", "x14", "x15", "x16")
# Registers: tiles' values from 0 on (an element must be of the first 16), weights, sums.
_WEIGHTS, _SUMS = MOST_TILES, MOST_TILES + 4
_STEP = CHANNELS * WIDTH


@dataclass(frozen=True)
class OrderedElements:
    """Sums over ``channels`` of tiles' values times the weights of 16 output channels, modulo 2**16.

    Attributes
    ----------
    tiles : int
        1 to 9.
    stride : int
        Bytes from a tile's values to the next one's, a multiple of 8.
    channels : int
        A multiple of 4; weights are ``(channels, 16)``.
    """

    tiles: int
    stride: int
    channels: int

    @property
    def name(self) -> str:
        """A name that no other loop has."""
        return f"lowbit_elements_{self.tiles}_{self.stride}_{self.channels}"

    @property
    def outputs(self) -> int:
        """Sums, vectors of eight: for each tile those of the first and of the second eight channels."""
        return 2 * self.tiles

    def possible(self) -> bool:
        """Whether registers suffice, and loads reach their operands."""
        farthest = self.stride * (self.tiles - 1) + 2 * UNIT * WIDTH
        fits = 0 < self.tiles <= MOST_TILES and 0 < self.channels < 1 << 17 and self.channels % UNIT == 0
        return fits and self.stride % 8 == 0 and farthest <= REACH

    def definition(self) -> str:
        """An LLVM function ``(values, weights, a place for each vector of sums)``, inlined where it is called."""
        results = range(_SUMS, _SUMS + self.outputs)
        vectors = [f"v{r}" for r in (*range(self.tiles), *range(_WEIGHTS, _WEIGHTS + 4))]
        clobbered = [*vectors, _COUNT, *_HIGH, *_CODES]
        return written_function(self.name, self.instructions(), "<8 x i16>", results, (_A, _W), clobbered)

    def instructions(self) -> list[str]:
        """The whole of it."""
        emission, rounds = _Emission(self), self.channels // UNIT - 2
        emission.begin()
        emission.round(0, fresh=True, more=rounds > -1)
        if rounds > 0:
            emission.lines += [f"mov {_COUNT}, #{rounds}", "1:"]
            emission.round(1, fresh=False, more=True)
            emission.lines += [f"subs {_COUNT}, {_COUNT}, #1", f"add {_A}, {_A}, #{UNIT * WIDTH}"]
            emission.lines += [f"add {_W}, {_W}, #{UNIT * _STEP}", "b.ne 1b"]
        if rounds > -1:
            emission.round(1, fresh=False, more=False)
        return emission.lines


class _Emission:
    """The instructions so far, and the load whose upper half is on its way."""

    def __init__(self, loop: OrderedElements) -> None:
        self.loop = loop
        self.lines: list[str] = []
        # What completes the vector that was loaded last.
        self.pending: str | None = None

    def weights(self, channel: int, half: int) -> int:
        """The register of eight weights."""
        return _WEIGHTS + 2 * (channel % 2) + half

    def upper(self, channel: int, half: int) -> str:
        """Load the upper half of eight weights."""
        return f"ldr {_HIGH[half]}, [{_W}, #{channel * _STEP + half * _STEP // 2 + 8}]"

    def lower(self, channel: int, half: int) -> list[str]:
        """Load their lower half, together with moving the upper half of those before."""
        register = self.weights(channel, half)
        lines = [f"ldr d{register}, [{_W}, #{channel * _STEP + half * _STEP // 2}]", *self.join()]
        self.pending = f"ins v{register}.d[1], {_HIGH[half]}"
        return lines

    def join(self) -> list[str]:
        """Complete what was loaded last."""
        lines = [] if self.pending is None else [self.pending]
        self.pending = None
        return lines

    def at(self, tile: int, unit: int) -> str:
        """Where a tile's values are."""
        return f"[{_A}, #{tile * self.loop.stride + unit * UNIT * WIDTH}]"

    def scalar(self, tile: int, unit: int) -> str:
        """Load the values of every other tile to a general register."""
        return f"ldr {_CODES[tile // 2 % len(_CODES)]}, {self.at(tile, unit)}"

    def values(self, tile: int, unit: int) -> list[str]:
        """Load the values of a tile, and move those of the next one."""
        lines = [f"ldr d{tile}, {self.at(tile, unit)}"]
        if tile + 1 < self.loop.tiles:
            return [*lines, f"fmov d{tile + 1}, {_CODES[(tile + 1) // 2 % len(_CODES)]}"]
        return lines + self.join()

    def begin(self) -> None:
        """Load what the first products need."""
        self.lines += [self.upper(0, 0), self.upper(0, 1)]
        self.lines += self.lower(0, 0)
        tiles = self.loop.tiles
        for tile in range(0, tiles, 2):
            if tile + 1 < tiles:
                self.lines.append(self.scalar(tile + 1, 0))
        self.lines += self.lower(0, 1)
        for tile in range(0, tiles, 2):
            self.lines += self.values(tile, 0)

    def round(self, unit: int, fresh: bool, more: bool) -> None:
        """The products of four channels."""
        for lane in range(UNIT):
            self.channel(unit, lane, fresh and lane == 0, more or lane + 1 < UNIT, more and lane + 1 == UNIT)

    def channel(self, unit: int, lane: int, fresh: bool, weights: bool, values: bool) -> None:
        """The products of a channel; ``weights`` and ``values``: whether to load the next ones."""
        n, channel = self.loop.tiles, unit * UNIT + lane
        # What is to stand after so many products: scalar loads first.
        after: dict[int, list[str]] = {}

        def place(product: int, lines: list[str]) -> None:
            after.setdefault(min(product, 2 * n), []).extend(lines)

        if weights:
            place(1, [self.upper(channel + 1, 0)])
        for tile in range(1, n, 2) if values else ():
            place(n - 1 + tile // 2 - n // 2, [self.scalar(tile, unit + 1)])
        # An upper half is moved before its first product, half a channel later.
        first = n // 2 + 1
        operation = "mul" if fresh else "mla"
        for product in range(2 * n + 1):
            self.lines += after.get(product, [])
            if weights and product == first:
                self.lines += self.lower(channel + 1, 0)
                self.lines.append(self.upper(channel + 1, 1))
            elif not weights and product == 1:
                self.lines += self.join()
            if weights and product == n + 1:
                self.lines += self.lower(channel + 1, 1)
            if values and product > n and (product - n) % 2 == 0:
                self.lines += self.values(product - n - 2, unit + 1)
            if product < 2 * n:
                half, tile = divmod(product, n)
                target = _SUMS + 2 * tile + half
                weight = self.weights(channel, half)
                self.lines.append(f"{operation} v{target}.8h, v{weight}.8h, v{tile}.h[{lane}]")
        if values and n % 2:
            self.lines += self.values(n - 1, unit + 1)
