"""``bit_serial`` with short sums: pairs of planes of equal weight counted in bytes, and these added up at once.

Where a patch is one or two steps long, what follows the steps weighs as much as they do. Counts of one class of pairs
(those of equal ``p + q``) stay in byte lanes; ADDP then adds up four outputs into one vector, and only that is widened
and doubled, a quarter of the vectors. What is left of any patch after its whole steps of 16 bytes is no step of each
pair of planes: planes of activations stand side by side in one vector, over planes of weights written out to match, and
the parts get their weights once four outputs are one vector.

Worst cases: a byte counts at most 8 bits a step, of two pairs and two steps 32, and 128 once ADDP has made four bytes
one. Of tails a byte counts once: 32 after ADDP, times the heaviest pair's 4. 16-bit lanes hold whole sums: `fits`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.blocked import CHANNEL_BLOCK
from schedules.intrinsics import const, splat, vload, vstore
from schedules.panel import Panel
from schedules.registers import MOST_UNROLLED, Registers, held, round_of
from schedules.vectors import Vectors

STEP = 16
# Whole steps that are counted in bytes, all written out: of more LLVM spills what it should keep.
MOST_STEPS = 2
# Bytes of four neighbours that end as one; a byte of each unit of a tail does.
FOUR = 4

# A unit of a vector: plane of the activations, plane of the weights, first byte of the tail.
Unit = tuple[int, int, int]


@dataclass(frozen=True)
class Tail:
    """Vectors of a patch's last bytes: for one, two or four channels four units each, of ``size`` bytes."""

    units: tuple[Unit, ...]
    size: int

    @property
    def channels(self) -> int:
        """Channels that share a vector."""
        return FOUR // self.size

    @property
    def activations(self) -> tuple[tuple[int, int, int], ...]:
        """Plane, first byte and size of each unit: tails that agree share a vector."""
        return tuple((p, first, self.size) for p, _, first in self.units)

    @property
    def weights(self) -> tuple[int, ...]:
        """What the count of each unit is multiplied with."""
        return tuple(1 << (p + q) for p, q, _ in self.units)


def split_row(used: int, a_bits: int, w_bits: int) -> tuple[int, tuple[Tail, ...]] | None:
    """Whole steps of a plane's bytes and the vectors that the rest takes; None for other widths, or many steps."""
    if max(a_bits, w_bits) > 2:
        return None
    whole, rest = divmod(used, STEP)
    pairs = [(p, q) for q in range(w_bits) for p in range(a_bits)]
    found: list[Tail] = []
    for first, count in _parts(rest, len(pairs)):
        size = min(FOUR, len(pairs) * count // FOUR)
        units = [(p, q, first + byte) for p, q in pairs for byte in range(0, count, size)]
        found += [Tail(tuple(units[i : i + FOUR]), size) for i in range(0, len(units), FOUR)]
    whole += bool(rest and not found)
    return (whole, tuple(found)) if found or whole <= MOST_STEPS else None


def _parts(rest: int, pairs: int) -> list[tuple[int, int]]:
    """First byte and number of bytes of parts that fill vectors; none where a whole step of each pair takes no more."""
    most = STEP // pairs
    for before in (0, most, 2 * most) if pairs == FOUR else (0,):
        last = next((most // n for n in (FOUR, 2, 1) if 0 < rest - before <= most // n), STEP)
        if last < STEP:
            two = before == last == most
            parts = [(0, before + last)] if two else [(0, before), (before, last)]
            return [part for part in parts if part[1]]
    return []


def fits(k: int, a_max: int, w_max: int) -> bool:
    """Whether the sum of all products of codes fits 16 bits."""
    return k * a_max * w_max <= 65535


def operations(a_bits: int, w_bits: int, whole: int, tails: Sequence[Tail]) -> float:
    """Vector operations for one output."""
    pairs, classes = a_bits * w_bits, a_bits + w_bits - 1
    if whole > MOST_STEPS:
        steps = 3 * whole * pairs + classes - 1 + 0.75
    else:
        # A class that is there: three ADDP for four outputs, one more to widen their sum, one to double what was.
        steps = (3 * whole * pairs + 0.25 * classes - 0.25) * bool(whole)
    return steps + sum((2 + 1) / tail.channels + 0.25 for tail in tails) + 0.125


@dataclass
class ClassDot:
    """Sums of ``2**(p + q) popcount(a_p AND w_q)``, or of XOR; see `bit_dot.BitDot`.

    Attributes
    ----------
    v : Vectors
        Operations of the core.
    a_bits, w_bits : int
        Planes, 1 or 2.
    whole, tails
        Of `split_row`.
    nr : int
        Channels of a block, a multiple of 4.
    weights : Buffer
        ``(groups, blocks of 4, planes, steps, 4, 16)``.
    differ : bool
        What is counted is ``a XOR w``.
    """

    v: Vectors
    a_bits: int
    w_bits: int
    whole: int
    tails: tuple[Tail, ...]
    nr: int
    weights: Any
    differ: bool = False
    written: Any = field(default=None, init=False)
    beside: Any = field(default=None, init=False)

    @property
    def dtype(self) -> str:
        """Type of the sums."""
        return "uint16"

    @property
    def lanes(self) -> int:
        """Sums to a result vector."""
        return 8

    @property
    def patterns(self) -> list[tuple[tuple[int, int, int], ...]]:
        """The vectors of activations that tails read."""
        return list(dict.fromkeys(tail.activations for tail in self.tails))

    def plain(self, panel: Panel) -> bool:
        """Whether all that tails read is 16 bytes of the patch as it lies there."""
        row = tuple((plane, byte, FOUR) for plane in range(self.a_bits) for byte in range(0, panel.row_bytes, FOUR))
        return not self.whole and self.patterns == [row]

    def expand(self, loop: Any) -> None:
        """Emit, once a call, the weights of tails."""
        if not self.tails:
            return
        groups, blocks = (int(size) for size in self.weights.shape[:2])
        self.written = T.alloc_buffer((groups, blocks, len(self.tails), CHANNEL_BLOCK, STEP), "uint8")
        with loop(0, groups * blocks) as index:
            g, block = index // blocks, index % blocks
            for t, tail in enumerate(self.tails):
                for j, (u, (_, q, first)) in product(range(CHANNEL_BLOCK), enumerate(tail.units)):
                    value = vload(self.weights, [g, block, q, self.whole, j, first], tail.size)
                    place, channel = divmod(j, tail.channels)
                    at = [g, block, t, place, (channel * FOUR + u) * tail.size]
                    vstore(T, self.written, value, at, tail.size)

    def begin(self, pixels: int) -> None:
        """Declare, within the loop over rows, where a tile's tails are put together."""
        if self.tails:
            self.beside = T.alloc_buffer((pixels, len(self.patterns), STEP), "uint8")

    def prepare(self, panel: Panel, pixel: Any) -> None:
        """Emit the putting together of a patch's tails."""
        if not self.tails or self.plain(panel):
            return
        for number, pattern in enumerate(self.patterns):
            at = 0
            for plane, first, size in _runs(pattern) * (FOUR // pattern[0][2]):
                value = panel.load(pixel, plane, self.whole * STEP + first, size)
                vstore(T, self.beside, value, [pixel, number, at], size)
                at += size

    def multiply(self, panel: Panel, g: Any, channel: Any, pixel: Any, pixels: int) -> list[Any]:
        """See `blocked.Dots`."""
        outputs = [(i, j) for i in range(pixels) for j in range(self.nr)]
        total = Registers([(r, 0) for r in range(len(outputs) // 4)], "uint16", 8)

        def weight(buffer: Any, j: int, *at: Any, shared: int = 1) -> Any:
            block = channel // CHANNEL_BLOCK + j // CHANNEL_BLOCK
            place = j % CHANNEL_BLOCK // shared
            return held(vload(buffer, [g, block, *at, place, 0], STEP), "uint8", STEP)

        def counts(p: int, q: int, step: Any) -> Iterator[tuple[tuple[int, int], Any]]:
            a = [held(panel.load(pixel + i, p, step * STEP, STEP), "uint8", STEP) for i in range(pixels)]
            for j in range(self.nr):
                w = weight(self.weights, j, q, step)
                for i in range(pixels):
                    yield (i, j), self._count(a[i], w)

        def add(sums: list[Any], dtype: str) -> None:
            for r, vector in enumerate(sums):
                wide = vector if dtype == "uint16" else self.v.widen_pairs(vector, "uint16", 8)
                total[r, 0] = total[r, 0] + wide

        if self.whole > MOST_STEPS:
            add(self._four(self._long(counts, outputs), "uint16"), "uint16")
        else:
            for number, pairs in enumerate(self._classes()):
                if number:
                    total.double()
                add(self._four(self._short(counts, pairs, outputs), "uint8"), "uint8")
        for t, tail in enumerate(self.tails):
            number = self.patterns.index(tail.activations)
            a = [held(self._tail(panel, pixel + i, number), "uint8", STEP) for i in range(pixels)]
            w = [weight(self.written, j, t, shared=tail.channels) for j in range(0, self.nr, tail.channels)]
            counts_ = [self._count(a[i], vector) for i in range(pixels) for vector in w]
            fours = self._four(counts_, "uint8", {1: 2, 2: 1, 4: 0}[tail.channels])
            add([held(four * _every_lane(tail.weights), "uint8", STEP) for four in fours], "uint8")
        level = total.vectors()
        level += [level[-1]] * (len(level) % 2)
        return [self.v.add_pairs(x, y, "uint16", 8) for x, y in zip(level[::2], level[1::2], strict=True)]

    def _tail(self, panel: Panel, pixel: Any, number: int) -> Any:
        return panel.load(pixel, 0, 0, STEP) if self.plain(panel) else vload(self.beside, [pixel, number, 0], STEP)

    def _classes(self) -> Iterator[list[tuple[int, int]]]:
        """Pairs of planes of equal weight, the heaviest first; none where there are no whole steps."""
        for total in reversed(range(self.a_bits + self.w_bits - 1 if self.whole else 0)):
            yield [(p, total - p) for p in range(self.a_bits) if 0 <= total - p < self.w_bits]

    def _count(self, a: Any, w: Any) -> Any:
        return tirx.popcount(a ^ w if self.differ else a & w)

    def _short(self, counts: Any, pairs: list[tuple[int, int]], outputs: list[tuple[int, int]]) -> list[Any]:
        """Emit the counts of a class in bytes, all steps written out."""
        sums = Registers(outputs, "uint8", STEP, clear=False)
        for number, (p, q) in enumerate(pairs):
            for step in range(self.whole):
                for ij, count in counts(p, q, const(step)):
                    sums[ij] = sums[ij] + count if number or step else count
        return sums.vectors()

    def _long(self, counts: Any, outputs: list[tuple[int, int]]) -> list[Any]:
        """Emit the counts of all pairs in 16 bits, in Horner order, as `bit_dot` does."""
        sums = Registers(outputs, "uint16", 8)
        times = round_of(self.whole) if len(outputs) <= MOST_UNROLLED else 1
        for number, pairs in enumerate(self._classes()):
            if number:
                sums.double()
            for p, q in pairs:
                with T.serial(0, self.whole // times) as index:
                    for part in range(times):
                        for ij, count in counts(p, q, index * times + part):
                            sums[ij] = sums[ij] + self.v.widen_pairs(count, "uint16", 8)
        return sums.vectors()

    def _four(self, sums: list[Any], dtype: str, levels: int = 2) -> list[Any]:
        """Vectors of four outputs, neighbours added up: of each, four bytes or two lanes of 16 bits."""
        lanes = STEP if dtype == "uint8" else STEP // 2
        level = sums
        for _ in range(levels):
            added = [self.v.add_pairs(x, y, dtype, lanes) for x, y in zip(level[::2], level[1::2], strict=True)]
            level = [held(vector, dtype, lanes) for vector in added]
        return level


def _runs(pattern: tuple[tuple[int, int, int], ...]) -> list[tuple[int, int, int]]:
    """Units that follow one another in a plane as one."""
    found: list[tuple[int, int, int]] = []
    for plane, first, size in pattern:
        if found and (found[-1][0], found[-1][1] + found[-1][2]) == (plane, first):
            found[-1] = (plane, found[-1][1], found[-1][2] + size)
        else:
            found.append((plane, first, size))
    return found


def _every_lane(weights: tuple[int, ...]) -> Any:
    """Bytes of four outputs: the weights of their four bytes each."""
    four = sum(weight << 8 * place for place, weight in enumerate(weights))
    return tirx.reinterpret("uint8x16", splat(const(four, "uint32"), STEP // FOUR))
