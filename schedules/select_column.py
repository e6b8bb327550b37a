"""``bit_madd``'s loop: a single pixel of two bits, in the order in which an in-order core is to start it.

Three counts instead of the four of ``bit_serial`` give the products of two codes ``a`` and ``w`` of two bits. With the
planes ``a1``, ``g = a0 XOR a1``, ``w1`` and ``x = NOT (w0 XOR w1)``,

    f1 = a1 XOR w1,  f2 = f1 ? x : g,  f3 = f2 ? x : g,  2 a w = 3 a + 3 g + v(w) - 3 f1 - 4 f2 - 2 f3

where ``v`` is 0, 0, 3 and 9 for the codes 0 to 3: one EOR and two BSL, each on what the one before left. A search
through all functions that one vector instruction makes found it; two counts cannot tell six products apart.

Planes of the activations stay in registers. Counts are added to bytes; those of four channels are summed to one vector
of each kind (ADDP) before they become 16-bit lanes, beside the next channel's counting. The rest of K is multiplied in
general registers meanwhile: `ordered_products`. Those also add what comes of the activations and of ``v``.

Weights come in by halves, as in `ordered_rows`.

Worst cases: a byte of four channels takes 32 counts a step, so seven steps; a channel's sum, doubled, fits 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from schedules import ordered_products
from schedules.interleave import interleaved
from schedules.ordered_products import CHANNELS
from schedules.written_function import written_function

STEP, PLANES = 16, 2
HALF = STEP // 2
MOST_STEPS = 7
# Bytes of a pair of vectors of weights.
PAIR = PLANES * STEP
# What f1, f2 and f3 are multiplied with; a and g; and v by the code.
COUNTED, ACTIVATIONS, BY_CODE = (3, 4, 2), 3, (0, 0, 3, 9)
_A, _W, _SUMS, _CODES, _COUNT, _HIGH = "x9", "x10", "x2", "x3", "x8", "x11"
# Elements of this register are what counts are multiplied with.
_FACTORS, _REGISTERS = 0, 32
# Vector operations that make a round's sums of its counts.
_REDUCED = 36


@dataclass(frozen=True)
class SelectColumn:
    """Sums of products of one pixel and ``blocks`` times eight channels.

    Attributes
    ----------
    steps : int
        Steps of 16 bytes of a plane; weights are ``(8, steps, 2, 16)``, of planes ``w1`` and ``x``.
    stride : int
        Bytes from a plane of activations to the next one.
    blocks : int
        Eight channels each; sums are 16-bit numbers, one channel's after the other's.
    words : int
        Of 24 codes each beyond the steps: what `ordered_products` reads of a block follows its planes.
    """

    steps: int
    stride: int
    blocks: int
    words: int

    @property
    def name(self) -> str:
        """A name that no other loop has."""
        return f"lowbit_select_{self.steps}_{self.stride}_{self.blocks}_{self.words}"

    # It leaves its sums in memory.
    outputs = 0

    @property
    def pairs(self) -> int:
        """Pairs of vectors of weights of a round."""
        return CHANNELS * self.steps

    @property
    def cycles(self) -> float:
        """About what a round takes: what its vector operations, its multiplications, or the places of all do."""
        operations = 9 * self.pairs - 3 * CHANNELS + _REDUCED
        places = operations + 6 * self.pairs + CHANNELS + ordered_products.places(self.words)
        return max(operations + 2 * self.pairs, ordered_products.cycles(self.words), places / 2) + 8

    @property
    def planes_size(self) -> int:
        """Bytes of eight channels' weights of all steps."""
        return self.pairs * PAIR

    @property
    def size(self) -> int:
        """Bytes of a block."""
        return self.planes_size + ordered_products.size(self.words)

    def possible(self) -> bool:
        """Whether registers, bytes and sums suffice, and offsets are not too large."""
        few = 0 < self.steps <= MOST_STEPS and self.words <= ordered_products.MOST_WORDS
        within = self.steps * STEP <= self.stride < 1 << 12 and self.stride % HALF == 0
        return few and within and self.blocks < 1 << 16

    def definition(self) -> str:
        """An LLVM function ``(codes, weights, sums, factors, the last sum)``, inlined where it is called."""
        bases = (_A, _W, _SUMS, _CODES)
        general = [each for each in (_COUNT, _HIGH, *ordered_products.CLOBBERED) if each not in bases]
        clobbered = [*(f"v{r}" for r in range(_REGISTERS)), *general]
        return written_function(self.name, self.instructions(), "<8 x i16>", (), bases, clobbered, 1)

    def instructions(self) -> list[str]:
        """The whole of it."""
        return _Emission(self).whole()


class _Emission:
    """The instructions so far, and what waits for its turn."""

    def __init__(self, loop: SelectColumn) -> None:
        self.loop = loop
        self.lines: list[str] = []
        self.high = _FACTORS + 1
        self.gray = self.high + loop.steps
        # Two pairs take turns; all rounds begin with the same one.
        self.weights = self.gray + loop.steps
        self.found = self.weights + 2 * PLANES
        self.bytes = self.found + 2
        self.joined = self.bytes + 2 * len(COUNTED)
        self.tree = self.joined + len(COUNTED)
        self.products = self.tree + 1
        # What completes the vector loaded last, and the upper half to load beside the next operation.
        self.pending: list[str] = []
        self.upper: list[str] = []
        self.moves: list[str] = []
        # Additions that are to follow the next pair's first operation, and what is done to whole channels' bytes.
        self.late: list[str] = []
        self.later: list[str] = []

    def whole(self) -> list[str]:
        """Load the activations, then eight channels a round."""
        loop = self.loop
        for i, factor in enumerate(COUNTED):
            self.one(f"mov w8, #{factor}", f"ins v{_FACTORS}.h[{i}], w8")
        self.one(f"add {_COUNT}, {_A}, #{loop.stride}")
        for step in range(loop.steps):
            gray, high = f"v{self.gray + step}.16b", f"v{self.high + step}.16b"
            self.one(f"ldr q{self.gray + step}, [{_A}, #{step * STEP}]")
            self.one(f"ldr q{self.high + step}, [{_COUNT}, #{step * STEP}]")
            self.one(f"eor {gray}, {gray}, {high}")
        lines = [*self.taken(), *ordered_products.begin(loop.words, _W, loop.planes_size, _CODES)]
        self.load(0, 0)
        self.load(0, 1)
        self.one()
        self.complete()
        self.one()
        lines += self.taken()
        # What a round leaves to the next one stands at the head of the loop: the first round is apart.
        if loop.blocks > 1:
            lines += self.round(more=True)
        if loop.blocks > 2:
            lines += [f"mov {_COUNT}, #{loop.blocks - 2}", "1:", *self.round(more=True)]
            lines += [f"subs {_COUNT}, {_COUNT}, #1", "b.ne 1b"]
        lines += self.round(more=False)
        return [*lines, *self.late, *self.later]

    def round(self, more: bool) -> list[str]:
        """Count what eight channels' weights select."""
        loop = self.loop
        for pair in range(loop.pairs):
            following = pair + 1 if pair + 1 < loop.pairs or more else None
            self.select(pair, following)
            if (pair + 1) % loop.steps == 0:
                self.reduce(pair // loop.steps)
        beside = ordered_products.products(loop.words, loop.planes_size, more, _CODES)
        lines = interleaved(self.taken(), beside)
        return lines + [f"ins v{self.products}.d[{i}], {ordered_products.SUMS[4 * i]}" for i in (0, 1)]

    def taken(self) -> list[str]:
        """The instructions so far, which begin anew."""
        lines, self.lines = self.lines, []
        return lines

    def one(self, *lines: str) -> None:
        """What starts together."""
        self.lines += [*self.upper, *lines]
        # What moves the base comes once nothing is to be loaded from where it was.
        self.upper, self.moves = ([], self.moves) if self.upper else (self.moves, [])

    def some(self, waiting: list[str], number: int | None = None) -> None:
        """The first few that wait, or all."""
        for line in waiting[:number]:
            self.one(line)
        del waiting[:number]

    def select(self, pair: int, following: int | None) -> None:
        """A pair of weights and the pixel's planes; meanwhile the following pair is loaded."""
        loop = self.loop
        channel, step = divmod(pair, loop.steps)
        f, x = (self.weights + pair % 2 * PLANES + plane for plane in range(PLANES))
        high, gray = self.high + step, self.gray + step
        counts = [self.bytes + channel % 2 * len(COUNTED) + i for i in range(len(COUNTED))]
        found = [self.found, self.found + 1, self.found] if step else counts
        adds = [f"add v{c}.16b, v{c}.16b, v{t}.16b" for c, t in zip(counts, found, strict=True)] if step else []
        self.load(following, 0)
        self.one(f"eor v{f}.16b, v{f}.16b, v{high}.16b")
        # What is selected is not there to be counted a cycle later, nor are counts to be added.
        self.some(self.late, 1 if len(self.late) < len(COUNTED) else None)
        self.one(f"cnt v{found[0]}.16b, v{f}.16b")
        self.some(self.late if step else [])
        self.one(f"bsl v{f}.16b, v{x}.16b, v{gray}.16b")
        self.load(following, 1)
        self.one(f"cnt v{found[1]}.16b, v{f}.16b")
        self.one(f"bsl v{f}.16b, v{x}.16b, v{gray}.16b")
        self.some(adds or self.late or self.later, 1)
        self.one(f"cnt v{found[2]}.16b, v{f}.16b")
        self.late = adds[::-1]
        self.some(self.later, 1)

    def load(self, pair: int | None, plane: int) -> None:
        """One of the two vectors of a pair, or its lower half."""
        loop = self.loop
        if pair is None:
            self.complete()
            return
        channel, step = divmod(pair % loop.pairs, loop.steps)
        register, at = self.weights + pair % 2 * PLANES + plane, step * PAIR + plane * STEP
        self.one(f"ldr d{register}, [{_W}, #{at}]", *self.pending)
        self.pending, self.upper = [f"ins v{register}.d[1], {_HIGH}"], [f"ldr {_HIGH}, [{_W}, #{at + HALF}]"]
        if plane == 1 and step + 1 == loop.steps:
            # Loads do not reach far.
            past = ordered_products.size(loop.words) if channel + 1 == CHANNELS else 0
            self.moves = [f"add {_W}, {_W}, #{loop.steps * PAIR + past}"]

    def complete(self) -> None:
        """Move the last upper half where no load goes with it."""
        if self.pending:
            self.one(*self.pending)
            self.pending = []

    def reduce(self, channel: int) -> None:
        """After every other channel two ones' bytes become those of one, after eight their sums are stored."""
        kinds = range(len(COUNTED))
        even, odd = self.bytes, self.bytes + len(COUNTED)
        if channel % 2 == 0:
            # The next channel is counted in bytes of these.
            self.some(self.later, sum(line.startswith("addp") and ".16b" in line for line in self.later))
            return
        self.some(self.later)
        first = channel % 4 == 1
        to = self.joined if first else odd
        # At once, before the next channel is counted in the first one's bytes.
        self.late += [f"addp v{to + i}.16b, v{even + i}.16b, v{odd + i}.16b" for i in kinds]
        if first:
            return
        four = [self.joined + i for i in kinds]
        total = self.tree if channel < 4 else four[0]
        self.later = [f"addp v{r}.16b, v{r}.16b, v{odd + i}.16b" for i, r in enumerate(four)]
        self.later += [f"uaddlp v{r}.8h, v{r}.16b" for r in four]
        for i, r in enumerate(four):
            self.later.append(f"{'mla' if i else 'mul'} v{total}.8h, v{r}.8h, v{_FACTORS}.h[{i}]")
        if channel + 1 == CHANNELS:
            tree = f"v{self.tree}.8h"
            self.later += [f"addp {tree}, {tree}, v{total}.8h", f"sub {tree}, v{self.products}.8h, {tree}"]
            self.later += [f"ushr {tree}, {tree}, #1", f"str q{self.tree}, [{_SUMS}], #{2 * CHANNELS}"]
