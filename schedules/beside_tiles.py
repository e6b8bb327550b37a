"""How ``mla_madd`` divides K between vector unit and general registers, and what its blocks are reckoned to take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from schedules.beside_pairs import CHANNELS, MOST_FIELDS, MOST_PIXELS, WORD, reached, round_pairs
from schedules.ordered_pairs import UNIT
from schedules.pair_tiles import BLOCK, LATENCY, Reckoning

# A round takes that much more than its busiest unit does, as instructions wait for their operands.
WAITING = 1.03
# Pairs of a round, so that its length stays below a quarter of the cache of instructions.
FEWEST, MOST = 2 * UNIT, 120


@dataclass(frozen=True)
class Division:
    """How a patch of so many ``pairs``, a multiple of 4, is divided.

    Attributes
    ----------
    words, fields : int
        See `beside_pairs.BesidePairs`.
    """

    pairs: int
    words: int
    fields: int

    @property
    def codes(self) -> int:
        """Codes of a word."""
        return self.fields * WORD

    @property
    def first(self) -> int:
        """Pairs that the vector unit multiplies, the first ones."""
        return self.pairs - self.words * self.codes // 2

    @property
    def length(self) -> int:
        """Pairs of a round."""
        return round_pairs(self.first, self.words)

    def cycles(self, pixels: int, chunk: int) -> float:
        """Cycles of a block of so many pixels."""
        left = self.first - self.words * self.length
        groups = -(-pixels // 2)
        rest = left / UNIT * _step(pixels) + -(-left // chunk) * pixels
        # Multiplications; weights, activations of two pixels at a time; flushes; top bytes.
        vector = self.length / UNIT * _step(pixels) + -(-self.length // chunk) * pixels + 1.5 * pixels
        loads = self.length / UNIT * (2 * UNIT + 2 * groups)
        # Weights of each two pixels; codes, multiplications and top bytes of each pixel.
        general = self.fields * (groups * CHANNELS + pixels * (1 + CHANNELS)) + pixels * CHANNELS
        return self.words * max(vector, (vector + loads + general) / 2) * WAITING + rest


def _step(pixels: int) -> float:
    """Cycles of four pairs."""
    return max(LATENCY, UNIT * (pixels + 1) + -(-pixels // 2))


@lru_cache(maxsize=1024)
def division(pairs: int, chunk: int) -> Division | None:
    """As a full block is fastest; None if the patch is too short."""
    ways = [Division(pairs, words, fields) for fields in range(1, MOST_FIELDS + 1) for words in range(1, pairs // UNIT)]
    possible = [way for way in ways if way.first > 0 and FEWEST <= way.length <= MOST]
    return min(possible, key=lambda way: way.cycles(MOST_PIXELS, chunk), default=None)


@dataclass(frozen=True)
class BesideReckoning(Reckoning):
    """A layer as `mla_madd` computes it, patches ``stride`` bytes apart."""

    stride: int = 0

    @property
    def most(self) -> int:
        """Pixels of a block."""
        return reached(self.stride)

    def block(self, pixels: int) -> float:
        """Cycles of a block of so many pixels and eight channels."""
        way = division(self.pairs, self.chunk)
        return way.cycles(pixels, self.chunk) + pixels + BLOCK if pixels and way is not None else 0
