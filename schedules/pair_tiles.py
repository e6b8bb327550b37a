"""How many pixels ``u8_mla`` takes to a block, and to a tile, on an in-order core: what its loops are reckoned to take.

A tile's patches and sums are to stay in L1 while the weights pass; more pixels to a tile mean fewer such passes, and
memory is slow. Threads take whole tiles, so many small ones are shared better than a few large ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from schedules.ordered_pairs import BYTES, MOST_PIXELS, UNIT

# Cycles of a block outside its steps, and of eight channels of a tile outside its blocks; what the epilogue takes more
# for eight channels of a pixel where it has an odd number of them.
BLOCK, TILE, ODD = 15, 20, 3
# The fewest cycles that a step of four pairs waits for its loads, and threads of the boards that have such cores.
LATENCY, THREADS = 20, 4
# Bytes of the caches that a tile's patches with a block's weights, its sums, and all weights may take; cycles of a line
# that is loaded nevertheless, from L2 or from memory, about half of it hidden.
LINE, PATCHES, SUMS, WEIGHTS = 64, 24 << 10, 16 << 10, 256 << 10
MISS, FAR = 10, 30
# Patches of four threads fit L2.
MOST_PATCHES = 64 << 10
CHANNELS = 8


def block_cycles(pixels: int, pairs: int, chunk: int, flush: float = 1) -> float:
    """Cycles of a block of so many pixels and eight channels; ``flush`` is what one lane's takes."""
    if not pixels:
        return 0
    # Multiplications, weights, activations of two pixels at a time.
    step = max(LATENCY, UNIT * pixels + UNIT + -(-pixels // 2))
    return pairs / UNIT * step + (flush * -(-pairs // chunk) + 1) * pixels + BLOCK


@dataclass(frozen=True)
class Reckoning:
    """A layer as `u8_mla` computes it.

    Attributes
    ----------
    total : int
        Output pixels of the batch.
    pairs, chunk : int
        Pairs of codes of a patch, and between flushes.
    groups, channels : int
        Groups, and output channels of each.
    flush : float
        Cycles of one lane's flush.
    """

    total: int
    pairs: int
    chunk: int
    groups: int
    channels: int
    flush: float = 1

    def tile(self, pixels: int, mr: int) -> float:
        """Cycles of a tile of so many pixels in blocks of ``mr``."""
        row, blocks = 2 * self.pairs, self.groups * ceil(self.channels / CHANNELS)
        whole, rest = divmod(pixels, mr)
        computed = whole * block_cycles(mr, self.pairs, self.chunk, self.flush)
        computed += block_cycles(rest, self.pairs, self.chunk, self.flush) + TILE + pixels % 2 * pixels * ODD
        weights = blocks * self.pairs * BYTES
        lines = weights / LINE * (FAR if weights > WEIGHTS else MISS)
        sums = 2 * pixels * self.groups * self.channels
        lines += 2 * sums / LINE * MISS if sums > SUMS else 0
        fits = (pixels + CHANNELS) * row <= PATCHES
        lines += pixels * row / LINE * (self.groups if fits else blocks) * MISS
        return blocks * computed + lines

    def cycles(self, pixels: int, mr: int) -> tuple[float, float]:
        """Cycles of all tiles, and of the most that one of several threads has to compute."""
        whole, rest = divmod(self.total, pixels)
        alone = whole * self.tile(pixels, mr) + (self.tile(rest, mr) if rest else 0)
        return alone, ceil((whole + (rest > 0)) / THREADS) * self.tile(pixels, mr)


@lru_cache(maxsize=1024)
def plan(layer: Reckoning, shared: bool) -> tuple[int, int]:
    """Pixels to a tile and to a block; where threads share the tiles, the longest of them counts as much as the sum."""
    most = min(layer.total, max(MOST_PIXELS, min(128, MOST_PATCHES // (2 * layer.pairs))))

    def cost(choice: tuple[int, int]) -> float:
        alone, longest = layer.cycles(*choice)
        return alone + THREADS * longest * shared

    blocks = range(4, MOST_PIXELS + 1)
    return min(((tile, min(mr, tile)) for tile in range(1, most + 1) for mr in blocks), key=cost)
