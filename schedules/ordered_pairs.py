"""The inner loop of `pair_dot` written out in the order in which an in-order core is to start its instructions.

LLVM's model of Cortex-A53 does not know which of its instructions pair (see `pipelines.cortex_a53`): it would spread
loads so that each costs a cycle of the vector unit twice, and wait for those at the head of the loop. Here a 64-bit
vector load and a move from a general register always stand together, in one cycle; scalar loads stand beside
multiplications, which costs none; and everything is loaded a step before it is used, across rounds of the loop too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from schedules.written_function import written_function

# Pairs of codes that eight bytes hold.
UNIT, BYTES = 4, 16
# Registers: activations (by-element operands must be among the first 16), lanes and sums of each pixel, weights.
MOST_PIXELS = 9
WEIGHTS = 28
# The farthest that a 64-bit load reaches from its base.
REACH = 32760
_A, _W, _BIAS, _COUNT, _HIGH, _CODES = "x9", "x10", "x8", "x11", ("x12", "x13"), ("x14", "x15", "x16", "x17")


def body(chunk: int) -> int:
    """Pairs to a round of the loop: whole chunks, and whole loads of eight bytes."""
    whole = math.lcm(chunk, UNIT)
    return whole * max(1, 2 * UNIT // whole)


@dataclass(frozen=True)
class OrderedPairs:
    """``sums[i] = sum over pairs of activations of pixel i times weights of eight channels``; see `pair_dot`.

    Attributes
    ----------
    pixels : int
        Pixels of the block, 1 to 9.
    stride : int
        Bytes from a pixel's codes to the next one's, a multiple of 8.
    pairs, chunk, bias : int
        See `PairDot`.
    """

    pixels: int
    stride: int
    pairs: int
    chunk: int
    bias: int = 0

    @property
    def name(self) -> str:
        """A name that no other loop has."""
        return f"lowbit_pairs_{self.pixels}_{self.stride}_{self.pairs}_{self.chunk}_{self.bias}"

    @property
    def outputs(self) -> int:
        """Sums, each a vector."""
        return self.pixels

    def reaches(self) -> bool:
        """Whether all loads reach their operands from one base, and the number of rounds fits an instruction."""
        farthest = self.stride * (self.pixels - 1) + 2 * (2 * body(self.chunk) + 2 * UNIT)
        return farthest <= REACH and self.pairs // body(self.chunk) < 1 << 16

    def definition(self) -> str:
        """An LLVM function ``(codes, weights, a place for each vector of sums)``, inlined where it is called."""
        first = 2 * self.pixels
        vectors = [f"v{r}" for r in (*range(first), *range(WEIGHTS, WEIGHTS + 4))]
        clobbered = [*vectors, _BIAS, _COUNT, *_HIGH, *_CODES]
        results = range(first, first + self.pixels)
        return written_function(self.name, self.instructions(), "<8 x i16>", results, (_A, _W), clobbered)

    def instructions(self) -> list[str]:
        """The whole of it."""
        rounds = self.pairs // body(self.chunk) - 1
        lines = [f"movi d{2 * self.pixels + i}, #0" for i in range(self.pixels)]
        lines += self._begin()
        if self.bias:
            lines += [f"mov {_BIAS}, #{self.bias}", *self._fresh()]
        if rounds > 0:
            lines += [f"mov {_COUNT}, #{rounds}", "1:"]
            for step in range(body(self.chunk)):
                lines += self._step(step, body(self.chunk) + 2 * UNIT)
            lines += [f"subs {_COUNT}, {_COUNT}, #1"]
            lines += [
                f"add {_A}, {_A}, #{2 * body(self.chunk)}",
                f"add {_W}, {_W}, #{BYTES * body(self.chunk)}",
                "b.ne 1b",
            ]
        left = self.pairs - max(0, rounds) * body(self.chunk)
        for step in range(left):
            lines += self._step(step, left)
        return lines

    def _weights(self, step: int) -> int:
        return WEIGHTS + step % 4

    def _low(self, step: int) -> str:
        return f"ldr d{self._weights(step)}, [{_W}, #{BYTES * step}]"

    def _high(self, step: int) -> str:
        return f"ldr {_HIGH[step % 2]}, [{_W}, #{BYTES * step + 8}]"

    def _join(self, step: int) -> str:
        return f"ins v{self._weights(step)}.d[1], {_HIGH[step % 2]}"

    def _at(self, pixel: int, unit: int) -> str:
        return f"[{_A}, #{pixel * self.stride + 2 * UNIT * unit}]"

    def _scalars(self, unit: int) -> list[str]:
        """Loads of the codes of every other pixel."""
        return [f"ldr {_CODES[i // 2]}, {self._at(i, unit)}" for i in range(1, self.pixels, 2)]

    def _codes(self, unit: int) -> Iterator[list[str]]:
        """Loads of two pixels' codes, of which one was loaded by `_scalars`."""
        for i in range(0, self.pixels, 2):
            both = [f"ldr d{i}, {self._at(i, unit)}"]
            yield both + [f"fmov d{i + 1}, {_CODES[i // 2]}"] if i + 1 < self.pixels else both

    def _begin(self) -> list[str]:
        lines = [self._high(0), *self._scalars(0), self._low(0)]
        for both in self._codes(0):
            lines += both
        return [*lines, self._high(1), self._join(0), self._low(1)]

    def _step(self, step: int, end: int) -> list[str]:
        """Multiply one pair; load what the next steps before ``end`` need."""
        n, lane = self.pixels, step % UNIT
        lines = []
        if step + 2 < end:
            lines.append(self._low(step + 2))
        if step + 1 < end:
            lines.append(self._join(step + 1))
        beside = [self._high(step + 2)] if step + 2 < end else []
        another = step // UNIT + 1 < -(-end // UNIT)
        if lane == UNIT - 2 and another:
            beside += self._scalars(step // UNIT + 1)
        codes = self._codes(step // UNIT + 1) if lane == UNIT - 1 and another else iter(())
        fresh = step % self.chunk == 0 and not self.bias
        alone: list[str] = []
        for i in range(n):
            operation = "mul" if fresh else "mla"
            lines.append(f"{operation} v{n + i}.8h, v{self._weights(step)}.8h, v{i}.h[{lane}]")
            lines += beside[i : i + 1]
            if i % 2:
                lines += next(codes, [])
            elif i + 1 == n:
                alone = next(codes, [])
        lines += beside[n:]
        if (step + 1) % self.chunk == 0 or step + 1 == end:
            lines += [f"usra v{2 * n + i}.8h, v{n + i}.8h, #8" for i in range(n)]
            lines += self._fresh()
        # Of an odd number of pixels one load has no move beside it, and of their fresh lanes one move no other.
        return lines + alone

    def _fresh(self) -> list[str]:
        """What lanes begin with, where that is not the first product; two of these moves share a cycle."""
        return [f"dup v{self.pixels + i}.8h, w{_BIAS[1:]}" for i in range(self.pixels)] if self.bias else []
