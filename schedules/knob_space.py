"""The values that a knob may take: what a search tries, and what a tuned row is held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from schedules.dot_problem import DotProblem

# More pixels than this fill the registers of any core.
MOST_PIXELS = 8
# Pixels of a row that are handled together: what fits L1 lies somewhere here.
TILES = (4, 8, 14, 16, 28, 32, 56, 64, 112)
# The same of tiles of 2x2 pixels, for Winograd.
WINOGRAD_TILES = (8, 12, 16, 24, 32, 48, 64)

Space = Mapping[str, tuple[int, ...]]


def around(knobs: Mapping[str, int], problem: DotProblem, more: Mapping[str, Iterable[int]] | None = None) -> Space:
    """The space of a technique: values for each of its knobs, the default always among them.

    Blocks of fewer than ``mr`` pixels and runs of fewer than ``tile`` are what every technique meets at the end of a
    row, so it takes them; every other value, of these knobs or others, is the technique's own to say.

    Parameters
    ----------
    knobs : mapping of str to int
        The technique's own values for the problem.
    problem : DotProblem
        What is to be computed.
    more : mapping of str to iterable of int, optional
        Values that the technique takes.
    """
    most, row = knobs.get("mr", 0), knobs.get("tile", 0)
    usual: dict[str, Iterable[int]] = {
        "mr": range(min(2, most), most + 1),
        "tile": (tile for tile in TILES if tile < min(row, problem.out_width)),
    }
    values = {**usual, **(more or {})}
    return MappingProxyType({name: tuple(sorted({default, *values.get(name, ())})) for name, default in knobs.items()})


def block_pixels(problem: DotProblem) -> range:
    """Pixels to a block, for techniques that take any."""
    return range(min(2, problem.out_width), min(MOST_PIXELS, problem.out_width) + 1)


def row_tiles(problem: DotProblem) -> tuple[int, ...]:
    """Pixels of a row to a run, for techniques that take any."""
    return (*(tile for tile in TILES if tile < problem.out_width), problem.out_width)


def winograd_tiles(problem: DotProblem) -> tuple[int, ...]:
    """Tiles that may be transformed at once: at most all there are."""
    total = -(-problem.out_height // 2) * -(-problem.out_width // 2)
    whole = [n for n in range(min(8, total), min(64, total) + 1) if total % n == 0]
    return tuple(sorted({*whole, *(n for n in WINOGRAD_TILES if n <= total)}))
