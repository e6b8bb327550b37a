"""``Pipeline``: what a core's execution units do per cycle, class of instructions by class.

The classes are those of `tvm_lowbit.metering.decode`. Figures are fitted to measured throughputs and latencies; each
core's file names its source, and a test holds the tables against the measured figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

# Every class of instructions that a pipeline must know, vector classes first.
VECTOR_KINDS = frozenset(
    {
        "logic",
        "simple",
        "simple3",
        "movi",
        "count",
        "count3",
        "adalp",
        "aba",
        "across_b",
        "across_h",
        "across_s",
        "shift",
        "shift_acc",
        "shift_acc_round",
        "shift_sat",
        "shift_insert",
        "shift_reg",
        "shift_reg_sat",
        "narrow",
        "narrow_add",
        "narrow_round",
        "shift_narrow",
        "shift_narrow_sat",
        "mul",
        "mul_long",
        "tbl1",
        "tbl2",
        "tbl3",
        "tbl4",
        "tbx1",
        "tbx2",
        "tbx3",
        "tbx4",
        "dot",
        "fadd",
        "faddp",
        "fmul",
        "fma",
        "fsimple",
        "fconv",
        "fdiv",
        "fcmp",
        "to_gpr",
        "from_gpr",
        "from_gpr_lane",
    }
)
MEMORY_KINDS = frozenset(
    {
        "load",
        "load_pair",
        "store",
        "store_pair",
        "vload",
        "vload_pair",
        "vload_lane",
        "vload2",
        "vload3",
        "vload4",
        "vstore",
        "vstore_pair",
        "vstore_lane",
        "vstore2",
        "vstore3",
        "vstore4",
    }
)
SCALAR_KINDS = frozenset(
    {
        "alu",
        "alu_lsl",
        "alu_shift",
        "shift_imm",
        "shift_var",
        "insert",
        "mul_x",
        "mul_w",
        "mulh",
        "div",
        "branch",
        "nop",
        "system",
    }
)
KINDS = VECTOR_KINDS | MEMORY_KINDS | SCALAR_KINDS


@dataclass(frozen=True)
class Cost:
    """What one instruction of a class takes; memory classes: per register moved.

    Attributes
    ----------
    wide, narrow : mapping of str to float
        Cycles of each unit, for the 128-bit form and for shorter ones.
    latency : int
        Cycles until the result can be read; of several registers loaded, the first.
    chain : int or None
        Cycles until the result can be accumulated onto by the same class; None: as ``latency``.
    narrow_latency : int or None
        ``latency`` of shorter forms where it differs.
    """

    wide: Mapping[str, float]
    narrow: Mapping[str, float]
    latency: int
    chain: int | None = None
    narrow_latency: int | None = None

    def __post_init__(self) -> None:
        if self.latency < 1 or (self.chain is not None and not 1 <= self.chain <= self.latency):
            raise ValueError(f"latencies must be positive, and a chain no slower than a result: {self}")
        if any(amount < 0 for amount in (*self.wide.values(), *self.narrow.values())):
            raise ValueError(f"units cannot be used for negative times: {self}")

    def latency_of(self, wide: bool) -> int:
        """Cycles until the result of this form can be read."""
        return self.latency if wide or self.narrow_latency is None else self.narrow_latency


@dataclass(frozen=True)
class Pipeline:
    """The execution units of a core.

    Attributes
    ----------
    in_order : bool
        Whether instructions start in program order, and so latencies are not hidden.
    issue : int
        Slots a cycle; an instruction takes one, a 128-bit vector operation ``wide_slots``.
    units : mapping of str to int
        How many of each unit there are.
    costs : mapping of str to Cost
        By class, all of `KINDS`.
    source : str
        Where the figures were measured.
    """

    in_order: bool
    issue: int
    wide_slots: int
    units: Mapping[str, int]
    costs: Mapping[str, Cost]
    source: str

    def __post_init__(self) -> None:
        if set(self.costs) != KINDS:
            raise ValueError(f"missing or unknown classes: {sorted(set(self.costs) ^ KINDS)}")
        unknown = {u for cost in self.costs.values() for u in (*cost.wide, *cost.narrow)} - set(self.units)
        if unknown:
            raise ValueError(f"units without a number: {sorted(unknown)}")
        object.__setattr__(self, "units", MappingProxyType(dict(self.units)))
        object.__setattr__(self, "costs", MappingProxyType(dict(self.costs)))

    def slots(self, kind: str, wide: bool) -> int:
        """Issue slots of one instruction."""
        return self.wide_slots if wide and kind in VECTOR_KINDS else 1


def same(latency: int, chain: int | None = None, /, **units: float) -> Cost:
    """A class whose short forms cost as much as its 128-bit form."""
    return Cost(units, units, latency, chain)


def halved(latency: int, chain: int | None = None, /, **units: float) -> Cost:
    """A class whose short forms take half the time."""
    return Cost(units, {unit: amount / 2 for unit, amount in units.items()}, latency, chain)
