"""``mla_madd``: ``u8_mla`` of two bits on in-order cores, a part of K meanwhile multiplied in general registers.

Patches are those of ``u8_mla``; so are the weights but for the last words of 8 to 24 codes, which are stored as
`beside_pairs` multiplies them. Worst cases: those of ``u8_mla``; a byte of a word's sum takes 24 products of 9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schedules.beside_dot import BesideDot
from schedules.beside_pairs import CHANNELS, MOST_FIELDS, WORD, BesidePairs, reached
from schedules.beside_tiles import BesideReckoning, Division, division
from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.knob_space import Space
from schedules.pair_chunks import centred, chunk, largest_product, pairs, span
from schedules.pair_dot import BYTES, LANES
from schedules.techniques.u8_mla import U8Mla
from schedules.vectors import Vectors, in_order, vectors

# Of a block: where loads reach fewer, weights are loaded too often.
FEWEST_PIXELS = 4


class MlaMadd(U8Mla):
    """Blocks of up to ten pixels x eight channels."""

    name = "mla_madd"
    needs = frozenset({"asimd"})

    def declines(self, problem: DotProblem, core: CoreSpec) -> str | None:
        """Patches too short or too long to divide, products too large for three to a byte, other cores."""
        p, reason = problem, super().declines(problem, core)
        if reason is not None:
            return reason
        if not in_order(core):
            return f"{core.name} starts instructions of both kinds by itself"
        if centred(p) or MOST_FIELDS * WORD * largest_product(p) > 255:
            return f"{MOST_FIELDS * WORD} products of {p.name} do not fit a byte"
        way = division(pairs(p), chunk(p))
        most = reached(stride(p))
        if way is None or most < FEWEST_PIXELS or pairs(p) > span(p) * chunk(p):
            return f"patches of {p.k} codes are too short or too long to divide between registers"
        assert BesidePairs(most, stride(p), way.first, chunk(p), 0, way.words, way.fields).reaches()
        return None

    def space(self, problem: DotProblem, core: CoreSpec) -> Space:
        """Blocks of no more pixels than there are registers for."""
        found = super().space(problem, core)
        return {**found, "mr": tuple(mr for mr in found["mr"] if mr <= reached(stride(problem)))}

    def stands(self, problem: DotProblem, lane: Any, k: Any, choose: Callable[..., Any]) -> tuple[Any, Any]:
        """Words follow the vectors of pairs: ``(words, 8, fields, 8)``, the last channel first, codes in reverse."""
        way = _way(problem)
        beyond = k - 2 * way.first
        row = (beyond // way.codes * CHANNELS + CHANNELS - 1 - lane) * way.fields + beyond % way.codes // WORD
        byte = row * WORD + WORD - 1 - beyond % WORD
        vector, place = super().stands(problem, lane, k, choose)
        return choose(beyond < 0, vector, way.first + byte // BYTES), choose(beyond < 0, place, byte % BYTES)

    def dot(
        self, problem: DotProblem, nr: int = LANES, core: CoreSpec | None = None, ordered: bool = False
    ) -> BesideDot:
        """The inner loops of a block."""
        p = problem
        v = Vectors() if core is None else vectors(core)
        return BesideDot(v, pairs(p), nr, chunk(p), span(p), p.a.max_code, 0, ordered, way=_way(p))

    def reckoning(self, problem: DotProblem) -> BesideReckoning:
        """What an in-order core's time is reckoned from."""
        p = problem
        total = p.batch * p.out_height * p.out_width
        return BesideReckoning(total, pairs(p), chunk(p), p.groups, p.group_out_channels, stride=stride(p))


def stride(problem: DotProblem) -> int:
    """Bytes from a patch to the next one at the most: of a whole pixel, or of a copied patch."""
    return max(2 * pairs(problem), problem.channels if problem.kernel == (1, 1) else 0)


def _way(problem: DotProblem) -> Division:
    """How patches are divided."""
    found = division(pairs(problem), chunk(problem))
    assert found is not None, "asked to compute what was declined"
    return found
