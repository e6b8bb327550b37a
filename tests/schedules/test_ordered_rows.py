"""Loops written out by `ordered_rows`: what they read, and that every product they make is wanted once."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from schedules.ordered_rows import CHANNELS, OPERATIONS, STEP, OrderedRows

LOOPS = [
    OrderedRows(operation, pixels, 1024, steps, 4096 if row.masks else 0)
    for operation, row in OPERATIONS.items()
    for pixels in row.held
    for steps in (1, 2, 3, 6)
]


def unrolled(loop: OrderedRows) -> list[str]:
    """The instructions in the order in which they run."""
    lines = loop.instructions()
    if "1:" not in lines:
        return lines
    first, last = lines.index("1:"), lines.index("b.ne 1b")
    return lines[:first] + lines[first + 1 : last] * (loop.steps - 2) + lines[last + 1 :]


def wanted(loop: OrderedRows) -> Counter[tuple[int, ...]]:
    """Which bytes of activations meet which of weights (and masks), for each sum."""
    step = CHANNELS * STEP
    return Counter(
        (output, i * loop.stride + STEP * s, s * step + j * STEP)
        for output, (i, j) in enumerate((i, j) for i in range(loop.pixels) for j in range(CHANNELS))
        for s in range(loop.steps)
    )


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
def test_each_sum_meets_its_operands_once(loop: OrderedRows) -> None:
    """Follow bases and registers: what a register holds is where its 16 bytes were read."""
    bases, general, holds = {"x9": 0, "x10": 0}, {}, {}
    read, met, masked = [], Counter(), Counter()
    target: dict[int, tuple[int, int]] = {}
    for line in unrolled(loop):
        if load := re.fullmatch(r"ldr ([xd])(\d+), \[(x\d+), #(\d+)\]", line):
            place = load[3], bases[load[3]] + int(load[4])
            read.append(place)
            (general if load[1] == "x" else holds)[int(load[2])] = place
        elif move := re.fullmatch(r"ins v(\d+)\.d\[1\], x(\d+)", line):
            # Both halves of the same 16 bytes.
            base, at = holds[int(move[1])]
            assert general[int(move[2])] == (base, at + 8)
        elif step := re.fullmatch(r"add (x9|x10), \1, #(\d+)", line):
            bases[step[1]] += int(step[2])
        elif first := re.fullmatch(r"(?:smull|smlal|eor|and) v(\d+)\.\S+ v(\d+)\.\S+ v(\d+)\.(?:8b|16b)", line):
            to, a, b = (int(register) for register in first.groups())
            if a == to:
                masked[holds[b][1] - loop.mask] += 1
            else:
                target[to] = holds[a][1], holds[b][1]
                if loop.operation == "smlal":
                    met[(to, *target[to])] += 1
        elif last := re.fullmatch(r"(?:sadalp v(\d+)\.4s|add v(\d+)\.16b, v\d+\.16b), v(\d+)\.\S+", line):
            met[(int(last[1] or last[2]), *target.pop(int(last[3])))] += 1
        elif (count := re.fullmatch(r"cnt v(\d+)\.16b, v(\d+)\.16b", line)) and count[1] != count[2]:
            met[(int(count[1]), *target.pop(int(count[2])))] += 1
    assert met == wanted(loop)
    size = CHANNELS * STEP * loop.steps
    assert sorted(at for base, at in read if base == "x9") == sorted(
        i * loop.stride + byte for i in range(loop.pixels) for byte in range(0, STEP * loop.steps, 8)
    )
    weights = [*range(0, size, 8)]
    if loop.mask:
        assert masked == Counter(dict.fromkeys(range(0, size, STEP), loop.pixels))
        weights += [loop.mask + at for at in weights]
    assert sorted(at for base, at in read if base == "x10") == weights


def test_what_does_not_fit_is_left_to_llvm() -> None:
    assert OrderedRows("smlal", 6, 4608, 288).possible()
    assert not OrderedRows("smlal", 6, 8192, 288).possible()
    assert not OrderedRows("smlal", 1, 64, 4).possible()
    assert not OrderedRows("smlal_wide", 5, 64, 4).possible()
    assert not OrderedRows("ternary", 4, 64, 600, 600 * 64).possible()
    assert not OrderedRows("and", 4, 12, 4).possible()
    assert not OrderedRows("and", 4, 64, 0).possible()
