"""A block's inner loop of ``mla_madd``: see `beside_pairs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schedules.beside_pairs import BesidePairs
from schedules.beside_tiles import WORD_PAIRS
from schedules.pair_dot import PairDot, Weights
from schedules.panel import Panel
from schedules.vectors import call_loop


@dataclass(frozen=True)
class BesideDot(PairDot):
    """`PairDot` with the last ``words`` of each patch in general registers."""

    words: int = 0

    def _sums(self, panel: Panel, weights: Weights, pixel: Any, outputs: Any, first: Any, pairs: int) -> list[Any]:
        """Emit all products; 16-bit sums."""
        vector_pairs = pairs - self.words * WORD_PAIRS
        loop = BesidePairs(len(outputs), panel.stride(), vector_pairs, self.chunk, 0, self.words)
        return self._call(loop, panel, weights, pixel, first, 0)
