"""``woven``: instructions of general registers in the places that a vector loop leaves free on Cortex-A53.

The core starts two instructions a cycle in their order; an instruction whose operands are not there yet holds up all
after it. So one is put in only where it can start at once, by the latencies of `schedules.pipelines.cortex_a53`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SLOTS = 2
# Cycles, and instructions that start in the first of them.
Bundle = tuple[int, list[str]]
# Cycles until a result can be read; of all others 1, or 2 if an operand is shifted.
_LATENCIES = {"ldr": 3, "mul": 4, "madd": 4, "lsr": 2}
# Cycles that a unit is busy of which there is one.
_BUSY = {"ldr": ("load", 1), "mul": ("multiply", 2), "madd": ("multiply", 2)}
# Places short of an even pace after which instructions wait for their operands rather than be put off.
_LATE = 16
# Instructions among which the next one is looked for.
_AHEAD = 8


class _Others:
    """What is to be put in, and what the general registers and their units are doing."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)
        self.ready: dict[str, int] = {}
        self.free: dict[str, int] = {}

    def earliest(self, line: str) -> int:
        """When an instruction can start."""
        unit, _ = _BUSY.get(_name(line), ("", 0))
        return max([self.free.get(unit, 0), *(self.ready.get(register, 0) for register in _registers(line)[1:])])

    def next(self, now: int, late: bool) -> str | None:
        """Take the first of a few instructions that can start, past others whose registers are not its own."""
        for i, line in enumerate(self.lines[: 1 if late else _AHEAD]):
            passed, (to, *read) = self.lines[:i], _registers(line)
            if any(to in _registers(other) or _registers(other)[0] in read for other in passed):
                continue
            if late or self.earliest(line) <= now:
                del self.lines[i]
                if _name(line) in _BUSY:
                    unit, cycles = _BUSY[_name(line)]
                    self.free[unit] = now + cycles
                self.ready[to] = now + _LATENCIES.get(_name(line), 1 + ("ls" in line))
                return line
        return None


def _name(line: str) -> str:
    return line.split(" ", 1)[0]


def _registers(line: str) -> list[str]:
    """The register that is written to, then those that are read."""
    return re.findall(r"x\d+", line)


def woven(bundles: Sequence[Bundle], others: Sequence[str]) -> list[str]:
    """All instructions in the order in which they are to stand.

    Parameters
    ----------
    bundles : sequence of Bundle
        The vector loop; it waits for nothing of the others.
    others : sequence of str
        They come no later than at an even pace, for which they get cycles of their own where no places are left.
    """
    lines: list[str] = []
    total, now, passed = sum(length for length, _ in bundles), 0, 0
    waiting = _Others(others)

    def take(number: int, late: bool = False) -> None:
        for _ in range(number):
            line = waiting.next(now, late) if waiting.lines else None
            lines.extend([] if line is None else [line])

    for length, own in bundles:
        lines += own
        if any(_name(line) == "ldr" for line in own):
            waiting.free["load"] = now + length
        for cycle in range(length):
            take(SLOTS - (0 if cycle else len(own)))
            now += 1
        passed += length
        due = len(others) * (total - passed) // total
        while len(waiting.lines) >= due + SLOTS:
            before = len(lines)
            take(SLOTS, len(waiting.lines) >= due + _LATE)
            now += 1
            if len(lines) - before < SLOTS:
                break
    return [*lines, *waiting.lines]
