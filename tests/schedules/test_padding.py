"""Runs of output positions that see the same taps, and what they cost where no correction is needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_runner import evaluate, random_operands

from schedules.dot_problem import DotProblem, Operand
from schedules.padding import runs
from schedules.techniques.base import correction_shapes, corrections

BIPOLAR = Operand(1, 2, -1)
RESNET = DotProblem(1, 14, 14, 8, 4, BIPOLAR, BIPOLAR, (3, 3), padding=(1, 1, 1, 1))
PROBLEMS = (
    RESNET,
    DotProblem(1, 9, 7, 4, 3, BIPOLAR, BIPOLAR, (3, 2), (2, 1), (3, 4), (2, 3, 1, 0)),
    DotProblem(1, 2, 3, 4, 3, BIPOLAR, BIPOLAR, (5, 7), padding=(3, 4, 4, 3)),
    DotProblem(1, 3, 9, 4, 3, BIPOLAR, BIPOLAR, (2, 2), (1, 2), (5, 3), (4, 2, 4, -1)),
)


@pytest.mark.parametrize("p", PROBLEMS, ids=lambda p: f"{p.kernel} {p.padding}")
def test_every_position_is_in_the_run_of_its_taps(p: DotProblem) -> None:
    for axis, (found, extent, positions) in enumerate(
        zip(runs(p), (p.height, p.width), (p.out_height, p.out_width), strict=True)
    ):
        got = evaluate((positions,), lambda at, i, found=found: found.at(i), np.zeros(1, np.int32))
        for position, run in enumerate(got):
            taps = position * p.stride[axis] - p.padding[axis] + np.arange(p.kernel[axis]) * p.dilation[axis]
            assert found.inside[run] == tuple((taps >= 0) & (taps < extent))


def test_a_border_of_one_pixel_makes_three_runs() -> None:
    for along in runs(RESNET):
        assert along.starts == (0, 1, 13)


@pytest.mark.parametrize(
    "problem",
    [replace(RESNET, padding=(0, 0, 0, 0)), replace(RESNET, a=Operand(2)), replace(RESNET, padding=(-1, 0, 0, -2))],
    ids=["not padded", "a code for 0", "cropped"],
)
def test_without_need_there_is_one_run(problem: DotProblem) -> None:
    operands = random_operands(problem)
    beta, gamma = corrections(problem, operands.weights, operands.weight_offset)
    assert (beta.shape, gamma.shape) == ((4,), (1, 1, 4))
    assert [shape for shape, _ in correction_shapes(problem)] == [beta.shape, gamma.shape]


def test_the_accumulator_is_bounded_as_without_padding() -> None:
    far = replace(RESNET, a=Operand(3, 1, 7))
    assert far.pads_without_code
    assert far.accumulator_bound() == far.k * (7 + 7) * 3
