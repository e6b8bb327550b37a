"""How many pixels ``u8_mla`` takes to a block, and to a tile, on an in-order core: what its loops are reckoned to take.

A tile's patches and sums are to stay in L1 while the weights pass; more pixels to a tile mean fewer such passes, and
memory is slow. Threads take whole tiles, so many small ones are shared better than a few large ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from schedules.blocked import even_blocks
from schedules.ordered_pairs import BYTES, MOST_PIXELS, UNIT

# Cycles of a block outside its steps, and of eight channels of a tile outside its blocks; what the epilogue takes more
# for eight channels of a pixel where it has an odd number of them.
BLOCK, TILE, ODD = 15, 20, 3
# The fewest cycles that a step of four pairs waits for its loads, and threads of the boards that have such cores.
LATENCY, THREADS = 20, 4
# Bytes of the caches that a tile's patches with a block's weights, its sums, and all weights may take; cycles of a line
# that is loaded nevertheless, from L2 or from memory, about half of it hidden.
LINE, PATCHES, SUMS, WEIGHTS = 64, 24 << 10, 16 << 10, 384 << 10
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

    @property
    def most(self) -> int:
        """Pixels of a block."""
        return MOST_PIXELS

    def block(self, pixels: int) -> float:
        """Cycles of a block of so many pixels and eight channels."""
        return block_cycles(pixels, self.pairs, self.chunk, self.flush)

    def _blocks(self) -> int:
        return self.groups * ceil(self.channels / CHANNELS)

    def _tiles(self, pixels: int, mr: int) -> list[tuple[int, int, int]]:
        """How many tiles of how many pixels there are, in blocks of how many."""
        whole, rest = divmod(self.total, pixels)
        return [(whole, pixels, mr), (1, rest, even_blocks(rest, self.most))] if rest else [(whole, pixels, mr)]

    def tile(self, pixels: int, mr: int) -> float:
        """Cycles of a tile of so many pixels in blocks of ``mr``, all in L1."""
        whole, rest = divmod(pixels, mr)
        blocks = whole * self.block(mr)
        blocks += self.block(rest)
        return self._blocks() * (blocks + TILE + pixels % 2 * pixels * ODD)

    def missed(self, pixels: int) -> float:
        """Cycles that a tile waits for caches."""
        row, blocks = 2 * self.pairs, self._blocks()
        weights, sums = blocks * self.pairs * BYTES, 2 * pixels * self.groups * self.channels
        fits = (pixels + CHANNELS) * row <= PATCHES
        lines = pixels * row / LINE * (self.groups if fits else blocks) + (2 * sums / LINE if sums > SUMS else 0)
        return lines * MISS + weights / LINE * (FAR if weights > WEIGHTS else MISS)

    def computed(self, pixels: int, mr: int) -> float:
        """Cycles of all tiles, all in L1."""
        return sum(count * self.tile(size, block) for count, size, block in self._tiles(pixels, mr))

    def cost(self, pixels: int, mr: int, shared: bool) -> float:
        """Cycles of all tiles; where threads share them, half of it is what the last thread takes times all."""
        tiles = self._tiles(pixels, mr)
        alone = self.computed(pixels, mr) + sum(count * self.missed(size) for count, size, _ in tiles)
        rounds = ceil(sum(count for count, _, _ in tiles) / THREADS)
        return alone + shared * THREADS * rounds * (self.tile(pixels, mr) + self.missed(pixels))


@lru_cache(maxsize=1024)
def plan(layer: Reckoning, shared: bool) -> tuple[int, int]:
    """Pixels to a tile and to a block."""
    most = min(layer.total, max(layer.most, min(128, MOST_PATCHES // (2 * layer.pairs))))
    blocks = range(4, layer.most + 1)
    choices = ((tile, min(mr, tile)) for tile in range(1, most + 1) for mr in blocks)
    return min(choices, key=lambda choice: layer.cost(choice[0], choice[1], shared))
