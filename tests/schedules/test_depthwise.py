"""``depthwise``: every width and geometry, sums at the ends of their range, and what it declines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from kernel_runner import Machine, build_kernel, constant_operands, evaluate, random_operands

from schedules.cores import CORES
from schedules.depthwise_codes import MOST_LEVELS
from schedules.depthwise_sums import together
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.layout import Layout
from schedules.techniques import select
from schedules.techniques.depthwise import Depthwise, sum_dtype

Machines = Callable[[str], Machine]
MACHINES = ("host", "cortex-a72", "cortex-a53")
DEPTHWISE = Depthwise()
A72 = CORES["cortex-a72"]


def signed(bits: int) -> Operand:
    """Weights of a signed quantiser."""
    return Operand(bits, 1, -1 << (bits - 1), uniform=True)


def depthwise(channels: int, **fields: object) -> DotProblem:
    """A 3x3 convolution of each channel."""
    usual = {"height": 5, "width": 9, "a": Operand(2), "w": signed(2), "kernel": (3, 3), "padding": (1, 1, 1, 1)}
    sizes = {"channels": channels, "out_channels": channels, "groups": channels}
    return DotProblem(**{"batch": 1, **usual, **sizes, **fields})  # type: ignore[arg-type] - a mapping of fields


BIPOLAR = Operand(1, 2, -1, uniform=True)
SHAPES = (
    depthwise(16),
    # Vectors of 16, of 8, and single channels.
    depthwise(31, height=4, width=5),
    depthwise(1),
    depthwise(7, stride=(2, 2)),
    depthwise(40, stride=(2, 1), padding=(0, 1, 2, 0), width=10),
    depthwise(24, kernel=(5, 5), padding=(2, 2, 2, 2), height=3, width=3),
    depthwise(17, kernel=(1, 4), padding=(0, 2, 0, 1), height=1, width=20),
    depthwise(16, dilation=(2, 3), padding=(2, 3, 2, 3), height=7),
    depthwise(9, padding=(-1, 0, 1, -2), height=6),
    # Whole pixels, rows or columns see padding only.
    depthwise(20, kernel=(2, 2), padding=(3, 4, 3, 4), height=2, width=2, a=Operand(3, 1, -3)),
    depthwise(18, kernel=(1, 1), padding=(2, 1, 0, 3), a=Operand(2, 1, 5)),
    depthwise(16, height=1, width=1),
    # Codes of which none stands for 0.
    depthwise(12, a=BIPOLAR, w=BIPOLAR),
    depthwise(16, a=Operand(3, 2, -7), w=Operand(2, 2, -3, uniform=True), stride=(2, 2)),
)
# Kernels whose taps are loops: rows of them, columns at the border, all columns.
LARGE = (
    depthwise(9, kernel=(8, 7), padding=(3, 4, 4, 2), height=6, width=8),
    depthwise(25, kernel=(1, 13), padding=(0, 6, 0, 6), height=2, width=17, a=Operand(3, 1, -3)),
    depthwise(17, kernel=(2, 12), padding=(1, 5, 0, 9), stride=(1, 3), height=3, width=20, a=Operand(8), w=signed(8)),
    depthwise(8, kernel=(1, 13), padding=(0, 20, 0, 15), dilation=(1, 3), height=1, width=7, a=BIPOLAR, w=BIPOLAR),
    depthwise(19, kernel=(33, 32), padding=(16, 15, 16, 16), stride=(2, 2), height=5, width=6, a=Operand(4)),
    depthwise(16, kernel=(1, 34), padding=(0, -1, 0, 3), dilation=(1, 2), height=2, width=75),
)
EPILOGUES = (
    depthwise(24, epilogue=Thresholds(2, 3, out=Layout("planes", 2))),
    depthwise(33, epilogue=Thresholds(4, 15), a=Operand(4), w=signed(4)),
    depthwise(16, epilogue=Thresholds(2, 3, 2, side=Layout("planes", 2))),
    depthwise(20, epilogue=Thresholds(8, 255), a=Operand(8), w=signed(8)),
    depthwise(20, epilogue=Thresholds(8, 255, lines=True), a=Operand(8, 1, -3), w=signed(8)),
    depthwise(10, epilogue=Thresholds(2, 3, out=Layout("planes", 2, 5))),
)


@pytest.mark.parametrize("core", MACHINES)
def test_every_shape(core: str, machines: Machines) -> None:
    machine = machines(core)
    machine.check([build_kernel(DEPTHWISE, problem, machine.core) for problem in (*SHAPES, *LARGE, *EPILOGUES)])


@pytest.mark.parametrize("core", MACHINES)
def test_sums_become_codes_in_registers(core: str, machines: Machines) -> None:
    """Few thresholds, some beyond a byte, codes that count downwards: in every geometry and layout."""
    machine, kernels = machines(core), []
    layouts = (Layout(), Layout("planes", 3))
    for i, problem in enumerate((*SHAPES, *LARGE)):
        levels = 1 + i % MOST_LEVELS
        kernels.append(replace(problem, epilogue=Thresholds(3, levels, out=layouts[i % 2])))
    # What cores in order have loops for: several tiles, strides, rows and columns at every border, dilation of rows.
    wide = depthwise(48, height=6, width=15, batch=2)
    tall = depthwise(32, height=31, width=40)
    strided = replace(wide, stride=(2, 2), padding=(0, 0, 1, 1))
    sides = replace(wide, padding=(2, 2, 2, 2), dilation=(2, 1))
    square = replace(wide, kernel=(2, 3), padding=(0, 2, 1, 1), stride=(1, 3))
    kernels += [replace(p, epilogue=Thresholds(2, 3)) for p in (tall, strided, sides, square)]
    kernels += [replace(wide, epilogue=Thresholds(3, levels, out=out)) for levels in (1, 2, 3, 7) for out in layouts]
    machine.check([build_kernel(DEPTHWISE, problem, machine.core) for problem in kernels])


@pytest.mark.parametrize("tall", [1, 9])
def test_code_does_not_grow_with_the_kernel(tall: int) -> None:
    """Straight code for each column of taps at each pixel of the border takes LLVM minutes."""

    def size(columns: int) -> int:
        padding = (tall // 2, columns // 2, tall // 2, columns // 2)
        problem = depthwise(16, kernel=(tall, columns), padding=padding, height=tall, width=80)
        return len(str(DEPTHWISE.build(problem, DEPTHWISE.knobs(problem, A72), A72)))

    # The number of a pixel that meets all taps has a digit more.
    assert max(size(columns) for columns in (13, 21, 33, 63)) <= size(9)


@pytest.mark.parametrize("core", MACHINES)
def test_every_pair_of_widths(core: str, machines: Machines) -> None:
    """Random codes, and those that make all sums least and most."""
    machine, kernels, types = machines(core), [], set()
    for a_bits in range(1, 9):
        for w_bits in range(1, 9):
            w = BIPOLAR if w_bits == 1 else signed(w_bits)
            problem = depthwise(17, height=3, width=3, a=Operand(a_bits, 1, -(a_bits % 2)), w=w)
            types.add(sum_dtype(problem, machine.core))
            kernels.append(build_kernel(DEPTHWISE, problem, machine.core))
            for code in (0, w.max_code):
                full = constant_operands(problem, problem.a.max_code, code, w.offset)
                kernels.append(build_kernel(DEPTHWISE, problem, machine.core, full))
    assert types == ({"int8", "int16", "int32"} if machine.core.is_arm else {"int16", "int32"})
    machine.check(kernels)


@pytest.mark.parametrize("core", MACHINES)
def test_products_wait_in_16_bits(core: str, machines: Machines) -> None:
    """As many as fit, at both ends of their range."""
    machine, kernels = machines(core), []
    for most, count in ((127, 2), (85, 3), (60, 4), (128, 1)):
        top = min(128 + most, 255)
        w = replace(signed(8), span=(128 - most, top))
        for shape in ({"height": 4, "width": 6}, {"kernel": (5, 6), "padding": (2, 3, 2, 2), "height": 3, "width": 7}):
            problem = depthwise(17, a=Operand(8), w=w, **shape)
            assert together(problem, sum_dtype(problem, machine.core), 128) == count
            kernels.append(build_kernel(DEPTHWISE, problem, machine.core))
            for a, code in ((0, 128 - most), (0, top), (255, 128 - most)):
                full = constant_operands(problem, a, code, w.offset)
                kernels.append(build_kernel(DEPTHWISE, problem, machine.core, full))
    machine.check(kernels)


@pytest.mark.parametrize("core", MACHINES)
def test_knobs(core: str, machines: Machines) -> None:
    machine = machines(core)
    problem = replace(SHAPES[0], batch=2, height=4, width=23, epilogue=Thresholds(2, 3))
    knobs = ({"mr": 1, "tile": 23}, {"mr": 5, "tile": 4}, {"mr": 8, "tile": 8, "parallel": 1}, {"mr": 3, "tile": 7})
    machine.check([build_kernel(DEPTHWISE, problem, machine.core, knobs=some) for some in knobs])


def test_sums_are_as_narrow_as_their_bound() -> None:
    # 9 products of 7 and 2 are 126; one weight more and they are 254.
    assert sum_dtype(depthwise(4, a=Operand(3), w=signed(2)), A72) == "int8"
    assert sum_dtype(depthwise(4, a=Operand(3), w=signed(3)), A72) == "int16"
    # 9 products of 128 and 28 fit 16 bits, with 29 they do not.
    known = replace(signed(8), span=(128 - 28, 128 + 28))
    assert sum_dtype(depthwise(4, a=Operand(8), w=known), A72) == "int16"
    assert sum_dtype(depthwise(4, a=Operand(8), w=replace(known, span=(99, 128))), A72) == "int32"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": 8}, "only for convolutions with one input and one output channel in each group"),
        ({"out_channels": 32}, "only for convolutions with one input and one output channel in each group"),
        ({"w": Operand(2, 1, 0, 2)}, "the output channels' weights have different offsets"),
        ({"w": Operand(8, 1, 0, uniform=True)}, "weights lie in [0, 255], outside a signed byte"),
    ],
)
def test_what_does_not_fit_is_declined(change: dict[str, object], words: str) -> None:
    assert DEPTHWISE.declines(SHAPES[0], A72) is None
    assert words in (DEPTHWISE.declines(replace(SHAPES[0], **change), A72) or "")  # type: ignore[arg-type]


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a72", "cortex-a76", "x86-64-v3"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_it_is_taken(core: str, bits: int) -> None:
    problem = depthwise(64, height=28, width=28, a=Operand(bits), w=signed(bits))
    assert select(problem, CORES[core]).technique.name == "depthwise"


def test_packed_weights_come_back() -> None:
    for problem in (depthwise(19, w=signed(3)), depthwise(40, w=signed(8), kernel=(2, 5))):
        operands = random_operands(problem)
        constant = DEPTHWISE.constants(problem, operands.weights, operands.weight_offset)[0]
        np.testing.assert_array_equal(DEPTHWISE.unpack_weights(problem, constant), operands.weights)

        def element(at: Callable[..., object], o: object, c: object, y: object, x: object, p: DotProblem = problem):  # type: ignore[no-untyped-def]
            return DEPTHWISE.weight_at(p, at, o, c, y, x)

        np.testing.assert_array_equal(evaluate(operands.weights.shape, element, constant), operands.weights)
