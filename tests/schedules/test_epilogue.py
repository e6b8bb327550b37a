"""Kernels that end in threshold counting write the codes, packed for the next layer, that the definition gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kernel_runner import (
    Machine,
    build_kernel,
    check_technique,
    constant_operands,
    placed,
    random_operands,
    with_tables,
)

from schedules import reference
from schedules.dot_problem import INT32_MAX, DotProblem, Operand, Thresholds, threshold_dtype
from schedules.layout import Layout
from schedules.techniques import TECHNIQUES

# Codes of activations and weights: products as large as they get, of either sign.
ENDS = ((15, 15), (15, 0), (0, 15), (0, 0))
Machines = Callable[[str], Machine]
CORES = ("host", "cortex-a72")

NARROW = DotProblem(1, 2, 3, 10, 5, Operand(2), Operand(2, 1, 0, 2))
WIDE = DotProblem(1, 2, 3, 3, 5, Operand(8, 1, -100), Operand(8, 1, 0, 128))
NHWC = Layout()


def counting(base: DotProblem, out_channels: int, spec: Thresholds, **change: Any) -> DotProblem:
    """The problem with an epilogue, this many output channels, and other changes."""
    return replace(base, out_channels=out_channels, epilogue=spec, **change)


def planes(bits: int, groups: int = 1) -> Layout:
    """Bit planes."""
    return Layout("planes", bits, groups)


# 15 thresholds are counted one by one, 16 and more by bisection.
LEVELS: Mapping[str, tuple[DotProblem, ...]] = {
    f"{levels} levels": (
        counting(NARROW, 11, Thresholds(levels.bit_length(), levels, out=planes(levels.bit_length()))),
        counting(WIDE, 5, Thresholds(levels.bit_length(), levels)),
    )
    for levels in (1, 2, 3, 5, 15, 16, 20, 255)
}
LAYOUTS: Mapping[str, tuple[DotProblem, ...]] = {
    "planes in groups": (
        counting(NARROW, 8, Thresholds(2, 3, out=planes(2))),
        counting(NARROW, 9, Thresholds(1, 1, out=planes(1, 3))),
        counting(NARROW, 22, Thresholds(3, 5, out=planes(3, 2))),
        counting(WIDE, 7, Thresholds(5, 20, out=planes(5, 7))),
        # The codes need fewer bits than the next layer reads.
        counting(NARROW, 12, Thresholds(2, 3, out=planes(4))),
    ),
    "a side operand": (
        counting(NARROW, 5, Thresholds(2, 3, 1, side=NHWC)),
        counting(NARROW, 10, Thresholds(2, 3, 2, planes(2, 2), planes(2))),
        counting(WIDE, 9, Thresholds(3, 5, 3, NHWC, planes(3, 3))),
        counting(NARROW, 12, Thresholds(4, 15, 4, planes(4), planes(4, 4))),
        counting(WIDE, 11, Thresholds(5, 20, 4, planes(5), NHWC)),
    ),
    "grouped kernels": (
        counting(NARROW, 12, Thresholds(2, 3, out=planes(2, 2)), channels=12, groups=4),
        counting(NARROW, 6, Thresholds(4, 10, 1, planes(4), planes(1, 3)), batch=2, groups=2, kernel=(2, 2)),
        counting(NARROW, 10, Thresholds(5, 17, out=planes(5, 10)), groups=10),
    ),
}

# By a line a code is guessed: for vectors of channels and those left over, and by those that only search.
LINES: Mapping[str, tuple[DotProblem, ...]] = {
    f"{levels} levels": (
        counting(NARROW, 19, Thresholds(levels.bit_length(), levels, out=planes(levels.bit_length()), lines=True)),
        counting(WIDE, 21, Thresholds(levels.bit_length(), levels, lines=True)),
        counting(WIDE, 16, Thresholds(levels.bit_length(), levels, lines=True), channels=40, height=5, width=6),
        counting(NARROW, 20, Thresholds(8, levels, out=planes(8, 2), lines=True), groups=2),
    )
    for levels in (20, 255)
}


# Their accumulators fit 16 bits, by what weights can be at most they do not, and what is added up on the way does not.
MANY = DotProblem(1, 2, 3, 300, 5, Operand(4, 1, -8), Operand(4, offset=-8, uniform=True))
SHORT: Mapping[str, tuple[DotProblem, ...]] = {
    "one row": (
        counting(MANY, 21, Thresholds(2, 3, dtype="int16")),
        counting(MANY, 24, Thresholds(4, 15, out=planes(4), dtype="int16")),
        counting(MANY, 11, Thresholds(5, 20, dtype="int16")),
        counting(MANY, 17, Thresholds(2, 3, dtype="int16"), channels=16, kernel=(3, 3), height=6, padding=(1, 1, 1, 1)),
    ),
    "joined": (
        counting(MANY, 19, Thresholds(2, 3, 1, side=NHWC, dtype="int16")),
        counting(MANY, 19, Thresholds(2, 3, 1, side=NHWC, shift=0, dtype="int16"), channels=120),
        counting(MANY, 40, Thresholds(3, 7, 1, planes(3), planes(1), shift=0, dtype="int16"), channels=120),
    ),
}


@pytest.mark.parametrize("sample", SHORT)
@pytest.mark.parametrize(("core", "technique"), placed(("host", "cortex-a53", "cortex-a76")))
def test_accumulators_that_fit_16_bits_as_weights_are(
    core: str, sample: str, technique: str, machines: Machines
) -> None:
    check_technique(technique, SHORT[sample], machines(core))
    machine, row = machines(core), TECHNIQUES[technique]
    taken = [(p, p.epilogue) for p in SHORT[sample] if row.declines(p, machine.core) is None]
    ends = [(p, with_tables(p, e, constant_operands(p, *codes, -8))) for p, e in taken if e for codes in ENDS]
    machine.check([build_kernel(row, p, machine.core, operands) for p, operands in ends])


# A second operand's codes move accumulators; by how much they are shifted first depends on the tables.
SLANTED: Mapping[str, tuple[DotProblem, ...]] = {
    "few levels": (
        counting(NARROW, 45, Thresholds(2, 3, 2, side=NHWC, shift=0)),
        counting(NARROW, 43, Thresholds(1, 1, 1, planes(1), NHWC, shift=0)),
        counting(NARROW, 40, Thresholds(2, 3, 2, planes(2), planes(2), shift=0)),
        counting(NARROW, 22, Thresholds(3, 5, 3, planes(3, 2), planes(3, 11), shift=0)),
        counting(WIDE, 24, Thresholds(2, 3, 2, side=planes(4, 3), shift=0)),
        counting(WIDE, 27, Thresholds(2, 2, 3, side=NHWC, shift=0)),
    ),
    "many levels": (
        counting(NARROW, 21, Thresholds(4, 15, 4, planes(4), NHWC, shift=0)),
        counting(NARROW, 24, Thresholds(4, 15, 4, planes(4), planes(4), shift=0)),
        counting(WIDE, 14, Thresholds(3, 7, 3, side=NHWC, shift=0)),
        counting(WIDE, 16, Thresholds(3, 7, 2, side=planes(2), shift=0)),
        counting(WIDE, 13, Thresholds(5, 31, 5, side=NHWC, shift=0)),
        counting(WIDE, 8, Thresholds(5, 20, 4, side=planes(4), shift=0)),
    ),
    "in 32 bits": (
        counting(NARROW, 45, Thresholds(2, 3, 2, side=NHWC, shift=0, dtype="int32")),
        counting(NARROW, 40, Thresholds(2, 3, 2, planes(2), planes(2), shift=0, dtype="int32")),
        counting(NARROW, 21, Thresholds(4, 15, 4, planes(4), NHWC, shift=0, dtype="int32")),
        counting(NARROW, 16, Thresholds(5, 20, 4, side=planes(4), shift=0, dtype="int32")),
    ),
    "groups": (
        counting(NARROW, 20, Thresholds(2, 3, 2, side=NHWC, shift=0), channels=12, groups=2),
        counting(NARROW, 32, Thresholds(2, 3, 2, planes(2, 2), planes(2, 2), shift=0), channels=12, groups=2),
        counting(NARROW, 24, Thresholds(2, 3, 2, planes(2), planes(2), shift=0), channels=12, groups=2),
    ),
}


@pytest.mark.parametrize("sample", SLANTED)
@pytest.mark.parametrize(("core", "technique"), placed(("host", "cortex-a53", "cortex-a76")))
def test_codes_of_a_second_operand_move_accumulators(
    core: str, sample: str, technique: str, machines: Machines
) -> None:
    check_technique(technique, SLANTED[sample], machines(core))


@pytest.mark.parametrize("sample", LINES)
@pytest.mark.parametrize(("core", "technique"), placed(("host", "cortex-a53", "cortex-a76")))
def test_codes_guessed_by_lines(core: str, sample: str, technique: str, machines: Machines) -> None:
    check_technique(technique, LINES[sample], machines(core))


@pytest.mark.parametrize("sample", LEVELS)
@pytest.mark.parametrize(("core", "technique"), placed(CORES))
def test_every_number_of_levels(core: str, sample: str, technique: str, machines: Machines) -> None:
    check_technique(technique, LEVELS[sample], machines(core))


@pytest.mark.parametrize("sample", LAYOUTS)
@pytest.mark.parametrize(("core", "technique"), placed(CORES))
def test_every_layout(core: str, sample: str, technique: str, machines: Machines) -> None:
    check_technique(technique, LAYOUTS[sample], machines(core))


def test_the_samples_hold_what_they_promise() -> None:
    assert (NARROW.threshold_dtype, WIDE.threshold_dtype) == ("int16", "int32")
    for problem in (p for samples in (LEVELS, LAYOUTS) for problems in samples.values() for p in problems):
        assert problem.epilogue is not None
        operands = random_operands(problem)
        thresholds, flip = operands.tables[:2]
        assert thresholds.dtype == problem.threshold_dtype
        assert thresholds.shape == (problem.epilogue.rows, problem.epilogue.levels, problem.out_channels)
        assert set(flip) <= {0, 1}
        sums = reference.accumulate(problem, operands.activations, operands.weights, operands.weight_offset)
        assert np.isin(sums, thresholds).any(), "no accumulator equals a threshold: >= is not told from >"


@pytest.mark.parametrize(
    ("bound", "dtype"), [(1, "int16"), (2**15 - 2, "int16"), (2**15 - 1, "int32"), (2**15, "int32")]
)
def test_the_threshold_never_reached_fits_the_type(bound: int, dtype: str) -> None:
    assert threshold_dtype(bound) == dtype
    assert bound + 1 <= np.iinfo(dtype).max
    assert threshold_dtype(INT32_MAX) == "int32"


def test_counting_by_its_definition() -> None:
    accumulators = np.array([-5, 0, 3, 4, 9])[:, None, None, None] + np.array([0, 0])
    thresholds = np.array([[[0, 0], [4, 4], [4, 4]], [[10, 10], [10, 10], [10, 10]]], np.int32)
    flip = np.array([0, 1], np.uint8)
    codes = reference.count_thresholds(accumulators, thresholds, flip)
    assert codes[:, 0, 0, 0].tolist() == [0, 1, 1, 3, 3]
    assert codes[:, 0, 0, 1].tolist() == [3, 2, 2, 0, 0]
    side = np.ones(accumulators.shape, np.uint8)
    assert reference.count_thresholds(accumulators, thresholds, flip, side)[:, 0, 0, 0].tolist() == [0] * 5
