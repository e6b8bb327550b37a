"""A block's inner loop of ``mla_madd``: see `beside_pairs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schedules.beside_pairs import BesidePairs
from schedules.beside_tiles import Division
from schedules.pair_dot import PairDot, Weights
from schedules.panel import Panel


@dataclass(frozen=True)
class BesideDot(PairDot):
    """`PairDot` with a part of each patch in general registers."""

    way: Division | None = None

    def _sums(self, panel: Panel, weights: Weights, pixel: Any, outputs: Any, first: Any, pairs: int) -> list[Any]:
        """Emit all products; 16-bit sums."""
        assert self.way is not None
        way = self.way
        loop = BesidePairs(len(outputs), panel.stride(), way.first, self.chunk, 0, way.words, way.fields)
        return self._call(loop, panel, weights, pixel, first, 0)
