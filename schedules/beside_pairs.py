"""``u8_mla``'s loop of two-bit codes with the rest of K multiplied in general registers beside it, on Cortex-A53.

The core starts two instructions a cycle, of which one at the most is a vector operation of 128 bits: `ordered_pairs`
leaves two places of five empty. Eight codes of a pixel as they stand in memory, times eight of a channel in reverse,
have the sum of eight products in the top byte of 64 bits (ULPPACK, Won et al., MLSys 2022). Three such products fit a
byte, so a word is 24 codes, or 16 or 8 of short patches. EXTR moves the top byte of each channel's into a register that
thus gathers those of eight channels, which are added to the vector sums at once (UADDW). A round multiplies some pairs
of all pixels in the vector unit and meanwhile one word of all pixels, by twos, in general registers.

Worst case: a byte takes 24 products of 9, 216; what is carried from lower bytes, none of which holds more, is nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from schedules.interleave import interleaved
from schedules.ordered_pairs import BYTES, REACH, UNIT, OrderedPairs
from schedules.written_function import written_function

CHANNELS, WORD, MOST_FIELDS = 8, 8, 3
# Pixels of a block: three vector registers are left.
MOST_PIXELS = 10
# Bytes of a pixel's codes that a round, and its end, load.
MOST_AHEAD = 512
# General registers that `ordered_pairs` leaves; x18, x19 and x29 are not everywhere free to use.
_CODES_AT, _WORDS_AT, _COUNT = "x0", "x1", "x11"
_A = (("x2", "x3", "x4"), ("x5", "x6", "x8"))
_WEIGHTS, _PACKS = ("x20", "x21", "x22", "x23"), ("x28", "x30")
# Products of two channels, of which one's wait to be gathered; or of one, and bases of pixels that the first bases, of
# codes in the vector unit and in general registers, do not reach.
_CHAINS, _FURTHER = (("x24", "x25"), ("x26", "x27")), ("x26", "x27")
# LLVM knows x30 by its other name only.
_CLOBBERED = (_CODES_AT, _WORDS_AT, *_A[0], *_A[1], *_WEIGHTS, *_CHAINS[0], *_CHAINS[1], _PACKS[0], "lr")
_TURNS = 3


@dataclass(frozen=True)
class BesidePairs(OrderedPairs):
    """``sums[i] = sum over codes of pixel i times weights of eight channels``.

    Attributes
    ----------
    pairs : int
        Of the codes that are multiplied in the vector unit, the first ones of a patch.
    chunk : int
        The most pairs between flushes.
    words, fields : int
        Words after those, each of ``8 fields`` codes; their weights follow those of the pairs: ``(words, 8, fields,
        8)``, the last channel first, codes in reverse.
    """

    words: int = 1
    fields: int = MOST_FIELDS

    @property
    def name(self) -> str:
        """A name that no other loop has."""
        return f"lowbit_beside_{self.pixels}_{self.stride}_{self.pairs}_{self.chunk}_{self.words}_{self.fields}"

    @property
    def length(self) -> int:
        """Pairs of a round."""
        return round_pairs(self.pairs, self.words)

    @property
    def share(self) -> int:
        """Pixels that loads reach from one base."""
        return 1 + (REACH - MOST_AHEAD) // self.stride

    def reaches(self) -> bool:
        """Whether all loads reach their operands."""
        weights = BYTES * (self.length + 4)
        near = weights <= REACH and 2 * self.length + 8 * UNIT <= MOST_AHEAD and self.words < 1 << 16
        return near and 0 < self.pixels <= reached(self.stride) and self.length > UNIT

    def definition(self) -> str:
        """An LLVM function ``(codes, weights, a place for each vector of sums)``, inlined where it is called."""
        first = self.held + self.pixels
        vectors = [f"v{r}" for r in (*range(first), *self._gathered(), *range(28, 32))]
        clobbered = [*vectors, _COUNT, *(f"x{r}" for r in (12, 13, 14, 15, 16, 17, 7)), *_CLOBBERED]
        results = range(first, first + self.pixels)
        return written_function(self.name, self.instructions(), "<8 x i16>", results, ("x9", "x10"), clobbered)

    def instructions(self) -> list[str]:
        """The whole of it."""
        length, rounds = self.length, self.words
        begin = [*self._begin(), *_add(_WORDS_AT, "x10", BYTES * self.pairs)]
        for base, codes in zip(self._general(), self._bases(), strict=True):
            begin += _add(base, codes, 2 * self.pairs)
        if rounds == 1:
            # All of it in a row.
            steps = [line for step in range(self.pairs) for line in self._step(step, self.pairs, start=not step)]
            return [*begin, *interleaved(steps, self._beside())]
        left = self.pairs - rounds * length
        # In a round there is always more to come.
        ahead = self.pairs + 2 * UNIT
        turn = [f"add {base}, {base}, #{2 * length}" for base in self._bases()]
        turn += [f"add x10, x10, #{BYTES * length}", f"subs {_COUNT}, {_COUNT}, #1"]
        lines = [*begin, *self._step(0, ahead, start=True), f"mov {_COUNT}, #{rounds}", "1:"]
        steps = [line for step in range(1, length - 1) for line in self._step(step, ahead)]
        # The last round's load what follows the pairs, and multiply for nothing unless some are left.
        steps += [*self._step(length - 1, ahead, length, turn), *self._step(0, ahead)]
        moves = [f"add {base}, {base}, #{WORD * self.fields}" for base in self._general()]
        moves.append(f"add {_WORDS_AT}, {_WORDS_AT}, #{CHANNELS * WORD * self.fields}")
        lines += [*interleaved(steps, [*self._beside(), *moves]), "b.ne 1b"]
        for step in range(1, left):
            lines += self._step(step, left)
        return lines

    def _bases(self) -> list[str]:
        return ["x9", _FURTHER[0]][: -(-self.pixels // self.share)]

    def _general(self) -> list[str]:
        """The same of codes that are multiplied in general registers."""
        return [_CODES_AT, _FURTHER[1]][: len(self._bases())]

    def _ends(self, end: int) -> list[int]:
        """Where lanes begin anew, in a round or in what is left after all."""
        whole = self.length if end > self.pairs else end
        parts = -(-whole // self.chunk)
        return [whole * part // parts for part in range(parts + 1)]

    def _gathered(self) -> list[int]:
        """Vector registers that top bytes go through."""
        first = self.held + 2 * self.pixels
        return list(range(first, min(28, first + _TURNS)))

    def _beside(self) -> list[str]:
        """A word's products with all pixels."""
        lines: list[str] = []
        groups = [list(range(i, min(i + 2, self.pixels))) for i in range(0, self.pixels, 2)]
        lines += [self._factor(groups[0], i, field) for field in range(self.fields) for i in range(len(groups[0]))]
        lines += [_weights(0), _weights(2)]
        for turn, group in enumerate(groups):
            following = groups[turn + 1] if turn + 1 < len(groups) else []
            waiting: list[list[str]] = []
            sets = _CHAINS[: 3 - len(self._bases())]
            for channel in range(CHANNELS):
                chains = sets[channel % len(sets)][: len(group)]
                lines += self._channel(channel, group, chains, following)
                waiting.append(_packed(channel, chains))
                # The channel before is complete, unless its registers are needed at once.
                lines += waiting.pop(0) if len(waiting) == len(sets) else []
            lines += [*(line for rest in waiting for line in rest), *self._added(turn, group)]
        return lines

    def _channel(self, channel: int, group: list[int], chains: tuple[str, ...], following: list[int]) -> list[str]:
        """A channel's products; after the last one's the next pixels' codes."""
        lines: list[str] = []
        last = channel + 1 == CHANNELS
        for field in range(self.fields):
            number = channel * self.fields + field
            weights = _WEIGHTS[number % len(_WEIGHTS)]
            for i, chain in enumerate(chains):
                factors = f"{weights}, {_A[i][field]}"
                lines.append(f"madd {chain}, {factors}, {chain}" if field else f"mul {chain}, {factors}")
            ahead = number + 3
            if number % 2 and (following or ahead < CHANNELS * self.fields):
                lines.append(_weights(ahead % (CHANNELS * self.fields)))
            if last:
                lines += [self._factor(following, i, field) for i in range(len(following))]
        return lines

    def _factor(self, group: list[int], i: int, field: int) -> str:
        further, pixel = divmod(group[i], self.share)
        return f"ldr {_A[i][field]}, [{self._general()[further]}, #{pixel * self.stride + WORD * field}]"

    def _added(self, turn: int, group: list[int]) -> list[str]:
        """Add what is gathered to the vector sums."""
        gathered = self._gathered()
        register = gathered[turn % len(gathered)]
        lines = [f"ins v{register}.d[{i}], {_PACKS[i]}" for i in range(len(group))]
        for i, pixel in enumerate(group):
            to, kind = f"v{self._sum(pixel)}.8h", ("uaddw", "8b") if i == 0 else ("uaddw2", "16b")
            lines.append(f"{kind[0]} {to}, {to}, v{register}.{kind[1]}")
        return lines


def round_pairs(pairs: int, words: int) -> int:
    """Pairs that go with a word, where the first ``pairs`` of a patch go with all ``words``; some may be left."""
    return pairs // words // UNIT * UNIT


def reached(stride: int) -> int:
    """Pixels of a block that loads reach from two bases, for patches so many bytes apart."""
    share = 1 + (REACH - MOST_AHEAD) // stride
    # The distance between the bases is to fit an instruction.
    return min(MOST_PIXELS, 2 * share if share * stride < 1 << 16 else share)


def _weights(number: int) -> str:
    """Two of a word's weights."""
    first = number % len(_WEIGHTS)
    return f"ldp {_WEIGHTS[first]}, {_WEIGHTS[first + 1]}, [{_WORDS_AT}, #{WORD * number}]"


def _packed(channel: int, chains: tuple[str, ...]) -> list[str]:
    """Top bytes to the others."""
    packs = zip(_PACKS, chains, strict=False)
    return [f"extr {to}, {to}, {chain}, #56" if channel else f"lsr {to}, {chain}, #56" for to, chain in packs]


def _add(to: str, base: str, number: int) -> list[str]:
    """A sum with what takes more than one instruction."""
    high, low = divmod(number, 1 << 12)
    lines = [f"add {to}, {base}, #{high}, lsl #12"] if high else []
    return [*lines, f"add {to}, {to if high else base}, #{low}"]
