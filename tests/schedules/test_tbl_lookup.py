"""``tbl_lookup``: every shape, sums filled to the last bit, what its written loop reads, and what it declines."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from kernel_runner import Machine, build_kernel, constant_operands, evaluate, random_operands
from test_exactness import FAMILIES

from schedules.cores import CORES
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.layout import Layout
from schedules.ordered_tables import CHANNELS, MOST_PIXELS, ROUND, OrderedTables
from schedules.techniques import select
from schedules.techniques.tbl_lookup import TblLookup, tables

Machines = Callable[[str], Machine]
A53 = CORES["cortex-a53"]
BIPOLAR = Operand(1, 2, -1, uniform=True)
BASE = DotProblem(1, 1, 7, 40, 5, Operand(2), BIPOLAR)
SHAPES = (
    # Blocks of one to four pixels.
    *(replace(BASE, width=width) for width in (1, 2, 3, 4, 6)),
    replace(BASE, width=9, channels=96, out_channels=37, a=Operand(2, 2, -3)),
    replace(BASE, height=6, width=10, channels=16, out_channels=32, kernel=(3, 3), padding=(1, 1, 1, 1)),
    replace(BASE, channels=64, out_channels=18, groups=2, w=Operand(1, 1, 0, 1)),
    replace(BASE, width=5, channels=512, out_channels=64, w=Operand(1)),
    replace(BASE, out_channels=24, epilogue=Thresholds(2, 3, out=Layout("planes", 2))),
)


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a72", "cortex-a76"])
def test_every_shape(core: str, machines: Machines) -> None:
    machine = machines(core)
    problems = list(SHAPES)
    if core == "cortex-a53":
        # The common shapes, at this width.
        common = (p for family in FAMILIES.values() for p in family if p.epilogue is None)
        problems += [replace(p, a=replace(p.a, bits=2), w=replace(p.w, bits=1)) for p in common]
    kernels = [
        build_kernel(TblLookup(), p, machine.core) for p in problems if TblLookup().declines(p, machine.core) is None
    ]
    assert len(kernels) >= len(SHAPES)
    machine.check(kernels)


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a72", "cortex-a76"])
def test_sums_that_fill_16_bits(core: str, machines: Machines) -> None:
    machine = machines(core)
    longest = replace(BASE, width=2, channels=65535 // 3, w=Operand(1))
    assert TblLookup().declines(longest, machine.core) is None
    machine.check([build_kernel(TblLookup(), longest, machine.core, constant_operands(longest, 3, 1, 0))])


def test_a_round_of_look_ups_fits_a_byte() -> None:
    assert tables().max() * ROUND <= 255
    # By the definition: which activations, and which of them are chosen.
    joined = np.concatenate(list(tables()), axis=1)
    for name, chosen in ((0b1010_0110, 0b0111), (0b1111_1111, 0b1111), (0b0001_1000, 0b1001)):
        activations = [(name >> i & 1) + 2 * (name >> 4 + i & 1) for i in range(4)]
        assert joined[name, chosen] == sum(a for i, a in enumerate(activations) if chosen >> i & 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": Operand(3)}, "tables are for activations of 2 bits and weights of one, not for W1A3"),
        ({"w": Operand(2)}, "tables are for activations of 2 bits and weights of one, not for W2A2"),
        ({"channels": 65535 // 3 + 1}, "the sum of 21846 activations may exceed 16 bits"),
    ],
)
def test_what_does_not_fit_is_declined(change: dict[str, object], words: str) -> None:
    assert TblLookup().declines(BASE, A53) is None
    assert TblLookup().declines(replace(BASE, **change), A53) == words  # type: ignore[arg-type] - a mapping of fields
    assert TblLookup().declines(BASE, CORES["x86-64"]) == "x86-64 lacks asimd"


def test_weights_come_back() -> None:
    problem = DotProblem(1, 4, 5, 22, 70, Operand(2), BIPOLAR, (3, 2), groups=2)
    operands = random_operands(problem)
    constant = TblLookup().constants(problem, operands.weights, operands.weight_offset)[0]
    np.testing.assert_array_equal(TblLookup().unpack_weights(problem, constant), operands.weights)
    shape = operands.weights.shape
    read = evaluate(shape, lambda at, o, c, y, x: TblLookup().weight_at(problem, at, o, c, y, x), constant)
    np.testing.assert_array_equal(read, operands.weights)


@pytest.mark.parametrize("pixels", range(1, MOST_PIXELS + 1))
@pytest.mark.parametrize("groups", [16, 32, 64])
def test_nothing_is_read_past_the_operands(pixels: int, groups: int) -> None:
    """Follow the bases through the written loop: each name and each half of indices is loaded once, and no other."""
    lines = OrderedTables(pixels, 100, groups).instructions()
    if "1:" in lines:
        first, last = lines.index("1:"), lines.index("b.ne 1b")
        lines = lines[:first] + lines[first + 1 : last] * (groups // ROUND - 1) + lines[last + 1 :]
    bases, read = {"x9": 0, "x10": 0}, {"x9": [], "x10": []}
    for line in lines:
        if move := re.fullmatch(r"mov (x[234]), #(\d+)", line):
            bases[move[1]] = int(move[2])
        elif add := re.fullmatch(r"add (x\d+), \1, (#?)(\w+)", line):
            bases[add[1]] += int(add[3]) if add[2] else bases[add[3]]
        elif load := re.fullmatch(r"ldrb? \w+, \[(x\d+), #(\d+)\]", line):
            read["x10" if load[1] == "x10" else "x9"].append(bases[load[1]] + int(load[2]))
    assert sorted(read["x10"]) == list(range(0, CHANNELS * groups, 8))
    assert sorted(read["x9"]) == [100 * pixel + group for pixel in range(pixels) for group in range(groups)]


CHOSEN = (("cortex-a53", "tbl_lookup"), ("cortex-a72", "bit_serial"), ("cortex-a76", "tbl_lookup"))


@pytest.mark.parametrize(("core", "wanted"), CHOSEN)
def test_it_is_chosen_where_look_ups_are_fast(core: str, wanted: str) -> None:
    one = DotProblem(1, 14, 14, 256, 512, Operand(2), BIPOLAR, epilogue=Thresholds(2, 3))
    assert select(one, CORES[core]).technique.name == wanted
    # A dense layer's weights would be taken apart for one use.
    assert select(replace(one, height=1, width=1), CORES[core]).technique.name == "bit_serial"
