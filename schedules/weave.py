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
# Instructions that start in one cycle.
Bundle = list[str]
# Classes of instructions in the core's tables; all others are arithmetic.
_KINDS = {"ldr": "load", "ldp": "load_pair", "mul": "mul_x", "madd": "mul_x", "lsr": "shift_imm"}
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
        return max([0, *units, *(self.ready.get(register, 0) for register in _registers(line)[1])])

    def next(self, now: int, late: bool, loads: int) -> str | None:
        """Take the first of a few instructions that can start, past others whose registers are not its own.

        From the cycle ``loads`` on the vector loop loads itself.
        """
        for i, line in enumerate(self.lines[: 1 if late else _AHEAD]):
            passed, (written, read) = self.lines[:i], _registers(line)
            if any(written & set().union(*_registers(other)) or _registers(other)[0] & read for other in passed):
                continue
            busy = _busy(line)
            if late or (self.earliest(line) <= now and now + busy.get(_LOADS, 0) <= loads):
                del self.lines[i]
                self.free |= {unit: now + int(cycles) for unit, cycles in busy.items()}
                self.ready |= {register: now + _cost(line).latency + n for n, register in enumerate(_results(line))}
                return line
        return None


def _name(line: str) -> str:
    return line.split(" ", 1)[0]


def _cost(line: str) -> Cost:
    """What the core's tables say."""
    return PIPELINE.costs[_KINDS.get(_name(line), "alu_lsl" if "ls" in line else "alu")]


def _busy(line: str) -> Mapping[str, float]:
    """Units of which there is one, and for how many cycles."""
    number = len(_results(line))
    return {unit: cycles * number for unit, cycles in _cost(line).narrow.items() if PIPELINE.units[unit] == 1}


def _results(line: str) -> list[str]:
    """The registers that an instruction makes, in their order."""
    return re.findall(r"x\d+", line)[: 2 if _name(line) == "ldp" else 1]


def _registers(line: str) -> tuple[set[str], set[str]]:
    """The registers that are written to, bases that move along among them, and those that are read."""
    found, made = re.findall(r"x\d+", line), _results(line)
    moved = re.findall(r"\[(x\d+)\], #", line)
    return {*made, *moved}, set(found[len(made) :])


def woven(bundles: Sequence[Bundle], others: Sequence[str]) -> list[str]:
    """All instructions in the order in which they are to stand.

    Parameters
    ----------
    bundles : sequence of Bundle
        The vector loop; it waits for nothing of the others.
    others : sequence of str
        They come as places are left; where too few are left before the end, they get cycles of their own.
    """
    lines: list[str] = []
    free = [max(0, SLOTS - len(own)) for own in bundles]
    total, now, passed = sum(free), 0, 0
    waiting = _Others(others)

    def take(number: int, late: bool, until: int) -> None:
        for _ in range(number):
            line = waiting.next(now, late, until) if waiting.lines else None
            lines.extend([] if line is None else [line])

    for own, left, loads in zip(bundles, free, _loads(bundles), strict=True):
        lines += own
        if _is_load(own):
            waiting.free[_LOADS] = now + 1
        take(left, False, now + loads)
        now += 1
        passed += left
        due = len(others) * (total - passed) // max(1, total)
        while len(waiting.lines) >= due + SLOTS:
            before = len(lines)
            take(SLOTS, len(waiting.lines) >= due + _LATE, now + _AHEAD)
            now += 1
            if len(lines) - before < SLOTS:
                break
    return [*lines, *waiting.lines]


def _is_load(own: Bundle) -> bool:
    return any(_name(line).startswith("ld") for line in own)


def _loads(bundles: Sequence[Bundle]) -> list[int]:
    """Of each bundle, cycles to the next one that loads."""
    distances, distance = [], len(bundles)
    for own in reversed(bundles):
        distances.append(distance + 1)
        distance = 0 if _is_load(own) else distance + 1
    return distances[::-1]
