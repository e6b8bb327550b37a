"""The search for one problem: which candidate next, and when to stop. Decides by records alone, so that it resumes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tvm_lowbit.tuning.cost_model import CostModel, Rank
from tvm_lowbit.tuning.records import Candidate, Outcome, Record
from tvm_lowbit.tuning.space import Space

# One candidate in so many is a neighbour of the best, whatever the model says.
WANDER = 4
# What counts as faster.
BETTER = 0.995


@dataclass(frozen=True)
class Found:
    """How the search of a problem ended.

    Attributes
    ----------
    best : Record or None
        The fastest right candidate.
    untuned : Record or None
        What a build would take without tuning, if it was right.
    trials : int
        Candidates measured, earlier runs included.
    why : str
        Why it ended.
    """

    best: Record | None
    untuned: Record | None
    trials: int
    why: str


def search(
    space: Space,
    model: CostModel,
    records: list[Record],
    measure: Callable[[Candidate], Record],
    trials: int,
    patience: int,
    tell: Callable[[int], None] = lambda done: None,
) -> Found:
    """Measure candidates until all are, ``trials`` are, or ``patience`` of them in turn were no faster.

    Parameters
    ----------
    space : Space
        The problem's candidates.
    model : CostModel
        Of the core they run on.
    records : list of Record
        All that is known of the board, this problem's and others'; what is measured is added. A later search with the
        same records goes on as this one would have.
    measure : callable
        Measures a candidate.
    trials, patience : int
        See above.
    tell : callable, optional
        Told after each candidate how many there are.
    """
    mine = [record for record in records if record.problem == space.untuned.problem]
    there = dict.fromkeys((*space.first, *space.all))
    measured = {record.candidate: record for record in mine if record.candidate in there}
    while True:
        tell(len(measured))
        why = _stop(list(measured.values()), len(space.first), len(there), trials, patience)
        if why is not None:
            break
        candidate = _next(space, measured, model.rank(records))
        record = measure(candidate)
        records.append(record)
        measured[candidate] = record
    right = [record for record in measured.values() if record.cycles is not None]
    best = min(right, key=lambda record: record.cycles or 0.0, default=None)
    return Found(best, next((r for r in right if r.candidate == space.untuned), None), len(measured), why)


def _stop(measured: Sequence[Record], first: int, there: int, trials: int, patience: int) -> str | None:
    if len(measured) >= there:
        return "all candidates measured"
    if len(measured) >= trials:
        return f"{trials} trials"
    best, since = float("inf"), 0
    for number, record in enumerate(measured):
        if record.cycles is not None and record.cycles < best * BETTER:
            best, since = record.cycles, number + 1
    # What is tried first is no search yet.
    idle = len(measured) - max(since, min(first, len(measured)))
    return f"no faster in {patience} trials" if idle >= patience else None


def _next(space: Space, measured: Mapping[Candidate, Record], rank: Rank | None) -> Candidate:
    for candidate in space.first:
        if candidate not in measured:
            return candidate
    left = [candidate for candidate in space.all if candidate not in measured]
    if rank is not None and len(measured) % WANDER:
        return left[int(rank(left).argmin())]
    best = min(measured, key=lambda candidate: measured[candidate].cycles or float("inf"))
    near = [candidate for candidate in left if _are_neighbours(candidate, best)]
    return random.Random(f"{best.problem} {len(measured)}").choice(near or left)


def _are_neighbours(one: Candidate, other: Candidate) -> bool:
    """Whether they differ in one knob."""
    return one.technique == other.technique and len(set(one.knobs) ^ set(other.knobs)) == 2


def record_of(candidate: Candidate, outcome: Outcome, **where: object) -> Record:
    """The record of an outcome; ``where`` are the rest of its fields."""
    return Record(
        problem=candidate.problem,
        technique=candidate.technique,
        knobs=dict(candidate.knobs),
        kind=outcome.kind,
        cycles=outcome.cycles,
        reason=outcome.reason,
        **where,  # type: ignore[arg-type]
    )
