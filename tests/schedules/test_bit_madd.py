"""``bit_madd``: dense layers on the emulated core, its packed weights, and what it declines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from kernel_runner import Machine, build_kernel, constant_operands, evaluate, random_operands

from schedules.cores import CORES
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.layout import Layout
from schedules.ordered_products import CODES
from schedules.select_column import ACTIVATIONS, BY_CODE, COUNTED
from schedules.techniques import TECHNIQUES, select
from schedules.techniques.bit_madd import loop
from tvm_lowbit.metering.kernels import meter_kernel

A53 = CORES["cortex-a53"]
TECHNIQUE = TECHNIQUES["bit_madd"]
W2 = Operand(2, offset=-2, uniform=True)
BASE = DotProblem(1, 1, 1, 1024, 24, Operand(2), W2)
PROBLEMS = (
    BASE,
    # Planes that are copied and filled up; a channel's own offset; one, two and three blocks.
    replace(BASE, channels=1000, out_channels=13, epilogue=Thresholds(2, 3, out=Layout("planes", 2))),
    replace(BASE, channels=1025, out_channels=3, w=Operand(2, 1, 0, 3)),
    replace(BASE, channels=129, out_channels=8, a=Operand(2, 2, -3), batch=3),
    replace(BASE, channels=333, out_channels=17, w=Operand(2, 2, -3, uniform=True)),
    replace(BASE, channels=576, out_channels=1, batch=2),
)


def test_exact(machines: Callable[[str], Machine]) -> None:
    machine, kernels = machines("cortex-a53"), []
    for problem in PROBLEMS:
        assert TECHNIQUE.declines(problem, A53) is None
        kernels.append(build_kernel(TECHNIQUE, problem, A53))
        if problem.epilogue is None:
            # Each byte of a product as full as it can be.
            full = constant_operands(problem, 3, 3, problem.w.offset)
            kernels.append(build_kernel(TECHNIQUE, problem, A53, full))
    machine.check(kernels)


def test_three_counts_are_a_product() -> None:
    a, w = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
    g, x = (a >> 1) ^ (a & 1), 1 - ((w >> 1) ^ (w & 1))
    f1 = (a >> 1) ^ (w >> 1)
    f2 = np.where(f1, x, g)
    f3 = np.where(f2, x, g)
    counted = sum(factor * f for factor, f in zip(COUNTED, (f1, f2, f3), strict=True))
    np.testing.assert_array_equal(2 * a * w, ACTIVATIONS * (a + g) + np.array(BY_CODE)[w] - counted)


def test_every_number_of_bytes_that_it_takes_is_exact(machines: Callable[[str], Machine]) -> None:
    taken = [p for k in range(8, 2400, 64) if TECHNIQUE.declines(p := replace(BASE, channels=k), A53) is None]
    divided = [(loop(p).steps, loop(p).words * CODES + 128 * loop(p).steps - p.k) for p in taken]
    # One to seven steps; no more than two words are filled up with zeros.
    assert {steps for steps, _ in divided} == set(range(1, 8))
    assert all(0 <= more < 2 * CODES + 64 for _, more in divided)
    machines("cortex-a53").check([build_kernel(TECHNIQUE, p, A53) for p in taken[::3]])


@pytest.mark.parametrize("problem", [PROBLEMS[1], PROBLEMS[3]], ids=lambda p: str(p.channels))
def test_weights_come_back(problem: DotProblem) -> None:
    operands = random_operands(problem)
    constant = TECHNIQUE.constants(problem, operands.weights, operands.weight_offset)[0]
    np.testing.assert_array_equal(TECHNIQUE.unpack_weights(problem, constant), operands.weights)
    shape = operands.weights.shape
    read = evaluate(shape, lambda at, o, c, y, x: TECHNIQUE.weight_at(problem, at, o, c, y, x), constant)
    np.testing.assert_array_equal(read, operands.weights)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": 64}, "64 products are too few or too many to divide between registers"),
        ({"w": Operand(1)}, "both sides must have 2 bits, not W1A2"),
        ({"a": Operand(3)}, "both sides must have 2 bits, not W2A3"),
        ({"width": 2}, "only dense layers have but one pixel"),
        ({"channels": 2400}, "2400 products are too few or too many to divide between registers"),
        ({"channels": 3000}, "3000 products are too few or too many to divide between registers"),
    ],
)
def test_what_does_not_fit_is_declined(change: dict[str, object], words: str) -> None:
    problem = replace(BASE, **change)  # type: ignore[arg-type] - a mapping of fields
    assert TECHNIQUE.declines(problem, A53) == words
    assert select(problem, A53).technique is not TECHNIQUE


def test_it_is_for_in_order_cores() -> None:
    assert select(replace(BASE, out_channels=1024), A53).technique is TECHNIQUE
    for core in ("cortex-a72", "cortex-a76"):
        assert TECHNIQUE.declines(BASE, CORES[core]) == f"{core} starts instructions of both kinds by itself"


def test_it_pays_as_much_as_it_says() -> None:
    taken = {}
    for name in ("bit_madd", "bit_serial"):
        kernel = build_kernel(TECHNIQUES[name], replace(BASE, out_channels=128), A53)
        out = np.zeros_like(kernel.expected)
        taken[name] = meter_kernel(kernel.function, [*kernel.arguments, out], "cortex-a53").cycles
    assert taken["bit_madd"] < 0.85 * taken["bit_serial"]
    estimate = TECHNIQUE.cycles(replace(BASE, out_channels=128), A53)
    assert taken["bit_madd"] == pytest.approx(estimate, rel=0.15)
