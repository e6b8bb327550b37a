"""Tuned rows: for each problem of a core, the techniques and knobs that measured best; `build` takes them by itself.

Shipped rows are in ``schedules/tuned/<core>.json``, those that a user's own tuning found in the same form in
`user_folder`, which count first. A row is held against the techniques as they are: one that no longer fits, or whose
kernel is not the one that was measured, is left out with a reason.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import platformdirs
import tvm_ffi

from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.problem_key import family_of, problem_key, problem_of
from schedules.techniques import TECHNIQUES, Choice, Technique, select
from schedules.techniques.base import Knobs

SHIPPED = Path(__file__).parent / "tuned"
# Another folder than the platform's for a user's own rows; "off": take no tuned rows at all.
VARIABLE = "TVM_LOWBIT_TUNED"
OFF = "off"
# A technique so much slower than the best is no choice anywhere in a network, and has no row.
NEAR = 1.3


@dataclass(frozen=True)
class TunedRow:
    """A technique with its knobs, and its measured cycles (an estimate where ``board`` is an emulated one).

    ``kernel`` is its `fingerprint`; ``exact`` is False for a row of the same problem with another epilogue.
    """

    technique: str
    knobs: Mapping[str, int]
    cycles: float
    board: str
    kernel: str
    exact: bool = True


@dataclass(frozen=True)
class Entry:
    """What a file holds for a problem: the techniques that were measured, and rows of the fastest, fastest first."""

    tried: frozenset[str]
    rows: tuple[TunedRow, ...]


@dataclass(frozen=True)
class Tuned:
    """What is known of a problem: rows that fit, why others do not, and the techniques that were not measured."""

    rows: tuple[TunedRow, ...] = ()
    ignored: tuple[str, ...] = ()
    untried: tuple[str, ...] = ()


def user_folder() -> Path:
    """Where rows of a user's own tuning are."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_data_path("tvm_lowbit") / "tuned"


def tuned(problem: DotProblem, core: CoreSpec) -> Tuned:
    """Rows that fit a problem, fastest first, at most one for a technique.

    Rows for the same problem with another epilogue are taken where there are none for its own. Where the fastest is not
    the kernel that was measured, none counts: what was slower then may be faster now.
    """
    if os.environ.get(VARIABLE) == OFF:
        return Tuned()
    best = Tuned()
    for folder in (user_folder(), SHIPPED):
        found = _of_file(folder / f"{core.name}.json", problem, core)
        best = Tuned(
            best.rows or found.rows, best.ignored + found.ignored, best.untried if best.rows else found.untried
        )
    return best


def row(problem: DotProblem, core: CoreSpec) -> TunedRow | None:
    """The fastest row that fits, or None."""
    return next(iter(tuned(problem, core).rows), None)


def choose(problem: DotProblem, core: CoreSpec, only: str | None = None) -> Choice:
    """The technique of the fastest tuned row, else what `select` says; why names rows that were left out.

    A technique that was not there to be measured is taken if its estimate is lower than that of the row's.

    Raises
    ------
    LowbitError
        As `select` does.
    """
    if only is not None:
        return select(problem, core, only)
    found = tuned(problem, core)
    note = "".join(f"; tuned row ignored: {reason}" for reason in found.ignored)
    if found.rows:
        best = found.rows[0]
        bar = TECHNIQUES[best.technique].cycles(problem, core)
        better = [name for name in found.untried if TECHNIQUES[name].cycles(problem, core) < bar]
        if not better:
            rest = "".join(f", {name}={value}" for name, value in sorted(best.knobs.items()))
            likeness = "" if best.exact else ", with another epilogue"
            why = f"tuned on {best.board}{likeness}: {best.cycles:,.0f} cycles{rest}"
            return Choice(TECHNIQUES[best.technique], why + note)
        note += f"; tuned row ignored: {', '.join(better)} was not measured"
    choice = select(problem, core)
    return Choice(choice.technique, choice.why + note)


def cycles(technique: Technique, problem: DotProblem, core: CoreSpec) -> float:
    """What a technique takes: measured where it has a row, else its own estimate on the scale of what was measured.

    One that was measured and has no row was slower than the fastest by a factor of `NEAR` or more.
    """
    found = tuned(problem, core)
    for row in found.rows:
        if row.technique == technique.name:
            return row.cycles
    own = technique.cycles(problem, core)
    if not found.rows:
        return own
    best = found.rows[0]
    scaled = own * best.cycles / TECHNIQUES[best.technique].cycles(problem, core)
    return scaled if technique.name in found.untried else max(scaled, NEAR * best.cycles)


def knobs(technique: Technique, problem: DotProblem, core: CoreSpec) -> Knobs:
    """The knobs of the technique's tuned row, if there is one; the technique's own for the rest."""
    own = technique.knobs(problem, core)
    rows = tuned(problem, core).rows
    return {**own, **next((row.knobs for row in rows if row.technique == technique.name), {})}


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


def fingerprint(key: str, name: str, values: Mapping[str, int], core: CoreSpec) -> str:
    """What tells a kernel from others: a hash of the program that a technique writes for a problem's key."""
    at = key, name, tuple(sorted(values.items())), repr(core)
    if at not in _fingerprints:
        problem, technique = problem_of(key), TECHNIQUES[name]
        function = technique.build(problem, {**technique.knobs(problem, core), **values}, core)
        _fingerprints[at] = f"{tvm_ffi.structural_hash(function) % 2**64:016x}"
    return _fingerprints[at]


# Each is asked for several times in a build, and takes a tenth of a second.
_fingerprints: dict[tuple[object, ...], str] = {}


def _of_file(path: Path, problem: DotProblem, core: CoreSpec) -> Tuned:
    try:
        entries = _read(path, path.stat().st_mtime_ns)
    except OSError:
        return Tuned()
    except ValueError as error:
        return Tuned(ignored=(f"{path}: {error}",))
    ignored: list[str] = []
    for key in _keys(problem_key(problem), entries):
        found: dict[str, TunedRow] = {}
        for row in entries[key].rows:
            reason = unfit(row.technique, row.knobs, problem, core)
            changed = reason is None and fingerprint(key, row.technique, row.knobs, core) != row.kernel
            if changed:
                reason = f"the kernel of {row.technique} has changed since it was measured"
            if reason is None:
                found.setdefault(row.technique, replace(row, exact=key == problem_key(problem)))
                continue
            ignored.append(reason)
            if changed and not found:
                break
        if found:
            untried = [name for name, t in TECHNIQUES.items() if name not in entries[key].tried]
            able = tuple(name for name in untried if TECHNIQUES[name].declines(problem, core) is None)
            rows = sorted(found.values(), key=lambda row: row.cycles)
            return Tuned(tuple(rows), tuple(dict.fromkeys(ignored)), able)
    return Tuned(ignored=tuple(dict.fromkeys(ignored)))


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
def _read(path: Path, _changed: int) -> dict[str, Entry]:
    """The entries of a file by key.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or holds anything else.
    """
    content = json.loads(path.read_text())
    try:
        found = {str(key): _entry(fields) for key, fields in content["problems"].items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a file of tuned rows ({type(error).__name__}: {error})") from error
    for key in found:
        problem_of(key)
    return found


def _entry(fields: Mapping[str, Any]) -> Entry:
    rows = sorted(map(_row, fields["rows"]), key=lambda row: row.cycles)
    return Entry(frozenset(map(str, fields["tried"])), tuple(rows))


def _row(fields: Mapping[str, Any]) -> TunedRow:
    knobs = {str(name): int(value) for name, value in fields["knobs"].items()}
    return TunedRow(
        str(fields["technique"]), knobs, float(fields["cycles"]), str(fields["board"]), str(fields["kernel"])
    )
