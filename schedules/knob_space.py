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

    Blocks of ``mr`` pixels and runs of ``tile`` pixels may be of any size (`blocked` takes care of the rest); every
    other knob keeps its value unless the technique says what else it takes.

    Parameters
    ----------
    knobs : mapping of str to int
        The technique's own values for the problem.
    problem : DotProblem
        What is to be computed.
    more : mapping of str to iterable of int, optional
        Values that the technique takes.
    """
    width = problem.out_width
    usual: dict[str, Iterable[int]] = {
        "mr": range(min(2, width), min(MOST_PIXELS, width) + 1),
        "tile": (*(tile for tile in TILES if tile < width), width),
    }
    values = {**usual, **(more or {})}
    return MappingProxyType({name: tuple(sorted({default, *values.get(name, ())})) for name, default in knobs.items()})


def winograd_tiles(problem: DotProblem) -> tuple[int, ...]:
    """Tiles that may be transformed at once: at most all there are."""
    total = -(-problem.out_height // 2) * -(-problem.out_width // 2)
    whole = [n for n in range(min(8, total), min(64, total) + 1) if total % n == 0]
    return tuple(sorted({*whole, *(n for n in WINOGRAD_TILES if n <= total)}))
