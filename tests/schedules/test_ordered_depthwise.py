"""The loop that `ordered_depthwise` writes, run here instruction by instruction, against the definition."""

from __future__ import annotations

import re

import numpy as np
import pytest
from kernel_runner import generator

from schedules.ordered_depthwise import LANES, OrderedDepthwise

TAPS = 9


def loop(
    pixels: int, rows: int = 3, stride: int = 1, cut: tuple[int, int] = (0, 0), channels: int = 48, levels: int = 3
) -> OrderedDepthwise:
    """Pixels of a 3x3 convolution, with so many columns outside the image on either side."""
    whole = (pixels - 1) * stride + 3
    first = 3 * (3 - rows)
    return OrderedDepthwise(pixels, rows, 3, stride, cut[0], whole - cut[1], channels, 8192, first, TAPS, levels)


LOOPS = [
    *(loop(pixels, stride=stride) for pixels in (1, 2, 3, 7, 32) for stride in (1, 2, 3, 4)),
    *(loop(pixels, cut=cut, rows=rows) for pixels in (2, 5) for cut in ((1, 0), (0, 1), (1, 1)) for rows in (1, 2, 3)),
    *(loop(4, levels=levels, channels=16) for levels in (1, 2, 5, 7)),
    OrderedDepthwise(6, 1, 9, 2, 3, 17, 32, 0, 0, TAPS, 3),
    OrderedDepthwise(5, 3, 1, 1, 0, 5, 32, 512, 2, 6, 4),
]


def run(loop: OrderedDepthwise, x: np.ndarray, table: np.ndarray, out: np.ndarray) -> int:
    """Do as the instructions say; returns how many ran."""
    memory = {"x": x, "table": table, "out": out}
    at: dict[str, tuple[str, int]] = {"x9": ("x", 0), "x10": ("table", 0), "x11": ("out", 0)}
    number: dict[str, int] = {"xzr": 0}
    moved: dict[str, np.ndarray] = {}
    v = np.full((32, LANES), 0xA5, np.uint8)
    lines, position, zero, steps = loop.instructions(), 0, False, 0
    while position < len(lines):
        line, position, steps = lines[position], position + 1, steps + 1
        name, _, rest = line.partition(" ")
        arguments = rest.split(", ")
        r = [int(register) for register in re.findall(r"\bv(\d+)", rest)]
        if name in ("ldr", "str"):
            base, offset = re.fullmatch(r"\w+, \[(x\d+)(?:, #(\d+))?\]", rest).groups()  # type: ignore[union-attr]
            buffer, begin = memory[at[base][0]], at[base][1] + int(offset or 0)
            size = 16 if name == "str" else 8
            assert 0 <= begin <= len(buffer) - size, line
            if name == "str":
                buffer[begin : begin + 16] = v[int(arguments[0][1:])]
            elif arguments[0][0] == "x":
                moved[arguments[0]] = buffer[begin : begin + 8].copy()
            else:
                v[int(arguments[0][1:])] = np.concatenate([buffer[begin : begin + 8], np.zeros(8, np.uint8)])
        elif name == "ins":
            v[r[0], 8:] = moved[arguments[1]]
        elif name == "movi":
            v[r[0]] = int(arguments[1][1:])
        elif name in ("mov", "movz"):
            number[arguments[0]] = int(arguments[1][1:])
        elif name == "movk":
            number[arguments[0]] += int(arguments[1][1:]) << 16
        elif name == "subs":
            number[arguments[0]] -= int(arguments[2][1:])
            zero = number[arguments[0]] == 0
        elif name == "csel":
            number[arguments[0]] = number[arguments[2] if zero else arguments[1]]
        elif name in ("add", "sub") and not r:
            # An address and a number, in either order; a row's base begins as a number.
            base, other = (arguments[1:] if arguments[1] in at else arguments[:0:-1])[:2]
            amount = int(other[1:]) if other[0] == "#" else number[other]
            at[arguments[0]] = at[base][0], at[base][1] + (amount if name == "add" else -amount)
        elif name == "add":
            v[r[0]] = v[r[1]] + v[r[2]]
        elif name in ("mul", "mla"):
            product = v[r[1]] * v[r[2]]
            v[r[0]] = product + v[r[0]] if name == "mla" else product
        elif name == "cmgt":
            v[r[0]] = np.where(v[r[1]].view(np.int8) > v[r[2]].view(np.int8), 255, 0)
        elif name == "b.ne":
            position = position if zero else lines.index("1:")
        else:
            assert line == "1:"
    return steps


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
def test_it_writes_every_code(loop: OrderedDepthwise) -> None:
    assert loop.possible()
    random = generator(loop.name)
    span, blocks = loop.end - loop.begin, loop.channels // LANES
    image = random.integers(0, 4, (loop.rows, span, loop.channels), np.uint8)
    x = np.zeros((loop.rows - 1) * loop.row + span * loop.channels, np.uint8)
    for row in range(loop.rows):
        x[row * loop.row :][: span * loop.channels] = image[row].reshape(-1)
    table = random.integers(-2, 2, (blocks, loop.tables + loop.levels, LANES), np.int8)
    table[:, loop.tables :] = random.integers(-9, 9, table[:, loop.tables :].shape)
    out = np.full(loop.pixels * loop.channels, 0xA5, np.uint8)
    steps = run(loop, x, table.reshape(-1).view(np.uint8), out)

    taps = table[:, loop.tap :][:, : loop.rows * loop.taps].transpose(1, 0, 2)
    weights = taps.reshape(loop.rows, loop.taps, loop.channels).astype(int)
    thresholds = table[:, loop.tables :].transpose(1, 0, 2).reshape(loop.levels, loop.channels)
    for pixel, codes in enumerate(out.reshape(loop.pixels, loop.channels)):
        inside = loop.columns(pixel)
        met = image[:, inside.start - loop.begin : inside.stop - loop.begin].astype(int)
        first = inside.start - pixel * loop.stride
        sums = (met * weights[:, first : first + len(inside)]).sum(axis=(0, 1))
        np.testing.assert_array_equal(codes, (sums >= thresholds).sum(axis=0))
    products = loop.rows * sum(len(loop.columns(i)) for i in range(loop.pixels))
    assert steps > blocks * products


def test_what_does_not_fit_is_said() -> None:
    assert loop(8).possible()
    # No column inside, an odd number of channels, too far, too many registers.
    assert not loop(1, cut=(3, 0)).possible()
    assert not loop(8, channels=24).possible()
    assert not loop(32, channels=1024).possible()
    assert not loop(8, levels=12).possible()
    assert not OrderedDepthwise(8, 4, 3, 1, 0, 10, 48, 480, 0, 12, 3).possible()
