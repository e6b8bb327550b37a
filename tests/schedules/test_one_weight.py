"""Layers whose weights are all equal, as a network whose training died has: every technique, every code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from kernel_runner import Kernel, Machine, build_kernel, random_operands

from schedules.cores import CORES, CoreSpec
from schedules.dot_problem import DotProblem, Operand
from schedules.techniques import TECHNIQUES

IMAGE = DotProblem(1, 6, 6, 40, 9, Operand(2), Operand(2), (3, 3), padding=(1, 1, 1, 1))


def one_weight(bits: int) -> Iterator[Operand]:
    """All weights one code of ``bits``, read from zero, around zero and in bipolar steps."""
    for code in sorted({0, 1, 1 << (bits - 1), (1 << bits) - 1}):
        for multiplier, offset in ((1, 0), (1, -1 << (bits - 1)), (1, -code), (2, 1 - (1 << bits))):
            yield Operand(bits, multiplier, offset, uniform=True, span=(code, code))


def problems(a: int, w: int) -> Iterator[DotProblem]:
    for weights in one_weight(w):
        yield replace(IMAGE, a=Operand(a), w=weights)


@pytest.mark.parametrize("name", CORES)
def test_each_technique_takes_or_declines_it(name: str) -> None:
    core = CORES[name]
    for a in range(1, 9):
        for w in range(1, 9):
            for problem in problems(a, w):
                for technique in TECHNIQUES.values():
                    if technique.declines(problem, core) is None:
                        assert technique.cycles(problem, core) > 0
                        assert technique.knobs(problem, core)


def kernels(core: CoreSpec) -> Iterator[Kernel]:
    for a, w in ((1, 1), (3, 3)):
        for problem in problems(a, w):
            operands = random_operands(problem)
            for technique in TECHNIQUES.values():
                if technique.declines(problem, core) is None:
                    yield build_kernel(technique, problem, core, operands)


@pytest.mark.parametrize("core", ["host", "cortex-a53", "cortex-a76"])
def test_every_technique_is_exact_on_it(core: str, machines: Callable[[str], Machine]) -> None:
    machine = machines(core)
    machine.check(list(kernels(machine.core)))
