"""Tuned rows: for each problem of a core, the techniques and knobs that measured best; `build` takes them by itself.

Shipped rows are in ``schedules/tuned/<core>.json``, those that a user's own tuning found in the same form in
`user_folder`, which count first. A row is held against the techniques as they are: one that no longer fits is left out,
with a reason.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import platformdirs

from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.problem_key import family_of, problem_key, problem_of
from schedules.techniques import TECHNIQUES, Choice, Technique, select
from schedules.techniques.base import Knobs

SHIPPED = Path(__file__).parent / "tuned"
# Another folder than the platform's for a user's own rows; "off": take no tuned rows at all.
VARIABLE = "TVM_LOWBIT_TUNED"
OFF = "off"


@dataclass(frozen=True)
class TunedRow:
    """A technique with its knobs, and its measured cycles (an estimate where ``board`` is an emulated one).

    ``exact`` is False for a row of the same problem with another epilogue.
    """

    technique: str
    knobs: Mapping[str, int]
    cycles: float
    board: str
    exact: bool = True


def user_folder() -> Path:
    """Where rows of a user's own tuning are."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_data_path("tvm_lowbit") / "tuned"


def rows(problem: DotProblem, core: CoreSpec) -> tuple[list[TunedRow], list[str]]:
    """Rows that fit a problem, fastest first, at most one for a technique; and why others were left out.

    Rows for the same problem with another epilogue are taken where there are none for its own.
    """
    if os.environ.get(VARIABLE) == OFF:
        return [], []
    fitting: list[TunedRow] = []
    ignored: list[str] = []
    for folder in (user_folder(), SHIPPED):
        found, reasons = _of_file(folder / f"{core.name}.json", problem, core)
        ignored += reasons
        if found and not fitting:
            fitting = found
    return fitting, ignored


def row(problem: DotProblem, core: CoreSpec) -> TunedRow | None:
    """The fastest row that fits, or None."""
    return next(iter(rows(problem, core)[0]), None)


def choose(problem: DotProblem, core: CoreSpec, only: str | None = None) -> Choice:
    """The technique of the fastest tuned row, else what `select` says; why names rows that were left out.

    Raises
    ------
    LowbitError
        As `select` does.
    """
    found, ignored = rows(problem, core)
    note = "".join(f"; tuned row ignored: {reason}" for reason in ignored)
    if only is not None or not found:
        choice = select(problem, core, only)
        return Choice(choice.technique, choice.why + note)
    best = found[0]
    rest = "".join(f", {name}={value}" for name, value in sorted(best.knobs.items()))
    likeness = "" if best.exact else ", with another epilogue"
    why = f"tuned on {best.board}{likeness}: {best.cycles:,.0f} cycles{rest}"
    return Choice(TECHNIQUES[best.technique], why + note)


def knobs(technique: Technique, problem: DotProblem, core: CoreSpec) -> Knobs:
    """The knobs of the technique's tuned row, if there is one; the technique's own for the rest."""
    own = technique.knobs(problem, core)
    tuned = next((row.knobs for row in rows(problem, core)[0] if row.technique == technique.name), {})
    return {**own, **tuned}


def unfit(name: str, values: Mapping[str, int], problem: DotProblem, core: CoreSpec) -> str | None:
    """Why a technique with these knobs is not to be used for a problem, or None."""
    if name not in TECHNIQUES:
        return f"there is no technique {name}"
    technique = TECHNIQUES[name]
    reason = technique.declines(problem, core)
    if reason is not None:
        return f"{name} declines: {reason}"
    space = technique.space(problem, core)
    for knob, value in values.items():
        if knob not in space:
            return f"{name} has no knob {knob}"
        if value not in space[knob]:
            return f"{name} takes {knob} of {', '.join(map(str, space[knob]))}, not {value}"
    return None


def _of_file(path: Path, problem: DotProblem, core: CoreSpec) -> tuple[list[TunedRow], list[str]]:
    try:
        entries = _read(path, path.stat().st_mtime_ns)
    except OSError:
        return [], []
    except ValueError as error:
        return [], [f"{path}: {error}"]
    found: list[TunedRow] = []
    ignored: list[str] = []
    for key in _keys(problem_key(problem), entries):
        for row in entries[key]:
            reason = unfit(row.technique, row.knobs, problem, core)
            if reason is not None:
                ignored.append(reason)
            elif row.technique not in {other.technique for other in found}:
                exact = key == problem_key(problem)
                found.append(TunedRow(row.technique, row.knobs, row.cycles, row.board, exact))
        if found:
            break
    return sorted(found, key=lambda row: row.cycles), list(dict.fromkeys(ignored))


def _keys(key: str, entries: Mapping[str, Any]) -> Iterator[str]:
    """The key itself, then those of the same problem with other epilogues, most alike first."""
    if key in entries:
        yield key
    wanted = problem_of(key).epilogue

    def unlike(other: str) -> tuple[int, int, str]:
        has = problem_of(other).epilogue
        if wanted is None or has is None:
            return (0 if wanted is has is None else 1, 0, other)
        return (abs(wanted.levels - has.levels), abs(wanted.side_bits - has.side_bits), other)

    family = family_of(key)
    yield from sorted((other for other in entries if other != key and family_of(other) == family), key=unlike)


@lru_cache(maxsize=16)
def _read(path: Path, _changed: int) -> dict[str, list[TunedRow]]:
    """The rows of a file by key.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or holds anything else.
    """
    content = json.loads(path.read_text())
    try:
        found = {str(key): [_row(fields) for fields in entries] for key, entries in content["problems"].items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a file of tuned rows ({type(error).__name__}: {error})") from error
    for key in found:
        problem_of(key)
    return found


def _row(fields: Mapping[str, Any]) -> TunedRow:
    knobs = {str(name): int(value) for name, value in fields["knobs"].items()}
    return TunedRow(str(fields["technique"]), knobs, float(fields["cycles"]), str(fields["board"]))
