"""Short sums of ``bit_serial``: every number of bytes that a patch may leave, exact where its lanes are fullest."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from kernel_runner import Machine, build_kernel, constant_operands

from schedules.bit_classes import MOST_STEPS, split_row
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.techniques.bit_serial import BitSerial, short

CORES = ["host", "cortex-a72"]
# Channels of 1x1 kernels: tails of each kind alone, behind one and two whole steps, and behind a loop of them.
CHANNELS = (1, 16, 33, 48, 64, 76, 96, 128, 144, 190, 256, 420, 576)
WIDTHS = list(product((1, 2), (1, 2)))


def problems(a_bits: int, w_bits: int) -> list[DotProblem]:
    """One for each number of channels; then kernels, groups, codes, weights of -1 and 1."""
    a, w = Operand(a_bits, 1, -1), Operand(w_bits, 1, 0, 2)
    plain = [DotProblem(1, 1, 5, c, 6 if c % 3 else 9, Operand(a_bits), w) for c in CHANNELS]
    others = [
        DotProblem(1, 4, 5, 32, 5, a, w, (3, 3), (2, 1), padding=(1, 1, 1, 1)),
        DotProblem(2, 3, 4, 80, 10, a, w, (2, 2), groups=2),
        DotProblem(1, 2, 4, 64, 8, Operand(a_bits), w, (1, 1), epilogue=Thresholds(2, 3)),
    ]
    signs = [DotProblem(1, 1, 5, c, 5, Operand(a_bits), Operand(1, 2, -1, uniform=True)) for c in (60, 96, 256)]
    return [p for p in plain + others + signs * (w_bits == 1) if short(p, False) is not None]


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(("a_bits", "w_bits"), WIDTHS)
def test_every_tail(core: str, a_bits: int, w_bits: int, machines: Callable[[str], Machine]) -> None:
    machine, kernels = machines(core), []
    for i, p in enumerate(problems(a_bits, w_bits)):
        # All codes at their largest, where lanes are fullest; else random ones.
        full = constant_operands(p, p.a.max_code, p.w.max_code, p.w.offset) if i % 2 and p.epilogue is None else None
        knobs = {"short": 1, "mr": (2, 4, 3)[i % 3], "nr": (4, 8)[i % 2]}
        kernels.append(build_kernel(BitSerial(), p, machine.core, full, knobs))
    assert kernels
    machine.check(kernels)


@pytest.mark.parametrize(("a_bits", "w_bits"), WIDTHS)
def test_tails_hold_each_byte_once_for_each_pair_of_planes(a_bits: int, w_bits: int) -> None:
    for used in range(1, 200):
        parts = split_row(used, a_bits, w_bits)
        if parts is None:
            assert used > 16 * MOST_STEPS
            continue
        whole, tails = parts
        held = [(p, q, first + byte) for tail in tails for p, q, first in tail.units for byte in range(tail.size)]
        assert len(held) == len(set(held))
        pairs = set(product(range(a_bits), range(w_bits)))
        for byte in range(used - 16 * whole):
            assert {(p, q) for p, q, at in held if at == byte} == pairs
        assert all(at < 16 and len(tail.units) == 4 for tail in tails for _, _, at in held)
        assert sum(1 / tail.channels for tail in tails) < a_bits * w_bits


def test_other_widths_have_no_short_sums() -> None:
    assert split_row(8, 3, 2) is None and split_row(8, 1, 4) is None
