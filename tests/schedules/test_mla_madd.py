"""``mla_madd``: every shape on the emulated core, bytes filled to the last, its packed weights, what it declines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from kernel_runner import Machine, build_kernel, constant_operands, evaluate, random_operands

from schedules.beside_pairs import CHANNELS, MOST_FIELDS, MOST_PIXELS, WORD, BesidePairs, reached
from schedules.beside_tiles import division
from schedules.cores import CORES
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.layout import Layout
from schedules.techniques import TECHNIQUES, select
from tvm_lowbit.metering.kernels import meter_kernel

A53 = CORES["cortex-a53"]
TECHNIQUE = TECHNIQUES["mla_madd"]
W2 = Operand(2, 1, -2, uniform=True)
BASE = DotProblem(1, 5, 7, 128, 24, Operand(2), W2)
PROBLEMS = (
    BASE,
    # Filled up to eight codes; a channel's own offset; one block, and two.
    replace(BASE, channels=97, out_channels=3, w=Operand(2, 1, 0, 3)),
    replace(BASE, channels=333, out_channels=13, batch=2, epilogue=Thresholds(2, 3, out=Layout("planes", 2))),
    replace(BASE, channels=16, kernel=(3, 3), padding=(1, 1, 1, 1)),
    replace(BASE, height=6, width=9, channels=24, kernel=(3, 3), stride=(2, 2), padding=(1, 0, 1, 1)),
    replace(BASE, channels=256, groups=2, out_channels=18, a=Operand(2, 2, -3)),
    replace(BASE, channels=128, w=Operand(2, 2, -3, uniform=True)),
    replace(BASE, channels=80, a=Operand(1), epilogue=Thresholds(2, 3)),
    # Pairs that are no whole vector of packed weights.
    replace(BASE, channels=56, w=Operand(1)),
    # More rounds than one, with pairs left.
    replace(BASE, channels=600, width=3, out_channels=8),
)


def test_exact(machines: Callable[[str], Machine]) -> None:
    machine, kernels = machines("cortex-a53"), []
    for problem in PROBLEMS:
        assert TECHNIQUE.declines(problem, A53) is None
        kernels.append(build_kernel(TECHNIQUE, problem, A53))
        if problem.epilogue is None:
            # Each byte of a product as full as it can be.
            full = constant_operands(problem, problem.a.max_code, problem.w.max_code, problem.w.offset)
            kernels.append(build_kernel(TECHNIQUE, problem, A53, full))
    machine.check(kernels)


def test_every_number_of_pixels_is_exact(machines: Callable[[str], Machine]) -> None:
    shapes = [replace(BASE, height=1, width=width, channels=208, out_channels=8) for width in range(1, 24)]
    machines("cortex-a53").check([build_kernel(TECHNIQUE, p, A53) for p in shapes])


def test_every_number_of_codes_that_it_takes_is_exact(machines: Callable[[str], Machine]) -> None:
    shapes = [replace(BASE, height=1, width=5, channels=k, out_channels=8) for k in range(8, 3200, 8)]
    taken = [p for p in shapes if TECHNIQUE.declines(p, A53) is None]
    machines("cortex-a53").check([build_kernel(TECHNIQUE, p, A53) for p in (*taken[:12], *taken[12::16])])


def test_no_byte_of_a_product_overflows() -> None:
    most = max(TECHNIQUES["mla_madd"].dot(p).way.fields for p in PROBLEMS)
    assert most == MOST_FIELDS and MOST_FIELDS * WORD * 3 * 3 <= 255


@pytest.mark.parametrize("pixels", range(1, MOST_PIXELS + 1))
@pytest.mark.parametrize(("codes", "stride"), [(24, 24), (64, 64), (200, 5000), (256, 256), (576, 6000), (1304, 1304)])
def test_nothing_is_read_past_the_operands(pixels: int, codes: int, stride: int) -> None:
    """Follow the bases through the written loop: all codes and weights are loaded, and nothing else is."""
    way = division(codes // 2, 14)
    assert way is not None
    loop = BesidePairs(pixels, stride, way.first, 14, 0, way.words, way.fields)
    assert loop.reaches()
    lines = loop.instructions()
    if "1:" in lines:
        first, last = lines.index("1:"), lines.index("b.ne 1b")
        lines = lines[:first] + lines[first + 1 : last] * way.words + lines[last + 1 :]
    base: dict[str, tuple[str, int]] = {"x9": ("codes", 0), "x10": ("weights", 0)}
    read: dict[str, set[int]] = {"codes": set(), "weights": set()}
    for line in lines:
        name, _, operands = line.partition(" ")
        if name in ("ldr", "ldp"):
            register, offset = operands.split("[")[1].rstrip("]").split(", #")
            which, at = base[register]
            read[which] |= {at + int(offset) + WORD * i for i in range(1 + (name == "ldp"))}
        elif name == "mov":
            to, number = operands.split(", #")
            base[to] = "", int(number)
        elif name == "add":
            to, register, other, *shift = operands.split(", ")
            (which, at), (_, more) = base[register], base.get(other, ("", int(other[1:])))
            base[to] = which or base[other][0], at + (more << (12 if shift else 0))
    assert read["weights"] == set(range(0, CHANNELS * codes, WORD))
    assert read["codes"] == {i * stride + byte for i in range(pixels) for byte in range(0, codes, WORD)}


@pytest.mark.parametrize("problem", [PROBLEMS[1], PROBLEMS[3], PROBLEMS[5], PROBLEMS[8]], ids=lambda p: str(p.channels))
def test_weights_come_back(problem: DotProblem) -> None:
    operands = random_operands(problem)
    constant = TECHNIQUE.constants(problem, operands.weights, operands.weight_offset)[0]
    # As many bytes as `u8_mla` needs.
    plain = TECHNIQUES["u8_mla"].constants(problem, operands.weights, operands.weight_offset)[0]
    assert constant.shape == plain.shape
    np.testing.assert_array_equal(TECHNIQUE.unpack_weights(problem, constant), operands.weights)
    shape = operands.weights.shape
    read = evaluate(shape, lambda at, o, c, y, x: TECHNIQUE.weight_at(problem, at, o, c, y, x), constant)
    np.testing.assert_array_equal(read, operands.weights)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": 16}, "patches of 16 codes are too short or too long to divide between registers"),
        ({"channels": 7288}, "patches of 7288 codes are too short or too long to divide between registers"),
        ({"a": Operand(3)}, "24 products of W2A3 do not fit a byte"),
        ({"a": Operand(8)}, "two products of W2A8 may sum to 1530; a byte holds 255"),
    ],
)
def test_what_does_not_fit_is_declined(change: dict[str, object], words: str) -> None:
    problem = replace(BASE, **change)  # type: ignore[arg-type] - a mapping of fields
    assert TECHNIQUE.declines(problem, A53) == words
    assert TECHNIQUE.declines(replace(BASE, channels=7280), A53) is None


def test_the_longest_patches_fill_16_bits(machines: Callable[[str], Machine]) -> None:
    machine, kernels = machines("cortex-a53"), []
    for channels in (4608, 7280):
        # A full block, the last pixels of which are reached from a second base.
        problem = replace(BASE, height=1, width=11, channels=channels, out_channels=8, w=Operand(2))
        knobs = {**TECHNIQUE.knobs(problem, A53), "mr": reached(channels), "tile": 11}
        assert knobs["mr"] == MOST_PIXELS > BesidePairs(1, channels, 4, 14).share
        kernels.append(build_kernel(TECHNIQUE, problem, A53, constant_operands(problem, 3, 3, 0), knobs))
        kernels.append(build_kernel(TECHNIQUE, problem, A53, None, knobs))
    machine.check(kernels)


def test_it_is_for_in_order_cores() -> None:
    one = replace(BASE, height=14, width=14, channels=256, out_channels=512, epilogue=Thresholds(2, 3))
    assert select(one, A53).technique is TECHNIQUE
    for core in ("cortex-a72", "cortex-a76"):
        assert TECHNIQUE.declines(one, CORES[core]) == f"{core} starts instructions of both kinds by itself"


def test_it_pays_as_much_as_it_says() -> None:
    problem, taken = replace(BASE, height=5, width=8, channels=256, out_channels=64), {}
    for name in ("mla_madd", "u8_mla"):
        kernel = build_kernel(TECHNIQUES[name], problem, A53)
        out = np.zeros_like(kernel.expected)
        taken[name] = meter_kernel(kernel.function, [*kernel.arguments, out], "cortex-a53").cycles
    assert taken["mla_madd"] < 0.92 * taken["u8_mla"]
    assert taken["mla_madd"] == pytest.approx(TECHNIQUE.cycles(problem, A53), rel=0.15)
