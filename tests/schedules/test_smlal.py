"""``smlal`` and ``sdot`` where weights are stored as several codes a byte: layers of many pixels, of up to 4 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from kernel_runner import Machine, build_kernel, check_technique, evaluate, placed, random_operands

from schedules.byte_dot import STEP
from schedules.byte_weights import FEW
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.registers import round_of
from schedules.techniques import TECHNIQUES

Machines = Callable[[str], Machine]
PLACED = [row for row in placed(("host", "cortex-a53", "cortex-a72", "cortex-a76")) if row[1] in ("smlal", "sdot")]


def weights(bits: int) -> Operand:
    """Around zero; of one bit, bipolar."""
    return Operand(bits, 1 + (bits == 1), -(1 << bits - 1), uniform=True)


PROBLEMS = (
    # An odd number of steps, and channels that are no whole block.
    *(DotProblem(1, 6, 7, 21, 6, Operand(2), weights(bits), (3, 3), padding=(1,) * 4) for bits in range(1, 8)),
    DotProblem(1, 6, 6, 5, 13, Operand(8, 1, -100), Operand(3, 1, 0, 9)),
    DotProblem(2, 4, 5, 40, 9, Operand(4), Operand(2, 1, 0, 3), (2, 2), padding=(1, 0, 1, 0), groups=1),
    DotProblem(1, 7, 6, 24, 18, Operand(3, 1, -3), weights(2), (3, 3), padding=(1,) * 4, groups=3),
    DotProblem(1, 9, 8, 10, 10, Operand(2), weights(2), (3, 3), padding=(1,) * 4, groups=10),
    DotProblem(1, 6, 7, 6, 12, Operand(1, 2, -1), weights(4), (3, 3), groups=6, epilogue=None, padding=(1,) * 4),
    # Groups of less than a block, also of several steps.
    DotProblem(1, 7, 6, 30, 6, Operand(2), weights(2), (3, 3), padding=(1,) * 4, groups=3),
    DotProblem(1, 7, 6, 10, 15, Operand(2), weights(1), (5, 5), padding=(2,) * 4, groups=5),
    DotProblem(1, 7, 6, 11, 11, Operand(2), weights(3), (3, 3), padding=(1,) * 4, groups=11),
    DotProblem(1, 1, 40, 33, 5, Operand(2), weights(2), (1, 3)),
    # Bytes, widened each step; the last has 1 to 9 products, some of them being the first; then each product widened.
    *(
        DotProblem(1, 5, 6, k, 6, Operand(8, 1, -128), replace(weights(8), span=(1, 255)))
        for k in (1, 2, 3, 8, 9, 24, 40, 213)
    ),
    DotProblem(1, 9, 9, 3, 6, Operand(8), replace(weights(8), span=(1, 255)), (7, 7), (2, 2), padding=(3,) * 4),
    *(DotProblem(1, 5, 6, k, 6, Operand(8, 1, -128), weights(8)) for k in (7, 17, 25)),
    DotProblem(1, 5, 7, 1, 6, Operand(8), weights(8)),
)


def test_the_problems_are_what_they_are_for() -> None:
    def compact(problem: DotProblem) -> bool:
        return TECHNIQUES["smlal"].weights(problem).compact

    assert [compact(p) for p in PROBLEMS] == [p.w.bits <= 4 for p in PROBLEMS]
    dense = replace(PROBLEMS[1], height=1, width=FEW - 1, kernel=(1, 1), padding=(0,) * 4)
    assert not compact(dense) and compact(replace(dense, width=FEW)) and compact(replace(dense, batch=2))


@pytest.mark.parametrize(("core", "technique"), PLACED)
def test_exact(core: str, technique: str, machines: Machines) -> None:
    check_technique(technique, PROBLEMS, machines(core))


@pytest.mark.parametrize(("core", "technique"), PLACED)
def test_exact_with_codes_and_other_blocks(core: str, technique: str, machines: Machines) -> None:
    row, machine = TECHNIQUES[technique], machines(core)
    problems = [replace(p, epilogue=Thresholds(2, 3)) for p in (PROBLEMS[1], PROBLEMS[10], PROBLEMS[11])]
    knobs = [{"nr": nr, "mr": mr, "parallel": parallel} for nr, mr, parallel in ((4, 1, 0), (8, 3, 1), (4, 5, 1))]
    machine.check([build_kernel(row, p, machine.core, None, k) for p in problems for k in knobs])


@pytest.mark.parametrize("technique", ["smlal", "sdot"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p.name} {p.groups} {p.channels}")
def test_codes_come_back_and_take_their_bits(technique: str, problem: DotProblem) -> None:
    row, operands = TECHNIQUES[technique], random_operands(problem)
    constant = row.constants(problem, operands.weights, operands.weight_offset)[0]
    np.testing.assert_array_equal(row.unpack_weights(problem, constant), operands.weights)
    shape = operands.weights.shape
    read = evaluate(shape, lambda at, o, c, y, x: row.weight_at(problem, at, o, c, y, x), constant)
    np.testing.assert_array_equal(read, operands.weights)


@pytest.mark.parametrize("technique", ["smlal", "sdot"])
def test_two_bits_take_a_sixteenth_of_float32(technique: str) -> None:
    p = DotProblem(1, 14, 14, 64, 32, Operand(2), weights(2), (3, 3), padding=(1,) * 4)
    operands = random_operands(p)
    constant = TECHNIQUES[technique].constants(p, operands.weights, operands.weight_offset)[0]
    assert 16 * constant.nbytes == 4 * operands.weights.size


def test_depthwise_weights_take_a_byte_for_four() -> None:
    p = DotProblem(1, 14, 14, 64, 64, Operand(2), weights(2), (3, 3), padding=(1,) * 4, groups=64)
    operands = random_operands(p)
    constant = TECHNIQUES["sdot"].constants(p, operands.weights, operands.weight_offset)[0]
    assert constant.nbytes == 64 * 16 // 4  # rows are whole steps of 16


def test_one_pixel_with_several_steps_to_a_round(machines: Machines) -> None:
    # 64, 6, 4 and 13 steps: rounds of 4, of 3, of 2, and of single steps.
    base = DotProblem(1, 1, 1, 1024, 13, Operand(2), weights(2))
    problems = [base, *(replace(base, channels=k, a=Operand(8, 1, -100), batch=2) for k in (96, 50, 200))]
    assert [round_of(-(-p.channels // STEP)) for p in problems] == [4, 3, 2, 1]
    check_technique("sdot", problems, machines("cortex-a76"))
