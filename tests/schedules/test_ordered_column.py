"""The loop that `ordered_column` writes, run here instruction by instruction; and dense layers on the emulated core."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from kernel_runner import Machine, build_kernel, constant_operands, generator

from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.ordered_column import CHANNELS, STEP, OrderedColumn
from schedules.techniques.bit_serial import BitSerial

LOOPS = [
    OrderedColumn(2, 2, 8, 128, 3),
    OrderedColumn(2, 2, 2, 32, 1),
    OrderedColumn(1, 2, 3, 64, 2),
    OrderedColumn(1, 1, 12, 192, 4),
    OrderedColumn(3, 2, 1, 16, 2),
]


def executed(loop: OrderedColumn) -> Iterator[str]:
    """The instructions in the order in which they run."""
    lines = loop.instructions()
    if "1:" not in lines:
        return iter(lines)
    first, last = lines.index("1:"), lines.index("b.ne 1b")
    return iter(lines[:first] + lines[first + 1 : last] * (loop.blocks - 2) + lines[last + 1 :])


def run(loop: OrderedColumn, codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What the instructions leave in memory; registers begin with what no sum is made of."""
    memory = {"x9": codes, "x10": weights, "x2": np.zeros(2 * CHANNELS * loop.blocks, np.uint8)}
    at, general = dict.fromkeys(memory, 0), {}
    v = np.full((32, 16), 0xA5, np.uint8)
    for line in executed(loop):
        name, rest = line.split(" ", 1)
        r = [int(number) for number in re.findall(r"\bv(\d+)", rest)]
        if load := re.fullmatch(r"ldr ([xd])(\d+), \[(x\d+), #(\d+)\]", line):
            place = at[load[3]] + int(load[4])
            eight = memory[load[3]][place : place + 8]
            assert len(eight) == 8
            if load[1] == "x":
                general[load[2]] = eight
            else:
                v[int(load[2])] = np.concatenate([eight, np.zeros(8, np.uint8)])
        elif move := re.fullmatch(r"ins v(\d+)\.d\[1\], x(\d+)", line):
            v[int(move[1]), 8:] = general[move[2]]
        elif move := re.fullmatch(r"ins v(\d+)\.h\[(\d)\], w8", line):
            v[int(move[1])].view(np.uint16)[int(move[2])] = general["8"]
        elif move := re.fullmatch(r"mov (?:w|x)8, #(\d+)", line):
            general["8"] = int(move[1])
        elif name == "and":
            v[r[0]] = v[r[1]] & v[r[2]]
        elif name == "cnt":
            v[r[0]] = np.bitwise_count(v[r[1]])
        elif name == "add" and r:
            v[r[0]] = v[r[1]] + v[r[2]]
        elif step := re.fullmatch(r"add (x\d+), \1, #(\d+)", line):
            at[step[1]] += int(step[2])
        elif name == "uaddlp":
            v[r[0]] = v[r[1]].reshape(-1, 2).sum(axis=1).astype(np.uint16).view(np.uint8)
        elif mla := re.fullmatch(r"mla v(\d+)\.8h, v(\d+)\.8h, v(\d+)\.h\[(\d)\]", line):
            one = v[int(mla[3])].view(np.uint16)[int(mla[4])]
            v[int(mla[1])] = (v[int(mla[1])].view(np.uint16) + v[int(mla[2])].view(np.uint16) * one).view(np.uint8)
        elif name == "addp":
            both = np.concatenate([v[r[1]], v[r[2]]]).view(np.uint16)
            v[r[0]] = both.reshape(-1, 2).sum(axis=1).astype(np.uint16).view(np.uint8)
        elif store := re.fullmatch(r"str q(\d+), \[x2\], #16", line):
            memory["x2"][at["x2"] : at["x2"] + 16] = v[int(store[1])]
            at["x2"] += 16
        else:
            assert name == "subs", line
    return memory["x2"].view(np.uint16)


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
@pytest.mark.parametrize("full", [False, True])
def test_the_instructions_give_the_sums(loop: OrderedColumn, full: bool) -> None:
    assert loop.possible()
    random = generator(loop)
    codes = random.integers(0, 256, loop.a_bits * loop.stride, np.uint8)
    weights = random.integers(0, 256, (loop.blocks, 2, loop.w_bits, loop.steps, 4, STEP), np.uint8)
    if full:
        codes[:], weights[:] = 255, 255
    a = codes.reshape(loop.a_bits, loop.stride)[:, : loop.steps * STEP]
    w = weights.transpose(0, 1, 4, 2, 3, 5).reshape(loop.blocks * CHANNELS, loop.w_bits, -1)
    ones = np.bitwise_count(a[None, :, None] & w[:, None]).sum(axis=-1, dtype=np.int64)
    factors = 1 << np.add.outer(np.arange(loop.a_bits), np.arange(loop.w_bits))
    np.testing.assert_array_equal(run(loop, codes, weights.reshape(-1)), (ones * factors).sum(axis=(1, 2)))


def test_what_does_not_fit_is_left_to_the_other_loops() -> None:
    # A ninth step of two planes leaves too few registers; more pairs of planes than a byte counts; 32-bit sums.
    assert not OrderedColumn(2, 2, 9, 144, 2).possible()
    assert not OrderedColumn(1, 1, 32, 512, 2).possible()
    assert not OrderedColumn(3, 5, 4, 64, 2).possible()
    assert not OrderedColumn(2, 2, 2, 36, 2).possible()


def test_dense_layers_are_exact(machines: Callable[[str], Machine]) -> None:
    machine, technique, kernels = machines("cortex-a53"), BitSerial(), []
    base = DotProblem(1, 1, 1, 1024, 24, Operand(2), Operand(2, offset=-2, uniform=True))
    problems = (
        base,
        replace(base, channels=1000, out_channels=13, epilogue=Thresholds(2, 3)),
        replace(base, channels=256, out_channels=5, batch=2),
        replace(base, channels=128, a=Operand(1), w=Operand(2, 2, -3, uniform=True)),
        replace(base, channels=1025),
    )
    for problem in problems:
        kernels.append(build_kernel(technique, problem, machine.core))
        if problem.epilogue is None:
            full = constant_operands(problem, problem.a.max_code, problem.w.max_code, problem.w.offset)
            kernels.append(build_kernel(technique, problem, machine.core, full))
    machine.check(kernels)
