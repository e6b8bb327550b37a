"""``mla_madd``: ``u8_mla`` of two bits on in-order cores, a part of K meanwhile multiplied in general registers.

Patches are those of ``u8_mla``; so are the weights but for the last words of 24 codes, which are stored as
`beside_pairs` multiplies them. Worst cases: those of ``u8_mla``; a byte of a word's sum takes 24 products of 9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schedules.beside_dot import BesideDot
from schedules.beside_pairs import CHANNELS, CODES, FIELDS, MOST_PIXELS, WORD, BesidePairs
from schedules.beside_tiles import WORD_PAIRS, BesideReckoning, best_words
from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.knob_space import Space
from schedules.pair_chunks import centred, chunk, largest_product, pairs, span
from schedules.pair_dot import BYTES, LANES
from schedules.techniques.u8_mla import U8Mla
from schedules.vectors import Vectors, in_order, vectors


class MlaMadd(U8Mla):
    """Blocks of up to ten pixels x eight channels."""

    name = "mla_madd"
    needs = frozenset({"asimd"})
    most_pixels = MOST_PIXELS

    def declines(self, problem: DotProblem, core: CoreSpec) -> str | None:
        """Patches too short or too long to divide, products too large for three to a byte, other cores."""
        p, reason = problem, super().declines(problem, core)
        if reason is not None:
            return reason
        if not in_order(core):
            return f"{core.name} starts instructions of both kinds by itself"
        if centred(p) or CODES * largest_product(p) > 255:
            return f"{CODES} products of {p.name} do not fit a byte"
        words = best_words(pairs(p), chunk(p))
        loop = BesidePairs(MOST_PIXELS, 2 * pairs(p), vector_pairs(p), chunk(p), 0, words)
        if not words or not loop.reaches() or pairs(p) > span(p) * chunk(p):
            return f"patches of {p.k} codes are too short or too long to divide between registers"
        return None

    def space(self, problem: DotProblem, core: CoreSpec) -> Space:
        """Blocks of no more pixels than there are registers for."""
        found = super().space(problem, core)
        return {**found, "mr": tuple(mr for mr in found["mr"] if mr <= MOST_PIXELS)}

    def stands(self, problem: DotProblem, lane: Any, k: Any, choose: Callable[..., Any]) -> tuple[Any, Any]:
        """Words follow the vectors of pairs: ``(words, 8 channels, 3, 8)``, the last channel first, codes in reverse."""
        first = vector_pairs(problem)
        beyond = k - 2 * first
        row = (beyond // CODES * CHANNELS + CHANNELS - 1 - lane) * FIELDS + beyond % CODES // WORD
        byte = row * WORD + WORD - 1 - beyond % WORD
        vector, place = super().stands(problem, lane, k, choose)
        return choose(beyond < 0, vector, first + byte // BYTES), choose(beyond < 0, place, byte % BYTES)

    def dot(
        self, problem: DotProblem, nr: int = LANES, core: CoreSpec | None = None, ordered: bool = False
    ) -> BesideDot:
        """The inner loops of a block."""
        p = problem
        v = Vectors() if core is None else vectors(core)
        words = best_words(pairs(p), chunk(p))
        return BesideDot(v, pairs(p), nr, chunk(p), span(p), p.a.max_code, 0, ordered, words=words)

    def reckoning(self, problem: DotProblem) -> BesideReckoning:
        """What an in-order core's time is reckoned from."""
        p, words = problem, best_words(pairs(problem), chunk(problem))
        total = p.batch * p.out_height * p.out_width
        return BesideReckoning(total, pairs(p), chunk(p), p.groups, p.group_out_channels, words=words)


def vector_pairs(problem: DotProblem) -> int:
    """Pairs of codes of a patch that the vector unit multiplies, the first ones."""
    return pairs(problem) - WORD_PAIRS * best_words(pairs(problem), chunk(problem))
