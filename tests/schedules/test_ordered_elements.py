"""Loops written out by `ordered_elements`: what they read, and that every product they make is wanted once."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from schedules.ordered_elements import CHANNELS, MOST_TILES, OrderedElements

LOOPS = [OrderedElements(tiles, 512, channels) for tiles in range(1, MOST_TILES + 1) for channels in (4, 8, 12, 24)]


def unrolled(loop: OrderedElements) -> list[str]:
    """The instructions in the order in which they run."""
    lines = loop.instructions()
    if "1:" not in lines:
        return lines
    first, last = lines.index("1:"), lines.index("b.ne 1b")
    return lines[:first] + lines[first + 1 : last] * (loop.channels // 4 - 2) + lines[last + 1 :]


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
def test_each_sum_meets_its_operands_once(loop: OrderedElements) -> None:
    """Follow bases and registers: what a register holds is where its bytes were read."""
    bases, general = {"x9": 0, "x10": 0}, {}
    holds: dict[int, list[tuple[str, int] | None]] = {}
    read, met, fresh = [], Counter(), Counter()
    for line in unrolled(loop):
        if load := re.fullmatch(r"ldr ([xd])(\d+), \[(x\d+), #(\d+)\]", line):
            place = load[3], bases[load[3]] + int(load[4])
            read.append(place)
            if load[1] == "x":
                general[int(load[2])] = place
            else:
                holds[int(load[2])] = [place, None]
        elif move := re.fullmatch(r"ins v(\d+)\.d\[1\], x(\d+)", line):
            holds[int(move[1])][1] = general[int(move[2])]
        elif move := re.fullmatch(r"fmov d(\d+), x(\d+)", line):
            holds[int(move[1])] = [general[int(move[2])], None]
        elif step := re.fullmatch(r"add (x9|x10), \1, #(\d+)", line):
            bases[step[1]] += int(step[2])
        elif product := re.fullmatch(r"(mul|mla) v(\d+)\.8h, v(\d+)\.8h, v(\d+)\.h\[(\d)\]", line):
            low, high = holds[int(product[3])]
            assert low is not None and high == (low[0], low[1] + 8)
            value = holds[int(product[4])][0]
            assert value is not None
            met[(int(product[2]), value[1] + 2 * int(product[5]), low[1])] += 1
            fresh[int(product[2])] += product[1] == "mul"
        else:
            assert line.split()[0] in ("subs", "mov", "b.ne", "1:"), line
    sums = [int(number) for number in re.findall(r"=\{v(\d+)\}", loop.definition())]
    wanted = Counter(
        (sums[2 * tile + half], tile * loop.stride + 2 * c, c * 2 * CHANNELS + half * CHANNELS)
        for tile in range(loop.tiles)
        for half in (0, 1)
        for c in range(loop.channels)
    )
    assert met == wanted
    assert fresh == Counter(sums)
    assert sorted(at for base, at in read if base == "x9") == sorted(
        tile * loop.stride + byte for tile in range(loop.tiles) for byte in range(0, 2 * loop.channels, 8)
    )
    assert sorted(at for base, at in read if base == "x10") == [*range(0, 2 * CHANNELS * loop.channels, 8)]


def test_what_does_not_fit_is_left_to_llvm() -> None:
    assert OrderedElements(9, 1024, 64).possible()
    assert not OrderedElements(10, 1024, 64).possible()
    assert not OrderedElements(9, 4096, 64).possible()
    assert not OrderedElements(2, 64, 6).possible()
