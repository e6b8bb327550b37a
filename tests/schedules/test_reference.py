"""The definition that everything is held against agrees with six plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernel_runner import random_operands

from schedules import reference
from schedules.dot_problem import DotProblem, Operand

PROBLEMS = (
    DotProblem(2, 3, 4, 6, 4, Operand(3, 1, -2), Operand(2, 1, 0, 3), (2, 3), (2, 1), (1, 2), (1, 2, 0, 1), 2),
    DotProblem(1, 4, 3, 3, 6, Operand(1, 2, -1), Operand(2, 2, 0, 3), (3, 2), groups=3),
    DotProblem(2, 1, 3, 5, 2, Operand(8, 1, -9), Operand(8, 1, 0, 255)),
)


@pytest.mark.parametrize("p", PROBLEMS, ids=lambda p: f"{p.name} {p.kernel}")
def test_accumulate_is_six_loops(p: DotProblem) -> None:
    operands = random_operands(p)
    got = reference.accumulate(p, operands.activations, operands.weights, operands.weight_offset)
    for n, oy, ox, o in np.ndindex(p.batch, p.out_height, p.out_width, p.out_channels):
        total = 0
        for c, ky, kx in itertools.product(range(p.group_channels), range(p.kernel[0]), range(p.kernel[1])):
            y = oy * p.stride[0] + ky * p.dilation[0] - p.padding[0]
            x = ox * p.stride[1] + kx * p.dilation[1] - p.padding[1]
            if 0 <= y < p.height and 0 <= x < p.width:
                code = int(operands.activations[n, y, x, o // p.group_out_channels * p.group_channels + c])
                weight = p.w.multiplier * int(operands.weights[o, c, ky, kx]) + int(operands.weight_offset[o])
                total += (p.a.multiplier * code + p.a.offset) * weight
        assert got[n, oy, ox, o] == total
