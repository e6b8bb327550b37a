"""``woven``: instructions of general registers in the places that a vector loop leaves free on Cortex-A53.

The core starts two instructions a cycle in their order; an instruction whose operands are not there yet holds up all
after it. So one is put in only where it can start at once, by the latencies of `schedules.pipelines.cortex_a53`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from schedules.pipelines.cortex_a53 import PIPELINE
from schedules.pipelines.model import Cost

SLOTS = PIPELINE.issue
# Cycles, and instructions that start in the first of them.
Bundle = tuple[int, list[str]]
# Classes of instructions in the core's tables; all others are arithmetic.
_KINDS = {"ldr": "load", "mul": "mul_x", "madd": "mul_x", "lsr": "shift_imm"}
_LOADS = "ls"
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
        units = [self.free.get(unit, 0) for unit in _busy(line)]
        return max([0, *units, *(self.ready.get(register, 0) for register in _registers(line)[1:])])

    def next(self, now: int, late: bool) -> str | None:
        """Take the first of a few instructions that can start, past others whose registers are not its own."""
        for i, line in enumerate(self.lines[: 1 if late else _AHEAD]):
            passed, (to, *read) = self.lines[:i], _registers(line)
            if any(to in _registers(other) or _registers(other)[0] in read for other in passed):
                continue
            if late or self.earliest(line) <= now:
                del self.lines[i]
                self.free |= {unit: now + int(cycles) for unit, cycles in _busy(line).items()}
                self.ready[to] = now + _cost(line).latency
                return line
        return None


def _name(line: str) -> str:
    return line.split(" ", 1)[0]


def _cost(line: str) -> Cost:
    """What the core's tables say."""
    return PIPELINE.costs[_KINDS.get(_name(line), "alu_lsl" if "ls" in line else "alu")]


def _busy(line: str) -> Mapping[str, float]:
    """Units of which there is one, and for how many cycles."""
    return {unit: cycles for unit, cycles in _cost(line).narrow.items() if PIPELINE.units[unit] == 1}


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
            waiting.free[_LOADS] = now + length
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
