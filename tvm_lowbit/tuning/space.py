"""What there is to try for a problem: each technique that takes it, with all values of its knobs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass

from schedules import tuned_rows
from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.problem_key import problem_of
from schedules.techniques import TECHNIQUES, select
from tvm_lowbit.tuning.records import Candidate

# A technique that is estimated to be so much slower than the best is not tried.
HOPELESS = 2.0
# Whether work is split over threads is no matter of one thread's speed: `Technique.knobs` decides it.
NOT_TUNED = frozenset({"parallel"})


@dataclass(frozen=True)
class Space:
    """Candidates of a problem: what a build would take ``untuned``, what to try ``first``, and ``all`` there are."""

    untuned: Candidate
    first: tuple[Candidate, ...]
    all: tuple[Candidate, ...]


def space_of(key: str, core: CoreSpec, known: Collection[Candidate] = ()) -> Space:
    """The space of a problem on a core; tuned rows of it, or of one like it, are tried first.

    Rows that came out of what is ``known`` by measuring are not: a search that goes on would else start otherwise.

    Raises
    ------
    LowbitError
        If every technique declines.
    """
    problem = problem_of(key)
    costs = worth_trying(key, core)
    untuned = _default(key, problem, core, select(problem, core).technique.name)
    rows = ((row.exact, Candidate.of(key, row.technique, row.knobs)) for row in tuned_rows.tuned(problem, core).rows)
    tuned = [candidate for exact, candidate in rows if not (exact and candidate in known)]
    found: list[Candidate] = []
    for name in costs:
        values = TECHNIQUES[name].space(problem, core)
        names = [knob for knob in sorted(values) if knob not in NOT_TUNED]
        for chosen in itertools.product(*(values[knob] for knob in names)):
            found.append(Candidate.of(key, name, dict(zip(names, chosen, strict=True))))
    there = set(found)
    first = [untuned, *tuned, *(_default(key, problem, core, name) for name in costs)]
    return Space(untuned, tuple(dict.fromkeys(c for c in first if c in there)), tuple(found))


def taking(key: str, core: CoreSpec) -> dict[str, float]:
    """Techniques that take a problem, with their estimated cycles."""
    problem = problem_of(key)
    able = [technique for technique in TECHNIQUES.values() if technique.declines(problem, core) is None]
    return {technique.name: technique.cycles(problem, core) for technique in able}


def worth_trying(key: str, core: CoreSpec) -> dict[str, float]:
    """Those of them that are worth measuring, the least estimated cycles first."""
    costs = taking(key, core)
    least = min((cost for cost in costs.values() if math.isfinite(cost)), default=math.inf)
    return dict(sorted(((n, c) for n, c in costs.items() if c <= HOPELESS * least), key=lambda item: item[1]))


def _default(key: str, problem: DotProblem, core: CoreSpec, name: str) -> Candidate:
    own = TECHNIQUES[name].knobs(problem, core)
    return Candidate.of(key, name, {knob: value for knob, value in own.items() if knob not in NOT_TUNED})
