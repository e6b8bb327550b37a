"""``bit_serial`` for a single pixel, as dense layers have it, in the order in which an in-order core is to start it.

All planes of the activations stay in registers; each vector of weights is read once, meets them all, and its counts are
added to bytes, one for each sum ``p + q`` of the planes' numbers. A channel's bytes become 16-bit lanes (UADDLP, MLA
with powers of two) and are reduced over lanes (ADDP) beside the next channel's counting. Loads as in `ordered_rows`.

With ``words``, the rest of K is multiplied in general registers meanwhile: `ordered_products`. Up to every other vector
of weights is then one 128-bit load, for which the vector unit stands still a cycle longer, but which leaves three of
four places to start other instructions in, where a load of both halves leaves none.

Worst cases: ``8 pairs steps`` in a byte, of the planes' pairs that share a sum, at most 255; a channel's whole sum fits
16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schedules import channel_sums, ordered_products
from schedules.weave import Bundle, woven
from schedules.written_function import written_function

STEP, BLOCK, CHANNELS = 16, 4, 8
# The farthest that a 64-bit load reaches from its base.
REACH = 32760
_A, _W, _SUMS, _CODES, _COUNT, _HIGH = "x9", "x10", "x2", "x3", "x8", ("x11", "x12")
# Powers of two, by element.
_POWERS, _REGISTERS = 0, 32


@dataclass(frozen=True)
class OrderedColumn:
    """Sums of ``2**(p + q) popcount(a_p AND w_q)`` of one pixel and ``blocks`` times eight channels.

    Attributes
    ----------
    a_bits, w_bits : int
        Planes.
    steps : int
        Steps of 16 bytes; weights are ``(blocks, 2, w_bits, steps, 4, 16)``.
    stride : int
        Bytes from a plane of activations to the next one.
    blocks : int
        Eight channels each; sums are 16-bit numbers, one channel's after the other's.
    words : int
        Of 24 codes each beyond the steps: their weights, ``(words, 8, 8)``, follow those of a block's steps.
    """

    a_bits: int
    w_bits: int
    steps: int
    stride: int
    blocks: int
    words: int = 0

    @property
    def name(self) -> str:
        """A name that no other loop has."""
        words = f"_{self.words}" if self.words else ""
        return f"lowbit_column_{self.a_bits}_{self.w_bits}_{self.steps}_{self.stride}_{self.blocks}{words}"

    # It leaves its sums in memory.
    outputs = 0

    @property
    def classes(self) -> int:
        """Sums of two planes' numbers that there are."""
        return self.a_bits + self.w_bits - 1

    @property
    def vectors(self) -> int:
        """Vectors of weights of a round."""
        return CHANNELS * self.steps * self.w_bits

    @property
    def ahead(self) -> int:
        """Vectors of weights that are loaded ahead; rounds begin with the same register."""
        return 2 if not self.words else 3 if self.vectors % 3 == 0 else 4

    @property
    def needs(self) -> tuple[int, int]:
        """Cycles of a round's vector operations, and places of all its instructions, with narrow loads only."""
        half = self.vectors // 2
        return 14 * half + 14, 18 * half + 18 + ordered_products.INSTRUCTIONS * self.words

    @property
    def wide(self) -> int:
        """Vectors of weights of a round that are one load: so many that places are as scarce as cycles."""
        cycles, places = self.needs
        return min(self.vectors // 2, max(0, (places // 2 - cycles) // 2))

    @property
    def cycles(self) -> float:
        """About what a round takes with ``words``."""
        cycles, places = self.needs
        return max(cycles + self.wide, places / 2 - self.wide) + 5

    @property
    def planes_size(self) -> int:
        """Bytes of eight channels' weights of all steps."""
        return CHANNELS * self.w_bits * self.steps * STEP

    @property
    def size(self) -> int:
        """Bytes of eight channels' weights."""
        return self.planes_size + self.words * ordered_products.SIZE

    def possible(self) -> bool:
        """Whether registers suffice, sums fit and loads reach their operands."""
        registers = 4 + self.a_bits * (self.steps + 2) + self.ahead + 2 * self.classes + bool(self.words)
        # Where sums of two channels' bytes are taken, a byte holds twice as many.
        narrow = 8 * self.steps * min(self.a_bits, self.w_bits) * (1 + bool(self.words)) <= 255
        k = 128 * self.steps + ordered_products.CODES * self.words
        whole = k * ((1 << self.a_bits) - 1) * ((1 << self.w_bits) - 1) < 1 << 16
        farthest = max(2 * self.size, self.a_bits * self.stride)
        few = self.blocks < 1 << 16 and self.classes <= 8 and self.stride % 8 == 0
        alike = not self.words or self.a_bits == self.w_bits == ordered_products.BITS
        return few and alike and registers <= _REGISTERS and narrow and whole and farthest <= REACH

    def definition(self) -> str:
        """An LLVM function ``(codes, weights, sums, [bytes of codes,] the last sum)``, inlined where it is called."""
        general = dict.fromkeys([_COUNT, *_HIGH, *(ordered_products.CLOBBERED if self.words else ())])
        clobbered = [*(f"v{r}" for r in range(_REGISTERS)), *general]
        bases = (_A, _W, _SUMS, _CODES) if self.words else (_A, _W, _SUMS)
        return written_function(self.name, self.instructions(), "<8 x i16>", (), bases, clobbered, 1)

    def instructions(self) -> list[str]:
        """The whole of it."""
        return _Emission(self).whole()


class _Emission:
    """The bundles so far, and the vector whose upper half is on its way."""

    def __init__(self, loop: OrderedColumn) -> None:
        self.loop = loop
        self.bundles: list[Bundle] = []
        self.pending: str | None = None
        # The upper half to load with the next bundle.
        self.upper: str | None = None
        self.ahead = loop.ahead
        self.codes = _POWERS + 1
        self.weights = self.codes + loop.a_bits * loop.steps
        self.found = self.weights + self.ahead
        self.bytes = self.found + 2 * loop.a_bits
        self.tree = self.bytes + 2 * loop.classes
        self.products = self.tree + channel_sums.TREE
        # Vectors of weights in the order in which they are met, of a round: channel, step, plane.
        self.order = [
            (channel, step, q) for channel in range(CHANNELS) for step in range(loop.steps) for q in range(loop.w_bits)
        ]
        # What is to be added beside the next vector, and done to a channel's bytes beside the next channel's counting.
        self.late: list[str] = []
        self.later: list[str] = []

    def whole(self) -> list[str]:
        """Load the activations, then eight channels a round."""
        loop = self.loop
        for power in range(1, loop.classes):
            self.one(f"mov w8, #{1 << power}", f"ins v{_POWERS}.h[{power}], w8")
        number = loop.a_bits * loop.steps
        for i in range(number):
            plane, step = divmod(i, loop.steps)
            # General registers take turns, so that one is moved before it is loaded again.
            self.load(self.codes + i, _A, plane * loop.stride + step * STEP, (number - i) % 2)
        for number in range(self.ahead):
            self.load(self.weights + number, _W, self.at(number), number % 2)
        if loop.words:
            self.join()
            self.one(*ordered_products.begin(_W, loop.planes_size, _CODES))
        lines = self.taken()
        # What a round leaves to the next one stands at the head of the loop: the first round is apart.
        if loop.blocks > 1:
            lines += self.round(more=True)
        if loop.blocks > 2:
            lines += [f"mov {_COUNT}, #{loop.blocks - 2}", "1:", *self.round(more=True)]
            lines += [f"subs {_COUNT}, {_COUNT}, #1", "b.ne 1b"]
        lines += self.round(more=False)
        return [*lines, *self.late, *self.later]

    def taken(self) -> list[str]:
        """The instructions of the bundles, which begin anew."""
        lines = [line for _, own in self.bundles for line in own]
        self.bundles = []
        return lines

    def one(self, *lines: str, cycles: int = 1) -> None:
        """A bundle."""
        upper = [] if self.upper is None else [self.upper]
        self.upper = None
        self.bundles.append((cycles, [*upper, *lines]))

    def each(self, lines: Sequence[str]) -> None:
        """A bundle of each instruction."""
        for line in lines:
            self.one(line)

    def at(self, number: int) -> int:
        """Where a vector of weights is, of this round or the next."""
        loop = self.loop
        more, number = divmod(number, len(self.order))
        channel, step, q = self.order[number]
        block, j = divmod(channel, BLOCK)
        return more * loop.size + (((block * loop.w_bits + q) * loop.steps + step) * BLOCK + j) * STEP

    def load(self, register: int, base: str, at: int, high: int) -> None:
        """Load a lower half together with moving the upper half of the vector before."""
        self.one(f"ldr {_HIGH[high]}, [{base}, #{at + 8}]")
        self.lower(register, base, at, high)

    def lower(self, register: int, base: str, at: int, high: int) -> None:
        """The same where the upper half is loaded already, or will be."""
        self.one(f"ldr d{register}, [{base}, #{at}]", *self.moved())
        self.pending = f"ins v{register}.d[1], {_HIGH[high]}"

    def moved(self) -> list[str]:
        """What completes the vector loaded last."""
        lines = [] if self.pending is None else [self.pending]
        self.pending = None
        return lines

    def join(self) -> None:
        """Complete what was loaded last."""
        if self.pending is not None:
            self.one(*self.moved())

    def meet(self, number: int, ands: list[str], coming: bool) -> None:
        """Combine a vector of weights with all planes, and load another one into its register."""
        w, high, at = self.weights + number % self.ahead, number % 2, self.at(number + self.ahead)
        if not coming:
            self.each(ands)
            self.join()
        elif not self.loop.words:
            self.one(f"ldr {_HIGH[high]}, [{_W}, #{at + 8}]", ands[0])
            self.each(ands[1:])
            self.lower(w, _W, at, high)
        elif number % 2 and number // 2 * self.loop.wide % (len(self.order) // 2) < self.loop.wide:
            self.each(ands)
            self.one(f"ldr q{w}, [{_W}, #{at}]", cycles=2)
        else:
            # One general register: it is loaded once its last half is moved.
            self.each(ands)
            self.lower(w, _W, at, 0)
            self.upper = f"ldr {_HIGH[0]}, [{_W}, #{at + 8}]"

    def round(self, more: bool) -> list[str]:
        """Count the bits of eight channels; what is found is added a vector later."""
        loop, a = self.loop, self.loop.a_bits
        seen: set[int] = set()
        for number, (channel, step, q) in enumerate(self.order):
            w, found = self.weights + number % self.ahead, self.found + number % 2 * a
            codes = [self.codes + p * loop.steps + step for p in range(a)]
            ands = [f"and v{found + p}.16b, v{code}.16b, v{w}.16b" for p, code in enumerate(codes)]
            self.meet(number, ands, number + self.ahead < len(self.order) or more)
            self.each(self.late)
            self.late = []
            for p in range(a):
                target = self.byte(channel, p + q)
                fresh = target not in seen
                seen.add(target)
                self.one(f"cnt v{target if fresh else found + p}.16b, v{found + p}.16b")
                if not fresh:
                    self.late.append(f"add v{target}.16b, v{target}.16b, v{found + p}.16b")
            self.each(self.later[:1])
            del self.later[:1]
            if number + 1 == len(self.order) or self.order[number + 1][0] != channel:
                self.each(self.later)
                self.later = self.reduction(channel)
                seen.clear()
        own, beside = self.bundles, list[str]()
        self.bundles = []
        if loop.words:
            following = loop.size + loop.planes_size if more else None
            beside = ordered_products.products(loop.words, _W, loop.planes_size, following, _CODES)
            self.one(*(f"ins v{self.products}.d[{i}], {ordered_products.SUMS[4 * i]}" for i in (0, 1)))
        if more:
            self.one(f"add {_W}, {_W}, #{loop.size}")
        return woven(own, beside) + self.taken()

    def byte(self, channel: int, total: int) -> int:
        """The register of a channel's counts of one class."""
        return self.bytes + channel % 2 * self.loop.classes + total

    def reduction(self, channel: int) -> list[str]:
        """A channel's sum, or that of two; after the last one eight are stored."""
        own, others = self.byte(channel, 0), (self.tree, self.loop.classes, _POWERS)
        if not self.loop.words:
            lines = channel_sums.of_channel(channel, own, *others)
        elif channel % 2:
            # Before the next channel is counted in the first one's bytes.
            self.late += channel_sums.joined(self.byte(channel - 1, 0), own, self.loop.classes)
            lines = channel_sums.of_pair(channel // 2, own, *others)
        else:
            lines = []
        if channel + 1 == CHANNELS:
            if self.loop.words:
                lines.append(f"add v{self.tree}.8h, v{self.tree}.8h, v{self.products}.8h")
            lines.append(f"str q{self.tree}, [{_SUMS}], #{2 * CHANNELS}")
        return lines
