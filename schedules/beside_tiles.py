"""How ``mla_madd`` divides K between the vector unit and general registers, and what its blocks are reckoned to take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from schedules.beside_pairs import CHANNELS, CODES, FIELDS, MOST_PIXELS
from schedules.ordered_pairs import UNIT
from schedules.pair_tiles import BLOCK, LATENCY, Reckoning

# A round takes that much more than its busiest unit does, as instructions wait for their operands.
WAITING = 1.03
# Pairs of a word's codes.
WORD_PAIRS = CODES // 2


def round_cycles(pixels: int, pairs: int, chunk: int) -> float:
    """Cycles of a round of so many pairs and one word."""
    groups, flushes = -(-pixels // 2), -(-pairs // chunk)
    # Multiplications, weights, activations of two pixels at a time, flushes; top bytes.
    step = max(LATENCY, UNIT * (pixels + 1) + groups)
    vector = pairs / UNIT * step + flushes * pixels + 1.5 * pixels
    loads = pairs / UNIT * (2 * UNIT + 2 * groups)
    # Weights of each two pixels; codes, multiplications and top bytes of each pixel.
    general = groups * FIELDS * CHANNELS + pixels * (FIELDS + FIELDS * CHANNELS + CHANNELS)
    return max(vector, (vector + loads + general) / 2) * WAITING


@lru_cache(maxsize=1024)
def best_words(pairs: int, chunk: int) -> int:
    """Words of a patch of so many pairs that a full block is fastest with; 0 if there is not one."""

    def cycles(words: int) -> float:
        length, left = divmod((pairs - words * WORD_PAIRS) // UNIT, words)
        rest = left * (UNIT * (MOST_PIXELS + 1) + MOST_PIXELS // 2) + -(-left * UNIT // chunk) * MOST_PIXELS
        return words * round_cycles(MOST_PIXELS, length * UNIT, chunk) + rest

    most = pairs // (WORD_PAIRS + 2 * UNIT)
    return min(range(1, most + 1), key=cycles, default=0)


@dataclass(frozen=True)
class BesideReckoning(Reckoning):
    """A layer as `mla_madd` computes it, ``words`` words of each patch in general registers."""

    words: int = 1

    @property
    def most(self) -> int:
        """Pixels of a block."""
        return MOST_PIXELS

    def block(self, pixels: int) -> float:
        """Cycles of a block of so many pixels and eight channels."""
        if not pixels:
            return 0
        length, left = divmod((self.pairs - self.words * WORD_PAIRS) // UNIT, self.words)
        rest = left * (UNIT * (pixels + 1) + -(-pixels // 2))
        return self.words * round_cycles(pixels, length * UNIT, self.chunk) + rest + pixels + BLOCK
