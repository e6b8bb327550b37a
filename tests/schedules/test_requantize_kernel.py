"""Threshold counting on its own equals the definition for any shape, accumulator type and side operand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from kernel_runner import Kernel, Machine, generator, random_tables

from schedules import reference
from schedules.dot_problem import Thresholds
from schedules.requantize import requantize_kernel

Machines = Callable[[str], Machine]
SHAPES = ((5, 7), (2, 6, 3, 5), (1, 1), (3, 1, 2, 2))
LEVELS = (1, 2, 3, 5, 15, 16, 20, 255)
BOUND = {"uint8": 255, "int32": 2**30}


def sample(shape: tuple[int, ...], axis: int, dtype: str, levels: int, side_bits: int) -> Kernel:
    """The kernel on random accumulators of the whole range of their type."""
    spec = Thresholds(levels.bit_length(), levels, side_bits)
    random = generator((shape, axis, dtype, levels, side_bits))
    bound = BOUND[dtype]
    accumulators = random.integers(0 if dtype == "uint8" else -bound, bound, shape, dtype, endpoint=True)
    last = np.moveaxis(accumulators, axis, -1).astype(np.int64)
    table_dtype = "int16" if dtype == "uint8" else "int32"
    thresholds, flip = random_tables(spec, last, bound, table_dtype, random)
    side = random.integers(0, spec.rows, shape, np.uint8)
    codes = reference.count_thresholds(last, thresholds, flip, np.moveaxis(side, axis, -1))
    expected = np.ascontiguousarray(np.moveaxis(codes, -1, axis))
    function = requantize_kernel(shape, dtype, axis, spec, table_dtype)
    arguments = [accumulators, thresholds, flip, *([side] if side_bits else [])]
    return Kernel(function, arguments, expected, f"{dtype} {shape} axis {axis}, {spec}")


@pytest.mark.parametrize("side_bits", [0, 2])
@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("core", ["host", "cortex-a72"])
def test_counting_equals_the_definition(core: str, dtype: str, side_bits: int, machines: Machines) -> None:
    # The first two shapes take turns: each meets both ways of counting.
    pairs = [(SHAPES[i % 2], levels) for i, levels in enumerate(LEVELS)]
    pairs += [(shape, levels) for shape in SHAPES[2:] for levels in (3, 20)]
    machines(core).check([sample(shape, 1, dtype, levels, side_bits) for shape, levels in pairs])


def test_the_channels_may_be_the_last_axis(machines: Machines) -> None:
    machines("host").check([sample((2, 3, 4, 5), 3, "int32", levels, 2) for levels in (3, 20)])


@pytest.mark.parametrize("side_bits", [0, 2])
@pytest.mark.parametrize("core", ["host", "cortex-a72"])
def test_thresholds_that_fall_again(core: str, side_bits: int, machines: Machines) -> None:
    """Codes that fall and rise: counted up where rises are reached, down where falls are."""
    kernels = []
    for levels, falls in ((1, 1), (3, 2), (18, 3), (20, 15), (255, 100), (255, 255)):
        top = max(levels, falls)
        spec = Thresholds(top.bit_length(), levels, side_bits, falls=falls)
        random = generator((levels, falls, side_bits))
        shape = (2, 6, 3, 5)
        accumulators = random.integers(-1000, 1000, shape, "int32", endpoint=True)
        # All levels are reached from the start, fall below 0, and some are reached again above.
        rises = np.full((spec.rows, levels, 6), np.iinfo(np.int16).min, np.int16)
        again = np.sort(random.integers(0, 1001, (spec.rows, levels // 2, 6)), axis=1)
        if levels > falls:
            rises[:, levels - min(levels - falls, levels // 2) :] = again[:, -min(levels - falls, levels // 2) :]
        lower = np.sort(random.integers(-1000, 0, (spec.rows, falls, 6)), axis=1).astype(np.int16)
        flip = np.zeros(6, np.uint8)
        side = random.integers(0, spec.rows, shape, np.uint8)
        last = np.moveaxis(accumulators, 1, -1).astype(np.int64)
        codes = reference.count_thresholds(last, rises, flip, np.moveaxis(side, 1, -1), lower)
        assert len(np.unique(codes)) > 1
        function = requantize_kernel(shape, "int32", 1, spec, "int16")
        arguments = [accumulators, rises, flip, lower, *([side] if side_bits else [])]
        expected = np.ascontiguousarray(np.moveaxis(codes, -1, 1))
        kernels.append(Kernel(function, arguments, expected, f"{levels} rises, {falls} falls, {side_bits} side bits"))
    machines(core).check(kernels)
