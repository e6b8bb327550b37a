"""The inner loop of `pair_dot` written out in the order in which an in-order core is to start its instructions.

LLVM's model of Cortex-A53 does not know which of its instructions pair (see `pipelines.cortex_a53`): it would spread
loads so that each costs a cycle of the vector unit twice, and wait for those at the head of the loop. Here a 64-bit
vector load and a move from a general register always stand together, in one cycle; scalar loads stand beside
multiplications, which costs none; and everything is loaded a step before it is used, across rounds of the loop too.

A register is filled by two instructions: a load of its lower half, and a move to its upper one that waits for the load.
So the cycle that loads one register's lower half moves to the upper half of the register before, in one chain through
weights and activations. Activations of two pixels share a register, which is loaded anew as soon as a step has
multiplied its last pair: each pixel more costs 2.5 registers and half a cycle to load for four multiplications.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from schedules.written_function import written_function

# Pairs of codes that eight bytes hold.
UNIT, BYTES = 4, 16
# Registers: codes of two pixels each (by-element operands must be among the first 16), lanes and sums of each pixel,
# and weights of three steps at a time, in turns that divide a round.
MOST_PIXELS = 11
WEIGHTS = 28
# Registers of activations that are loaded before the first multiplication.
AHEAD = 3
# The farthest that a 64-bit load reaches from its base.
REACH = 32760
_A, _W, _BIAS, _COUNT, _HIGH = "x9", "x10", "x8", "x11", ("x12", "x13")
# Bases of pixels that the first does not reach.
_FURTHER = ("x6", "x5")
_CODES = ("x14", "x15", "x16", "x17", "x7")


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
        Pixels of the block, 1 to 11.
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

    @property
    def share(self) -> int:
        """Pixels that loads reach from one base."""
        return 1 + (REACH - 2 * (2 * body(self.chunk) + 2 * UNIT)) // self.stride

    def reaches(self) -> bool:
        """Whether all loads reach their operands from the bases there are, and numbers fit their instructions."""
        bases = -(-self.pixels // self.share) if self.share > 0 else 0
        few = self.share * self.stride < 1 << 16 and self.pairs // body(self.chunk) < 1 << 16
        return 0 < bases <= 1 + len(_FURTHER) and few

    @property
    def held(self) -> int:
        """Registers of activations."""
        return -(-self.pixels // 2)

    def definition(self) -> str:
        """An LLVM function ``(codes, weights, a place for each vector of sums)``, inlined where it is called."""
        first = self.held + self.pixels
        vectors = [f"v{r}" for r in (*range(first), *range(WEIGHTS, WEIGHTS + 4))]
        clobbered = [*vectors, _BIAS, _COUNT, *_HIGH, *_CODES, *_FURTHER]
        results = range(first, first + self.pixels)
        return written_function(self.name, self.instructions(), "<8 x i16>", results, (_A, _W), clobbered)

    def instructions(self) -> list[str]:
        """The whole of it."""
        length = body(self.chunk)
        rounds = max(0, self.pairs // length - 1)
        left = self.pairs - rounds * length
        lines = self._begin()
        if self.bias:
            lines += [f"mov {_BIAS}, #{self.bias}", *self._fresh()]
        lines += self._step(0, left, start=True)
        if rounds:
            lines += [f"mov {_COUNT}, #{rounds}", "1:"]
            for step in range(1, length - 1):
                lines += self._step(step, length + 2 * UNIT)
            # The last step loads codes for the next round; its weights' load stands before all multiplications.
            turn = [
                *(f"add {base}, {base}, #{2 * length}" for base in self._bases()),
                f"add {_W}, {_W}, #{BYTES * length}",
                f"subs {_COUNT}, {_COUNT}, #1",
            ]
            lines += [*self._step(length - 1, length + 2 * UNIT, length, turn), *self._step(0, left), "b.ne 1b"]
        for step in range(1, left):
            lines += self._step(step, left)
        return lines

    def _lane(self, pixel: int) -> int:
        return self.held + pixel

    def _sum(self, pixel: int) -> int:
        return self.held + self.pixels + pixel

    def _weights(self, step: int) -> int:
        return WEIGHTS + step % 4

    def _low(self, step: int) -> str:
        return f"ldr d{self._weights(step)}, [{_W}, #{BYTES * step}]"

    def _high(self, step: int) -> str:
        return f"ldr {_HIGH[step % 2]}, [{_W}, #{BYTES * step + 8}]"

    def _join(self, step: int) -> str:
        return f"ins v{self._weights(step)}.d[1], {_HIGH[step % 2]}"

    def _codes(self, register: str, pixel: int, pair: int) -> str:
        further, pixel = divmod(pixel, self.share)
        return f"ldr {register}, [{self._bases()[further]}, #{pixel * self.stride + 2 * pair}]"

    def _bases(self) -> list[str]:
        return [_A, *_FURTHER][: -(-self.pixels // self.share)]

    def _upper(self, pair: int) -> list[str]:
        """Loads of the codes of every other pixel, from a pair on."""
        return [self._codes(_CODES[i // 2], i, pair) for i in range(1, self.pixels, 2)]

    def _lower(self, pair: int) -> list[str]:
        """Loads of the codes of the other pixels."""
        return [self._codes(f"d{i // 2}", i, pair) for i in range(0, self.pixels, 2)]

    def _joins(self) -> list[str]:
        """What puts the former above the latter."""
        return [f"ins v{j}.d[1], {_CODES[j]}" for j in range(self.pixels // 2)]

    def _begin(self) -> list[str]:
        """Load what the first multiplications need; the chain goes on with the first step."""
        bases = self._bases()
        further = [f"mov {base}, #{self.share * self.stride}" for base in bases[1:]]
        further += [f"add {base}, {base}, {before}" for before, base in pairwise(bases)]
        loads = [self._high(0), self._low(0), self._high(1), self._low(1)]
        loads += [each for both in zip_longest(self._upper(0)[:AHEAD], self._lower(0)[:AHEAD]) for each in both if each]
        zeros = [f"movi d{self._sum(i)}, #0" for i in range(self.pixels)]
        lines = further + [each for both in zip_longest(loads, zeros) for each in both if each]
        joins = [self._join(0), *self._joins()[:1], self._join(1), *self._joins()[1 : AHEAD - 1]]
        return [*lines, *joins]

    def _chain(self, step: int, end: int, base: int, start: bool) -> dict[int, list[str]]:
        """What is loaded in a step, by the multiplications that stand before it."""
        n, lane, both = self.pixels, step % UNIT, self.pixels // 2
        lows = [self._low(step + 2)] if step + 2 < end else []
        joins = [self._join(step + 1)] if step + 1 < end else []
        if start:
            pairs = zip_longest([*self._lower(0)[AHEAD:], *lows], self._joins()[AHEAD - 1 :], fillvalue="")
            return {min(2 * j + 2, n): [each for each in pair if each] for j, pair in enumerate(pairs)}
        if lane == UNIT - 1 and joins:
            lows += self._lower(step + 1 - base)
            joins += [self._join(step + 2), *self._joins()[: max(0, both - 1)]]
            pairs = zip_longest(lows, joins, fillvalue="")
            return {min(2 * j, n): [each for each in pair if each] for j, pair in enumerate(pairs)}
        if lane == 0:
            joins = self._joins()[both - 1 :]
        # The last pixels' move waits for their load, and they wait for it.
        return {min(2, max(0, 2 * both - 3)): lows + joins}

    def _step(self, step: int, end: int, base: int = 0, turn: Sequence[str] = (), start: bool = False) -> list[str]:
        """Multiply one pair; load what the next steps before ``end`` need, the codes' base being moved by ``turn``."""
        n, lane = self.pixels, step % UNIT
        beside = [*turn, *(self._upper(0)[AHEAD:] if start else [])]
        if lane < UNIT - 1 and step + 2 < end:
            beside.append(self._high(step + 2))
        if lane == UNIT - 2 and step + 2 < end:
            beside += [*self._upper(step + 2), self._high(step + 3)]
        ends = self._ends(end)
        operation = "mul" if step in ends and not self.bias else "mla"
        loads = self._chain(step, end, base, start)
        lines = list(loads.get(0, []))
        for i in range(n):
            codes = f"v{i // 2}.h[{UNIT * (i % 2) + lane}]"
            lines.append(f"{operation} v{self._lane(i)}.8h, v{self._weights(step)}.8h, {codes}")
            lines += [*beside[i : i + 1], *loads.get(i + 1, [])]
        lines += beside[n:]
        if step + 1 in ends:
            lines += [f"usra v{self._sum(i)}.8h, v{self._lane(i)}.8h, #8" for i in range(n)]
            lines += self._fresh()
        return lines

    def _ends(self, end: int) -> list[int]:
        """Where lanes begin anew, the end among them."""
        return [*range(0, end, self.chunk), end]

    def _fresh(self) -> list[str]:
        """What lanes begin with, where that is not the first product; two of these moves share a cycle."""
        return [f"dup v{self._lane(i)}.8h, w{_BIAS[1:]}" for i in range(self.pixels)] if self.bias else []
