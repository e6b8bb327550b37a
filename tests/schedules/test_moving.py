"""Kernels that move, pool, join and quantise codes, against NumPy."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import tvm

from schedules import reference
from schedules.dot_problem import Thresholds
from schedules.layout import Layout, pack
from schedules.moving import Window, concat_kernel, max_pool_kernel, repack_kernel, requantize_pixels, take_kernel

SHAPE = (2, 5, 6, 24)


def run(kernel: Any, *arrays: Any) -> Any:
    """The last array as the kernel left it."""
    library = tvm.compile(tvm.IRModule({"main": kernel}), target="llvm")
    tensors = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays]
    library["main"](*tensors)
    return tensors[-1].numpy()


def codes_of(shape: tuple[int, ...], bits: int) -> Any:
    """Reproducible codes."""
    return np.random.default_rng(len(shape) + bits).integers(0, 1 << bits, shape).astype(np.uint8)


def garbage(like: Any) -> Any:
    """What is to be overwritten, all of it."""
    return np.full_like(like, 0xA5)


LAYOUTS = [Layout(), Layout("planes", 3), Layout("planes", 3, 2), Layout("planes", 3, 3)]


@pytest.mark.parametrize(("source", "target"), [(a, b) for a, b in product(LAYOUTS, LAYOUTS) if a != b])
@pytest.mark.parametrize("channels", [24, 6])
def test_repack(source: Layout, target: Layout, channels: int) -> None:
    """Every layout into every other, channels in whole bytes or not."""
    shape = (*SHAPE[:3], channels)
    codes = codes_of(shape, 3)
    expected = pack(codes, target)
    got = run(repack_kernel(shape, source, target), pack(codes, source), garbage(expected))
    np.testing.assert_array_equal(got, expected)


def pooled(codes: Any, window: Window) -> Any:
    """Window by window."""
    n, h, w, c = codes.shape
    (top, left, bottom, right), (ky, kx) = window.padding, window.size
    spans = [d * (k - 1) + 1 for d, k in zip(window.dilation, window.size, strict=True)]
    oh, ow = (
        (e - s) // t + 1 for e, s, t in zip((h + top + bottom, w + left + right), spans, window.stride, strict=True)
    )
    padded = np.pad(codes, ((0, 0), (top, bottom), (left, right), (0, 0)))
    out = np.zeros((n, oh, ow, c), np.uint8)
    for y, x, dy, dx in np.ndindex(oh, ow, ky, kx):
        row, column = y * window.stride[0] + dy * window.dilation[0], x * window.stride[1] + dx * window.dilation[1]
        out[:, y, x] = np.maximum(out[:, y, x], padded[:, row, column])
    return out


WINDOWS = [
    Window((3, 3), (2, 2), (1, 1, 1, 1)),
    Window((2, 2), (2, 2), (0, 0, 0, 0)),
    Window((3, 2), (1, 2), (0, 1, 2, 0), (2, 1)),
]
POOLS = [(8, Layout(), Layout()), (2, Layout(), Layout("planes", 2)), (1, Layout("planes", 1), Layout("planes", 1))]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("bits", "source", "target"), [*POOLS, (1, *(Layout("planes", 1, 2),) * 2)])
@pytest.mark.parametrize("channels", [32, 22])
def test_max_pool(window: Window, bits: int, source: Layout, target: Layout, channels: int) -> None:
    """Windows in the image and over its border."""
    codes = codes_of((*SHAPE[:3], channels), bits)
    result = pooled(codes, window)
    expected = pack(result, target)
    kernel = max_pool_kernel(codes.shape, window, result.shape, source, target)
    np.testing.assert_array_equal(run(kernel, pack(codes, source), garbage(expected)), expected)


def test_pooling_of_wider_planes_is_refused() -> None:
    """The largest code is no bit operation on planes."""
    with pytest.raises(ValueError, match="pooling reads plain codes, or planes of 1 bit into the same"):
        max_pool_kernel(SHAPE, WINDOWS[1], (2, 2, 3, 24), Layout("planes", 2), Layout("planes", 2))


@pytest.mark.parametrize("target", [Layout(), Layout("planes", 4)])
def test_concat(target: Layout) -> None:
    """Channels of several tensors side by side."""
    parts = [codes_of((*SHAPE[:3], c), 4) for c in (16, 5, 11)]
    together = np.concatenate(parts, axis=3)
    expected = pack(together, target)
    got = run(concat_kernel(together.shape, [16, 5, 11], target), *parts, garbage(expected))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("target", [Layout(), Layout("planes", 3)])
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("channels", [24, 21])
def test_take(target: Layout, axis: int, channels: int) -> None:
    """Rows or columns in any order, several times or not at all."""
    shape = (*SHAPE[:3], channels)
    codes, indices = codes_of(shape, 3), np.array([3, 0, 0, 4, 3, 1, 1], np.int32)
    expected = pack(codes.take(indices, axis), target)
    kernel = take_kernel(shape, axis, codes.take(indices, axis).shape, target)
    np.testing.assert_array_equal(run(kernel, codes, indices, garbage(expected)), expected)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@pytest.mark.parametrize("falls", [0, 1])
@pytest.mark.parametrize("side", [None, Layout(), Layout("planes", 2)])
@pytest.mark.parametrize("target", [Layout(), Layout("planes", 2)])
def test_requantize_pixels(dtype: str, falls: int, side: Layout | None, target: Layout) -> None:
    """Codes or accumulators, with a second operand or without."""
    random = np.random.default_rng(3)
    low, high = (0, 256) if dtype == "uint8" else (-900, 900)
    values = random.integers(low, high, SHAPE).astype(dtype)
    rows = 1 if side is None else 4
    rises = np.sort(random.integers(low, high, (rows, 3, SHAPE[3])).astype(np.int16), axis=1)
    # What falls has risen: a fall lies beyond the last rise.
    down = (rises[:, -1:] + 40) if falls else None
    flip = np.zeros(SHAPE[3], np.uint8) if falls else random.integers(0, 2, SHAPE[3]).astype(np.uint8)
    beside = None if side is None else codes_of(SHAPE, 2)
    spec = Thresholds(2, 3, 0 if side is None else 2, target, side, falls)
    expected = pack(reference.count_thresholds(values.astype(np.int64), rises, flip, beside, down), target)
    tables = [t for t in (rises, flip, down) if t is not None]
    sides = [] if beside is None or side is None else [pack(beside, side)]
    kernel = requantize_pixels(SHAPE, dtype, spec, "int16")
    np.testing.assert_array_equal(run(kernel, values, *tables, *sides, garbage(expected)), expected)
