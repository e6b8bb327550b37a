"""How many pixels ``u8_mla`` takes to a block, and to a tile, on an in-order core: what its loops are reckoned to take.

A tile's patches and sums are to stay in L1 while the weights pass; more pixels to a tile mean fewer such passes. Threads
take whole tiles, so many small ones are shared better than a few large ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import ceil

from schedules.ordered_pairs import MOST_PIXELS, UNIT

# What a block takes before and after its loop, and a block of channels of a tile besides; cycles.
BLOCK, TILE = 25, 30
# Bytes of L1 that the sums of a tile and its patches may take.
SUMS, PATCHES = 64 << 10, 24 << 10
# The fewest cycles that a step of four pairs waits for its loads, and threads of the boards that have such cores.
LATENCY, THREADS = 20, 4


def step_cycles(pixels: int) -> float:
    """Cycles of four pairs: multiplications, weights, activations of two pixels at a time."""
    return max(LATENCY, UNIT * pixels + UNIT + -(-pixels // 2))


def block_cycles(pixels: int, pairs: int, chunk: int, flush: float = 1) -> float:
    """Cycles of a block of so many pixels and eight channels; ``flush`` is what one lane's takes."""
    each = flush * -(-pairs // chunk) + 1
    return pairs / UNIT * step_cycles(pixels) + each * pixels + BLOCK if pixels else 0


@lru_cache(maxsize=1024)
def plan(total: int, row: int, channels: int, chunk: int, shared: bool) -> tuple[int, int]:
    """The tile and the block that are reckoned fastest.

    Parameters
    ----------
    total : int
        Output pixels of the batch.
    row : int
        Bytes of a patch, two to each pair.
    channels : int
        Channels that a tile holds sums of.
    chunk : int
        Pairs between flushes.
    shared : bool
        Whether threads share the tiles.

    Returns
    -------
    tuple of int
        Pixels to a tile, pixels to a block.
    """
    fitting = min(SUMS // (2 * channels), PATCHES // row)
    most = min(total, max(MOST_PIXELS, fitting))

    def block(pixels: int) -> float:
        return block_cycles(pixels, row // 2, chunk)

    choices = [(tile, mr) for tile in range(1, most + 1) for mr in range(min(4, tile), min(tile, MOST_PIXELS) + 1)]
    return min(choices, key=lambda choice: (_cycles(total, *choice, block, shared), -choice[0]))


def _cycles(total: int, tile: int, mr: int, block: Callable[[int], float], shared: bool) -> float:
    def run(pixels: int) -> float:
        return pixels // mr * block(mr) + block(pixels % mr) + TILE

    whole, rest = divmod(total, tile)
    alone = whole * run(tile) + (run(rest) if rest else 0)
    if not shared:
        return alone
    # Half by what one thread takes for all tiles, half by what the longest of several takes.
    return alone + THREADS * ceil((whole + (rest > 0)) / THREADS) * run(tile)
