"""``ternary``: exact on every shape with weights of -1, 0 and +1, and declined where others may occur."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from kernel_runner import Machine, build_kernel, constant_operands, evaluate, random_operands

from schedules.cores import CORES
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.layout import Layout
from schedules.techniques.ternary import Ternary

Machines = Callable[[str], Machine]
FIRST, LAST = Operand(2, 1, -1, span=(0, 2), uniform=True), Operand(2, 1, -2, span=(1, 3), uniform=True)
BASE = DotProblem(1, 5, 6, 40, 7, Operand(2), FIRST, (3, 3), padding=(1, 1, 1, 1))
PROBLEMS = (
    BASE,
    replace(BASE, w=LAST, a=Operand(3, 1, -3), stride=(2, 1)),
    replace(BASE, a=Operand(1, 2, -1), channels=136, out_channels=12),
    replace(BASE, a=Operand(8, 1, -128), kernel=(1, 1), padding=(0, 0, 0, 0)),
    replace(BASE, channels=24, out_channels=9, groups=3, a=Operand(4), dilation=(2, 1)),
    replace(BASE, channels=64, out_channels=16, epilogue=Thresholds(2, 3, out=Layout("planes", 2))),
)


@pytest.mark.parametrize("core", ["host", "cortex-a53", "cortex-a72"])
def test_every_shape(core: str, machines: Machines) -> None:
    machine = machines(core)
    kernels = [build_kernel(Ternary(), problem, machine.core) for problem in PROBLEMS]
    for problem in PROBLEMS[:-1]:
        for code in problem.w.span or ():
            operands = constant_operands(problem, problem.a.max_code, code, problem.w.offset)
            kernels.append(build_kernel(Ternary(), problem, machine.core, operands))
    machine.check(kernels)


@pytest.mark.parametrize(
    "weights",
    [
        Operand(2, 1, -1, uniform=True),
        Operand(2, 1, 0, 1, span=(0, 2)),
        Operand(2, 2, -2, uniform=True),
        Operand(1, 2, -1),
    ],
)
def test_other_weights_are_declined(weights: Operand) -> None:
    assert Ternary().declines(BASE, CORES["cortex-a72"]) is None
    reason = Ternary().declines(replace(BASE, w=weights), CORES["cortex-a72"])
    assert reason == "weights other than -1, 0 and +1 may occur"


@pytest.mark.parametrize("w", [FIRST, LAST])
def test_weights_come_back(w: Operand) -> None:
    problem = replace(BASE, w=w)
    operands = random_operands(problem)
    constant = Ternary().constants(problem, operands.weights, operands.weight_offset)[0]
    np.testing.assert_array_equal(Ternary().unpack_weights(problem, constant), operands.weights)
    shape = operands.weights.shape
    read = evaluate(shape, lambda at, o, c, y, x: Ternary().weight_at(problem, at, o, c, y, x), constant)
    np.testing.assert_array_equal(read, operands.weights)
