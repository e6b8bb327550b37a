"""``mla_madd``: every shape on the emulated core, bytes filled to the last, its packed weights, what it declines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from kernel_runner import Machine, build_kernel, constant_operands, evaluate, random_operands

from schedules.beside_pairs import MOST_PIXELS, BesidePairs
from schedules.cores import CORES
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.layout import Layout
from schedules.ordered_pairs import BYTES
from schedules.pair_chunks import chunk, pairs
from schedules.techniques import TECHNIQUES, select
from tvm_lowbit.metering.kernels import meter_kernel

A53 = CORES["cortex-a53"]
TECHNIQUE = TECHNIQUES["mla_madd"]
W2 = Operand(2, 1, -2, uniform=True)
BASE = DotProblem(1, 5, 7, 128, 24, Operand(2), W2)
PROBLEMS = (
    BASE,
    # Filled up to eight codes; a channel's own offset; one block, and two.
    replace(BASE, channels=97, out_channels=3, w=Operand(2, 1, 0, 3)),
    replace(BASE, channels=333, out_channels=13, batch=2, epilogue=Thresholds(2, 3, out=Layout("planes", 2))),
    replace(BASE, channels=16, kernel=(3, 3), padding=(1, 1, 1, 1)),
    replace(BASE, height=6, width=9, channels=24, kernel=(3, 3), stride=(2, 2), padding=(1, 0, 1, 1)),
    replace(BASE, channels=256, groups=2, out_channels=18, a=Operand(2, 2, -3)),
    replace(BASE, channels=128, w=Operand(2, 2, -3, uniform=True)),
    replace(BASE, channels=80, a=Operand(1), epilogue=Thresholds(2, 3)),
    # More rounds than one, with pairs left.
    replace(BASE, channels=600, width=3, out_channels=8),
)


def test_exact(machines: Callable[[str], Machine]) -> None:
    machine, kernels = machines("cortex-a53"), []
    for problem in PROBLEMS:
        assert TECHNIQUE.declines(problem, A53) is None
        kernels.append(build_kernel(TECHNIQUE, problem, A53))
        if problem.epilogue is None:
            # Each byte of a product as full as it can be.
            full = constant_operands(problem, problem.a.max_code, problem.w.max_code, problem.w.offset)
            kernels.append(build_kernel(TECHNIQUE, problem, A53, full))
    machine.check(kernels)


def test_every_number_of_pixels_is_exact(machines: Callable[[str], Machine]) -> None:
    shapes = [replace(BASE, height=1, width=width, channels=208, out_channels=8) for width in range(1, 24)]
    machines("cortex-a53").check([build_kernel(TECHNIQUE, p, A53) for p in shapes])


def test_every_number_of_codes_that_it_takes_is_exact(machines: Callable[[str], Machine]) -> None:
    shapes = [replace(BASE, height=1, width=5, channels=k, out_channels=8) for k in range(8, 3200, 8)]
    taken = [p for p in shapes if TECHNIQUE.declines(p, A53) is None]
    machines("cortex-a53").check([build_kernel(TECHNIQUE, p, A53) for p in (*taken[:12], *taken[12::16])])
