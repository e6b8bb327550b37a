"""``u8_mla``: every shape, lanes and sums filled to the last bit, both forms of its loop, and what it declines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from kernel_runner import Machine, build_kernel, constant_operands, evaluate, random_operands
from test_exactness import FAMILIES

from schedules.cores import CORES
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.layout import Layout
from schedules.ordered_pairs import BYTES, MOST_PIXELS, OrderedPairs, body
from schedules.pair_chunks import bias, centre, centred, chunk, fitting, fitting_centred, pairs, products, span
from schedules.techniques import select
from schedules.techniques.u8_mla import U8Mla

Machines = Callable[[str], Machine]
A53 = CORES["cortex-a53"]
CORE_NAMES = ("host", "cortex-a53", "cortex-a72", "cortex-a76")
BASE = DotProblem(1, 1, 9, 40, 5, Operand(2), Operand(2))
SHAPES = (
    BASE,
    replace(BASE, width=13, channels=96, out_channels=17, a=Operand(3), w=Operand(3, 1, -4, uniform=True)),
    replace(BASE, height=6, width=10, channels=16, out_channels=8, kernel=(3, 3), padding=(1, 1, 1, 1)),
    replace(
        BASE, height=5, width=8, channels=24, kernel=(3, 3), stride=(2, 2), padding=(1, 0, 1, 1), w=Operand(4, 2, -15)
    ),
    # Read where it stands, groups side by side.
    replace(BASE, width=11, channels=64, out_channels=18, groups=2, a=Operand(1)),
    # Too far apart for one base.
    replace(BASE, width=9, channels=4200, out_channels=2),
    replace(BASE, out_channels=24, epilogue=Thresholds(2, 3, out=Layout("planes", 2))),
)


def taken(core: str, machine: Machine) -> list[DotProblem]:
    """The problems of the common families that fit."""
    problems = [*SHAPES, *(p for family in FAMILIES.values() for p in family)]
    found = [p for p in problems if U8Mla().declines(p, machine.core) is None]
    return found if core == "cortex-a53" else found[: len(SHAPES)]


@pytest.mark.parametrize("core", CORE_NAMES)
def test_every_shape(core: str, machines: Machines) -> None:
    machine = machines(core)
    problems = taken(core, machine)
    assert len(problems) >= len(SHAPES)
    machine.check([build_kernel(U8Mla(), problem, machine.core) for problem in problems])


@pytest.mark.parametrize("core", CORE_NAMES)
def test_every_pair_of_widths_with_all_operands_at_their_extreme(core: str, machines: Machines) -> None:
    machine, kernels = machines(core), []
    for a in range(1, 7):
        for w in range(1, 7):
            problem = replace(BASE, width=4, channels=97, a=Operand(a), w=Operand(w, 1, 0, 1 << (w - 1)))
            if U8Mla().declines(problem, machine.core) is None:
                full = constant_operands(problem, problem.a.max_code, problem.w.max_code, -problem.w.offset_bound)
                kernels += [build_kernel(U8Mla(), problem, machine.core, o) for o in (full, None)]
    # 63 x 1 to 1 x 63, 31 x 4, 15 x 8 and the like.
    assert len(kernels) == 2 * sum((2**a - 1) * (2**w - 1) * 2 <= 255 for a in range(1, 7) for w in range(1, 7))
    machine.check(kernels)


@pytest.mark.parametrize("core", CORE_NAMES)
def test_sums_that_fill_16_bits_and_one_more(core: str, machines: Machines) -> None:
    machine, kernels = machines(core), []
    for bits, channels in ((2, 7280), (2, 7288), (3, 1336), (3, 1344), (3, 4100)):
        problem = replace(BASE, width=2, channels=channels, out_channels=9, a=Operand(bits), w=Operand(bits))
        operands = constant_operands(problem, problem.a.max_code, problem.w.max_code, 0)
        kernels.append(build_kernel(U8Mla(), problem, machine.core, operands))
    machine.check(kernels)


@pytest.mark.parametrize("bits", [(1, 1), (2, 2), (3, 2), (3, 3), (4, 3), (5, 2), (6, 1)])
def test_nothing_overflows_and_one_more_pair_might(bits: tuple[int, int]) -> None:
    problem = replace(BASE, a=Operand(bits[0]), w=Operand(bits[1]), channels=1 << 16)
    largest = 2 * problem.a.max_code * problem.w.max_code
    assert fitting(problem) * largest <= 255 < (fitting(problem) + 1) * largest
    assert 1 <= chunk(problem) <= fitting(problem)
    # Sums of whole loads of eight bytes.
    assert span(problem) * chunk(problem) * largest <= 65535 and span(problem) * chunk(problem) >= 4


CENTRED = tuple(
    replace(BASE, channels=channels, a=a, w=Operand(w, 1, -1 << (w - 1), uniform=True))
    for a, w, channels in (
        (Operand(3), 3, 97),
        (Operand(3, 1, -3), 3, 64),
        (Operand(4), 2, 72),
        (Operand(2, 2, -3), 4, 40),
        (Operand(4), 3, 33),
        (Operand(4), 4, 30),
        # Sums of several runs.
        (Operand(3), 3, 4100),
    )
)


@pytest.mark.parametrize("core", CORE_NAMES)
def test_centred_codes_at_their_extreme(core: str, machines: Machines) -> None:
    machine, kernels = machines(core), []
    for problem in CENTRED:
        assert centred(problem)
        shapes = [problem]
        if problem.channels < 100:
            shapes.append(replace(problem, height=4, kernel=(3, 3), padding=(1, 1, 1, 1)))
            # Padded positions for which no code stands.
            shapes.append(replace(shapes[-1], a=Operand(problem.a.bits, 2, 1)))
        for shape in shapes:
            for a in (0, shape.a.max_code):
                for w in (0, shape.w.max_code):
                    operands = constant_operands(shape, a, w, shape.w.offset)
                    kernels.append(build_kernel(U8Mla(), shape, machine.core, operands))
            kernels.append(build_kernel(U8Mla(), shape, machine.core))
    machine.check(kernels)


@pytest.mark.parametrize("problem", CENTRED)
def test_no_byte_of_centred_lanes_overflows(problem: DotProblem) -> None:
    low, high = products(problem)
    values = [
        (a - centre(problem.a)) * (w - centre(problem.w))
        for a in range(problem.a.max_code + 1)
        for w in range(problem.w.max_code + 1)
    ]
    assert (low, high) == (min(values), max(values))
    start, count = bias(problem), chunk(problem)
    assert start % 256 + count * low >= 0 and start % 256 + count * high <= 255
    assert start // 256 + 2 * count * low >= 0 and start // 256 + 2 * count * high <= 255
    assert span(problem) * (start // 256 + 2 * count * high) <= 65535


def test_only_weights_around_zero_are_centred() -> None:
    """Of others the sum of the codes would be needed."""
    for w in (Operand(3), Operand(3, 1, -3, uniform=True), Operand(3, 1, 0, 4), Operand(3, 2, -4, uniform=True)):
        assert fitting_centred(replace(BASE, a=Operand(3), w=w)) == 0
    # Nor where it saves too little.
    assert not centred(replace(BASE, w=Operand(2, 1, -2, uniform=True)))


def test_weights_that_are_known_to_be_small_are_flushed_less_often() -> None:
    ternary = replace(BASE, w=Operand(2, 1, -1, span=(0, 2), uniform=True))
    assert (fitting(BASE), fitting(ternary)) == (14, 21)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": Operand(4), "w": Operand(4)}, "two products of W4A4 may sum to 450; a byte holds 255"),
        ({"a": Operand(8), "w": Operand(1)}, "two products of W1A8 may sum to 510; a byte holds 255"),
    ],
)
def test_what_does_not_fit_is_declined(change: dict[str, Operand], words: str) -> None:
    assert U8Mla().declines(BASE, A53) is None
    assert U8Mla().declines(replace(BASE, **change), A53) == words  # type: ignore[arg-type] - a mapping of fields


@pytest.mark.parametrize("bits", [1, 2, 3, 5])
def test_packed_weights_come_back(bits: int) -> None:
    problem = DotProblem(1, 4, 5, 22, 22, Operand(1), Operand(bits, 1, 0, 3), (3, 2), groups=2)
    operands = random_operands(problem)
    constant = U8Mla().constants(problem, operands.weights, operands.weight_offset)[0]
    # As many codes to a byte as fit, filled up to 16 channels, and to 8 codes of a patch.
    assert constant.size == 2 * 16 * 2 * -(-pairs(problem) // (8 // bits))
    np.testing.assert_array_equal(U8Mla().unpack_weights(problem, constant), operands.weights)
    shape = operands.weights.shape
    read = evaluate(shape, lambda at, o, c, y, x: U8Mla().weight_at(problem, at, o, c, y, x), constant)
    np.testing.assert_array_equal(read, operands.weights)


@pytest.mark.parametrize("pixels", range(1, MOST_PIXELS + 1))
def test_nothing_is_read_past_the_operands(pixels: int) -> None:
    """Follow the bases through the written loop: each byte of codes and weights is loaded once, and no other."""
    for count in (4, 8, 12, 28, 32, 60):
        loop = OrderedPairs(pixels, 2048, count, 14)
        assert loop.reaches()
        lines = loop.instructions()
        if "1:" in lines:
            first, last = lines.index("1:"), lines.index("b.ne 1b")
            rounds = count // body(14) - 1
            lines = lines[:first] + lines[first + 1 : last] * rounds + lines[last + 1 :]
        base, read = {"x9": 0, "x10": 0}, {"x9": [], "x10": []}
        for line in lines:
            name, _, operands = line.partition(" ")
            if name == "ldr":
                register, offset = operands.split("[")[1].rstrip("]").split(", #")
                read[register].append(base[register] + int(offset))
            elif name == "add":
                register = operands.split(",")[0]
                base[register] += int(operands.split("#")[1])
        assert sorted(read["x10"]) == list(range(0, BYTES * count, 8))
        assert sorted(read["x9"]) == [i * 2048 + byte for i in range(pixels) for byte in range(0, 2 * count, 8)]


@pytest.mark.parametrize(
    ("core", "wanted"), [("cortex-a53", "u8_mla"), ("cortex-a72", "bit_select"), ("cortex-a76", "sdot")]
)
def test_it_is_chosen_where_the_core_multiplies_fast(core: str, wanted: str) -> None:
    one = DotProblem(1, 14, 14, 256, 512, Operand(2), Operand(2, 1, -2, uniform=True), epilogue=Thresholds(2, 3))
    assert select(one, CORES[core], without=("mla_madd",)).technique.name == wanted
    # A dense layer's weights would be taken apart for one use.
    assert select(replace(one, height=1, width=1), CORES["cortex-a53"]).technique.name == "bit_madd"
