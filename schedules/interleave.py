"""``interleaved``: two streams of instructions as one, in the order in which Cortex-A53 starts them without waiting.

The core starts two instructions a cycle in their order; one whose operands or unit are not free holds up all after it.
So cycle by cycle, by the units and latencies of `schedules.pipelines.cortex_a53`, whatever can start is taken: first of
the vector stream, which keeps its order, then of the general one, of which what waits may be passed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from schedules.pipelines.cortex_a53 import PIPELINE
from schedules.pipelines.model import Cost

# Classes of instructions in the core's tables: of vectors, of general registers, and of those with a shifted operand.
_VECTOR = {
    "add": "simple",
    "addp": "simple3",
    "bsl": "count",
    "cnt": "count",
    "eor": "logic",
    "ins": "from_gpr_lane",
    "ldr": "vload",
    "mla": "mul",
    "mul": "mul",
    "str": "vstore",
    "sub": "simple",
    "uaddlp": "count3",
    "uaddw": "simple3",
    "uaddw2": "simple3",
    "ushr": "shift",
    "usra": "shift_acc",
}
_SCALAR = {
    "add": "alu",
    "extr": "shift_imm",
    "ldp": "load_pair",
    "ldr": "load",
    "lsr": "shift_imm",
    "madd": "mul_x",
    "mov": "alu",
    "mul": "mul_x",
    "subs": "alu",
}
_SHIFTED = {"lsl": "alu_lsl", "lsr": "alu_shift"}
# Those that add to, or choose by, what their register holds.
_ADDING = frozenset({"bsl", "ins", "mla", "usra"})
# Those of vector registers that are of 64 bits.
_NARROW = frozenset({"ins", "ldr"})
# General instructions among which the next one is looked for; how many of them may be late before they go first: what
# is fastest is found by trying.
_AHEAD = 8
_LATE = (4, 6, 8, 10, 12, 16)


@dataclass(frozen=True)
class _Line:
    """An instruction.

    Attributes
    ----------
    text : str
        As it is written.
    cost : Cost
        Of its class.
    wide : bool
        Whether its operands are whole vector registers.
    made, read : tuple of str
        Registers: results in their order; those that it waits for.
    moved : tuple of str
        A base that moves along, at once.
    chained : str
        The one among those that an instruction of its class may hand over sooner.
    """

    text: str
    cost: Cost
    wide: bool
    made: tuple[str, ...]
    read: tuple[str, ...]
    moved: tuple[str, ...]
    chained: str

    @property
    def rank(self) -> int:
        """Multiplications come first, as they are the fewest at a time; loads last, as they wait for nothing."""
        return 0 if "M" in self.cost.narrow else 2 if "ls" in self.cost.narrow else 1

    @property
    def uses(self) -> list[tuple[str, int, int]]:
        """Units: which, how many of it, for how many cycles."""
        found = self.cost.wide if self.wide else self.cost.narrow
        number = {unit: min(PIPELINE.units[unit], max(1, round(amount))) for unit, amount in found.items()}
        return [(unit, n, round(found[unit] * max(1, len(self.made)) / n) or 1) for unit, n in number.items()]


def _line(text: str) -> _Line:
    name, _, rest = text.partition(" ")
    found = [f"{'x' if kind == 'x' else 'v'}{number}" for kind, number in re.findall(r"\b([dqvx])(\d+)", rest)]
    vector, shift = found[0].startswith("v"), re.search(r", (ls[lr]) #", rest)
    kind = _VECTOR[name] if vector else _SHIFTED[shift[1]] if shift else _SCALAR[name]
    results = {"ldp": 2, "str": 0}.get(name, 1)
    read = found[results:] + (found[:1] if name in _ADDING else [])
    wide = vector and name not in _NARROW
    chained = found[0] if name == "mla" else ""
    moved = re.findall(r"\[(x\d+)\], #", rest)
    return _Line(text, PIPELINE.costs[kind], wide, tuple(found[:results]), tuple(read), tuple(moved), chained)


class _Core:
    """What the core does."""

    def __init__(self) -> None:
        self.now = 0
        self.ready: dict[str, int] = {}
        self.maker: dict[str, Cost] = {}
        self.free = {unit: [0] * number for unit, number in PIPELINE.units.items()}

    def can(self, line: _Line, now: int) -> bool:
        """Whether an instruction can start."""
        for register in line.read:
            ready = self.ready.get(register, 0)
            if register == line.chained and self.maker.get(register) is line.cost and line.cost.chain:
                ready -= line.cost.latency - line.cost.chain
            if ready > now:
                return False
        return all(sorted(self.free[unit])[n - 1] <= now for unit, n, _ in line.uses)

    def start(self, line: _Line, now: int) -> None:
        """Start it."""
        for unit, n, cycles in line.uses:
            left = sorted(self.free[unit])
            self.free[unit] = [now + cycles] * n + left[n:]
        for i, register in enumerate(line.made):
            self.ready[register] = now + line.cost.latency_of(line.wide) + i
            self.maker[register] = line.cost


def interleaved(vector: Sequence[str], general: Sequence[str]) -> list[str]:
    """All instructions in the order in which they are to stand; the streams share no registers that either writes to.

    Parameters
    ----------
    vector : sequence of str
        They keep their order.
    general : sequence of str
        They keep the order of those that share registers. They may have vector operations among them, on registers of
        their own or such that the order does not matter.
    """
    return list(_fastest(tuple(vector), tuple(general)))


@lru_cache(maxsize=64)
def _fastest(vector: tuple[str, ...], general: tuple[str, ...]) -> tuple[str, ...]:
    first, second = [_line(text) for text in vector], [_line(text) for text in general]

    def way(behind: int) -> tuple[list[_Line], int]:
        # A round begins as the one before left the core.
        core = _Core()
        _interleaved(core, [*first], [*second], behind)
        lines = _interleaved(core, [*first], [*second], behind)
        return lines, _again(core, lines)

    return tuple(line.text for line in min(map(way, _LATE), key=lambda found: found[1])[0])


def _again(core: _Core, lines: list[_Line]) -> int:
    """Cycles that they take in this order after themselves."""
    begin, started = core.now, 0
    for line in lines:
        while started == PIPELINE.issue or not core.can(line, core.now):
            core.now, started = core.now + 1, 0
        core.start(line, core.now)
        started += 1
    return core.now - begin


def _interleaved(core: _Core, first: list[_Line], second: list[_Line], behind: int) -> list[_Line]:
    """The order if so many general instructions behind an even pace go first."""
    lines: list[_Line] = []
    number, total = len(first), len(second)
    while first or second:
        late = total - len(second) + behind < (number - len(first)) * total // max(1, number)
        started = 0
        while started < PIPELINE.issue:
            taken = _general(second, core, core.now) if late else None
            if taken is None and first and core.can(first[0], core.now):
                taken = first.pop(0)
            taken = taken or _general(second, core, core.now)
            if taken is None:
                break
            core.start(taken, core.now)
            lines.append(taken)
            started += 1
        core.now += 1
    return lines


def _general(waiting: list[_Line], core: _Core, now: int) -> _Line | None:
    """Take one of a few that can start, past others whose registers are not its own: multiplications first."""
    written: set[str] = set()
    read: set[str] = set()
    able: list[tuple[int, int]] = []
    for i, line in enumerate(waiting[:_AHEAD]):
        made = {*line.made, *line.moved}
        apart = written.isdisjoint(made) and written.isdisjoint(line.read) and read.isdisjoint(made)
        if apart and core.can(line, now):
            able.append((line.rank, i))
        written.update(made)
        read.update(line.read)
    return waiting.pop(min(able)[1]) if able else None
