"""Tiles that go on in the next row or image: where their pixels are, how many they take, and that kernels are exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import pytest
from kernel_runner import Machine, build_kernel, constant_operands, evaluate

from schedules.code_sum import when
from schedules.cores import CORES
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.layout import Layout
from schedules.ordered_pairs import MOST_PIXELS, OrderedPairs
from schedules.pair_chunks import centred
from schedules.pair_tiles import THREADS, Reckoning, block_cycles, plan
from schedules.pixel_run import MOST_ENDS, across_rows
from schedules.techniques.u8_mla import U8Mla

Machines = Callable[[str], Machine]
A53 = CORES["cortex-a53"]
TWO, AROUND = Operand(2), Operand(2, 1, -2, uniform=True)
IMAGE = DotProblem(2, 5, 7, 16, 11, TWO, AROUND)
THREE = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
SHAPES = (
    IMAGE,
    # Read where they stand, one and two units of codes to a group.
    replace(IMAGE, channels=8, w=Operand(2)),
    replace(IMAGE, groups=2, channels=32, out_channels=18),
    replace(IMAGE, **THREE),
    # Whole vectors: sums of codes by the way, for all patches and for those inside.
    replace(IMAGE, channels=32, kernel=(3, 2), batch=1),
    replace(IMAGE, channels=32, batch=3, height=6, stride=(2, 2), **THREE),
    # No code stands for padded positions: what corrects for them differs by row and column.
    replace(IMAGE, a=Operand(2, 2, -3), **THREE),
    replace(IMAGE, a=Operand(1, 2, -1), w=Operand(1, 2, -1, uniform=True), stride=(1, 2), **THREE),
    # One-dimensional, and dense of a batch.
    replace(IMAGE, height=1, width=23, kernel=(1, 3), padding=(0, 1, 0, 1)),
    replace(IMAGE, height=1, width=1, batch=13, channels=40),
    # Centred codes, copied as they are changed.
    replace(IMAGE, a=Operand(3), w=Operand(3, 1, -4, uniform=True)),
    replace(IMAGE, a=Operand(3), w=Operand(3, 1, -4, uniform=True), channels=32, **THREE),
    replace(IMAGE, out_channels=16, epilogue=Thresholds(2, 3, out=Layout("planes", 2))),
    replace(IMAGE, out_channels=16, epilogue=Thresholds(2, 3, side=Layout(), side_bits=2), **THREE),
)


@pytest.mark.parametrize(
    ("batch", "height", "width", "pixels", "compared"),
    [(1, 4, 7, 8, True), (3, 4, 7, 2, True), (3, 2, 7, 30, False), (2, 5, 1, 3, True), (1, 9, 3, 8, True)],
)
def test_pixels_are_where_counting_row_by_row_finds_them(
    batch: int, height: int, width: int, pixels: int, compared: bool
) -> None:
    """Runs with few ends of rows, and with many."""
    assert ((width + pixels - 2) // width <= MOST_ENDS) == compared
    problem = replace(IMAGE, batch=batch, height=height, width=width)

    def number(stands: bool) -> Any:
        def at(read: Any, first: Any, pixel: Any) -> Any:
            run = across_rows(problem, first, pixels)
            n, y, x = run.stands(pixel) if stands else run.place(pixel)
            return n * 10000 + y * 100 + x

        return evaluate((batch * height * width, pixels), at, np.zeros(1, np.int32))

    placed, stands = number(False), number(True)
    for first, pixel in np.ndindex(placed.shape):
        assert stands[first, pixel] == first + pixel
        if first + pixel < batch * height * width:
            n, y, x = np.unravel_index(first + pixel, (batch, height, width))
            assert placed[first, pixel] == n * 10000 + y * 100 + x


@pytest.mark.parametrize(("tile", "mr"), [(1, 1), (11, 11), (13, 5), (24, 10), (64, 8)])
def test_tiles_across_rows_and_images_are_exact(tile: int, mr: int, machines: Machines) -> None:
    machine = machines("cortex-a53")
    kernels = [build_kernel(U8Mla(), p, A53, None, {"tile": tile, "mr": mr, "parallel": tile % 2}) for p in SHAPES]
    machine.check(kernels)


def test_every_number_of_pixels_to_a_block_is_exact(machines: Machines) -> None:
    """Rounds of the loop and none, lanes that begin with something, patches that one base does not reach."""
    kernels = []
    for pixels in range(1, MOST_PIXELS + 1):
        for channels, a, w in (
            (24, TWO, AROUND),
            (312, TWO, AROUND),
            (144, Operand(3), Operand(3, 1, -4, uniform=True)),
        ):
            problem = replace(IMAGE, channels=channels, out_channels=8, a=a, w=w)
            assert centred(problem) == (a.bits == 3)
            kernels.append(build_kernel(U8Mla(), problem, A53, None, {"tile": pixels, "mr": pixels}))
    for pixels, channels in ((11, 4600), (9, 8200)):
        problem = replace(IMAGE, batch=1, height=1, width=pixels, channels=channels, out_channels=8)
        assert OrderedPairs(pixels, channels, channels // 2, 14).reaches()
        assert OrderedPairs(pixels, channels, channels // 2, 14).share < pixels
        full = constant_operands(problem, 3, 3, -2)
        kernels += [build_kernel(U8Mla(), problem, A53, o, {"tile": pixels, "mr": pixels}) for o in (None, full)]
    machines("cortex-a53").check(kernels)


@pytest.mark.parametrize(
    ("bits", "weights", "channels", "often"),
    [(2, 2, 64, False), (2, 2, 160, True), (6, 1, 32, True), (6, 1, 80, None), (2, 2, 24, None), (1, 1, 16, False)],
)
def test_sums_of_codes_that_are_copied_do_not_overflow(
    bits: int, weights: int, channels: int, often: bool | None, machines: Machines
) -> None:
    w = Operand(weights, 1, -1, uniform=True)
    problem = replace(IMAGE, batch=1, height=4, channels=channels, a=Operand(bits), w=w, **THREE)
    assert when(problem, channels) is often
    full = constant_operands(problem, problem.a.max_code, problem.w.max_code, -1)
    machines("cortex-a53").check([build_kernel(U8Mla(), problem, A53, operands) for operands in (full, None)])


@pytest.mark.parametrize("side", [1, 7, 14, 28, 56])
@pytest.mark.parametrize("row", [64, 576, 1152, 4608])
def test_tiles_are_shared_by_threads(side: int, row: int) -> None:
    """The last of four threads has little more to do than the others, and blocks are no smaller than need be."""
    layer = Reckoning(side * side, row // 2, 14, 1, 128)
    tile, mr = plan(layer, shared=True)
    assert 1 <= mr <= min(tile, MOST_PIXELS) and tile <= side * side
    rounds = ceil(ceil(side * side / tile) / THREADS)
    assert side == 1 or rounds * tile <= 1.25 * max(side * side / THREADS, MOST_PIXELS)
    alone = plan(layer, shared=False)
    assert layer.cost(*alone, shared=False) <= layer.cost(tile, mr, shared=False)
    assert layer.cost(tile, mr, shared=True) <= layer.cost(*alone, shared=True)


def test_larger_blocks_are_reckoned_to_take_less_for_a_pixel() -> None:
    each = {n: block_cycles(n, 1152, 14) / n for n in range(4, MOST_PIXELS + 1)}
    assert each[10] < each[8] < each[6] < each[4]
