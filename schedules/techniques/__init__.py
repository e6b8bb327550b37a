"""``TECHNIQUES``: the ways to compute a `DotProblem`, one file each; order is priority between equal estimates."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.errors import LowbitError
from schedules.techniques.base import Technique
from schedules.techniques.bit_madd import BitMadd
from schedules.techniques.bit_select import BitSelect
from schedules.techniques.bit_serial import BitSerial
from schedules.techniques.depthwise import Depthwise
from schedules.techniques.mla_madd import MlaMadd
from schedules.techniques.portable import Portable
from schedules.techniques.reference import Reference
from schedules.techniques.smlal import Sdot, Smlal
from schedules.techniques.tbl_lookup import TblLookup
from schedules.techniques.ternary import Ternary
from schedules.techniques.u8_mla import U8Mla
from schedules.techniques.winograd import Winograd, WinogradSdot
from schedules.techniques.winograd_mla import WinogradMla

__all__ = ["TECHNIQUES", "Choice", "Technique", "register", "select"]

_ROWS: tuple[Technique, ...] = (
    BitSerial(),
    BitSelect(),
    BitMadd(),
    Ternary(),
    MlaMadd(),
    U8Mla(),
    TblLookup(),
    Winograd(),
    WinogradSdot(),
    WinogradMla(),
    Depthwise(),
    Smlal(),
    Sdot(),
    Portable(),
    Reference(),
)
_TABLE: dict[str, Technique] = {}
TECHNIQUES: Mapping[str, Technique] = MappingProxyType(_TABLE)


def register(technique: Technique) -> None:
    """Add a row. A name that is taken is refused with ``ValueError``."""
    if technique.name in _TABLE:
        raise ValueError(f"technique {technique.name!r} is registered already")
    _TABLE[technique.name] = technique


for _row in _ROWS:
    register(_row)


@dataclass(frozen=True)
class Choice:
    """The technique taken for a problem, and why."""

    technique: Technique
    why: str


def select(problem: DotProblem, core: CoreSpec, only: str | None = None, *, without: Collection[str] = ()) -> Choice:
    """The technique with the lowest estimated cycles among those that do not decline.

    Parameters
    ----------
    problem : DotProblem
        What is to be computed; `DotProblem.declines` must have been asked before.
    core : CoreSpec
        Where it will run.
    only : str, optional
        Take this technique whatever its estimate, if it does not decline.
    without : collection of str
        Take none of these.

    Raises
    ------
    LowbitError
        If ``only`` is unknown, or every technique declines.
    """
    if only is not None and only not in TECHNIQUES:
        raise LowbitError("technique", f"one of {', '.join(TECHNIQUES)}", repr(only))
    costs: dict[str, float] = {}
    declined: list[str] = []
    for name, technique in TECHNIQUES.items():
        reason = "asked to do without" if name in without else technique.declines(problem, core)
        if reason is not None:
            declined.append(f"{name} declines: {reason}")
        elif name == only:
            return Choice(technique, "asked for")
        else:
            costs[name] = technique.cycles(problem, core)
    if not costs:
        raise LowbitError(f"problem {problem.name}", "one that some technique takes", "; ".join(declined))
    best = min(costs, key=costs.__getitem__)
    finite = [f"{name} {cost:,.0f}" for name, cost in costs.items() if cost != float("inf")]
    return Choice(TECHNIQUES[best], "; ".join([f"estimated cycles: {', '.join(finite)}", *declined]))
