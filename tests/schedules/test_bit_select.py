"""``bit_select``: its identity over all pairs of codes, every geometry and block, and lanes as full as they get."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from kernel_runner import Machine, Operands, build_kernel, constant_operands, evaluate, generator, random_operands
from test_exactness import FAMILIES

from schedules.cores import CORES, host_core
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.select_dot import chunk
from schedules.select_rows import COUNTS, DEEP, LANES, MOST_UNITS, WEIGHTS, SelectRows
from schedules.techniques import TECHNIQUES, select
from schedules.techniques.bit_select import MAX_K, MAX_SHORT_K, BitSelect, most_pixels
from tvm_lowbit.metering.kernels import meter_kernel

Machines = Callable[[str], Machine]
A72 = CORES["cortex-a72"]
SELECT = BitSelect()
SIGNED = Operand(2, offset=-2, uniform=True)
ONE = DotProblem(1, 14, 14, 256, 512, Operand(2), SIGNED, epilogue=Thresholds(2, 3))


def test_three_counts_make_a_product() -> None:
    a, w = (codes.ravel() for codes in np.meshgrid(np.arange(4), np.arange(4)))
    high, gray = a >> 1, a >> 1 ^ a & 1
    p, q = 1 - (w >> 1), 1 - (w >> 1 ^ w & 1)
    f1 = high ^ p
    f2 = np.where(f1, q, gray)
    f3 = np.where(f2, q, gray)
    u, v = high + 2 * (a == 3), p * (1 + 2 * q)
    np.testing.assert_array_equal(3 * f1 + 4 * f2 + 2 * f3 + 3 * u - 3 * v, 2 * a * w)
    # What is halved is even for each product, so for each sum.
    assert not (f1 + u - v & 1).any() and len(a) == 16


def two_bits(p: DotProblem) -> DotProblem:
    """The problem with codes of two bits, padded and corrected as before."""
    a = Operand(2, 2, -3) if p.a.zero_code is None else Operand(2, offset=-2) if p.a.offset else Operand(2)
    w = Operand(2, p.w.multiplier, 0, 3) if not p.w.one_offset else SIGNED if p.w.uniform else Operand(2)
    return replace(p, a=a, w=w)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("core", ["cortex-a72", "cortex-a53"])
def test_every_geometry(core: str, family: str, machines: Machines) -> None:
    machine = machines(core)
    problems = [two_bits(p) for p in FAMILIES[family]]
    machine.check([build_kernel(SELECT, p, machine.core, knobs={"parallel": i % 2}) for i, p in enumerate(problems)])


# Bytes of a patch: of each vector size alone and all together; one flush of bytes, two that are alike, three that are
# not, a loop of flushes with a rest.
CHANNELS = (3, 16, 33, 64, 75, 240, 496, 512, 576, 1040, 1504)


@pytest.mark.parametrize("core", ["cortex-a72", "cortex-a76"])
def test_every_length(core: str, machines: Machines) -> None:
    machine = machines(core)
    problems = [DotProblem(1, 1, 3, c, 9 + c % 2 * 8, Operand(2), SIGNED) for c in CHANNELS]
    full = [constant_operands(p, 3, w, -2) for p, w in zip(problems, (0, 1, 3) * 4, strict=False)]
    pairs = [*zip(problems, full, strict=True), *((p, None) for p in problems)]
    machine.check([build_kernel(SELECT, p, machine.core, operands) for p, operands in pairs])


def test_every_block(machines: Machines) -> None:
    machine = machines("cortex-a72")
    p = DotProblem(1, 2, 9, 40, 64, Operand(2, offset=-1), SIGNED, (1, 2), padding=(0, 1, 0, 0))
    sizes = [(mr, nr) for nr in (8, 16, 32, 64) for mr in range(1, most_pixels(nr // LANES) + 1)]
    blocks = [{"mr": mr, "nr": nr, "tile": 5 + mr % 3} for mr, nr in sizes]
    blocks += [{"mr": 3, "nr": 24}, {"mr": 1, "nr": 40}, {"mr": 8, "nr": 48}, {"mr": 2, "nr": 56}]
    problems = [replace(p, out_channels=-(-p.out_channels // b["nr"]) * b["nr"]) for b in blocks]
    machine.check([build_kernel(SELECT, q, machine.core, knobs=b) for q, b in zip(problems, blocks, strict=True)])


@pytest.mark.parametrize("k", [MOST_UNITS * DEEP * 8, MAX_SHORT_K, MAX_SHORT_K + 1, MAX_K])
def test_lanes_that_are_full(k: int, machines: Machines) -> None:
    # Of constant codes each count is 0 or K: every pair of them, and those that are largest where codes differ.
    machine, p = machines("cortex-a72"), DotProblem(1, 1, 2, k, 5, Operand(2), Operand(2))
    kernels = [
        build_kernel(SELECT, p, machine.core, constant_operands(p, a, w, 0)) for a, w in product(range(4), repeat=2)
    ]
    random = generator(k)
    activations = random.choice(np.array([0, 3], np.uint8), (1, 1, 2, k))
    weights = (
        np.broadcast_to(activations[0, 0, 0][None, :, None, None], (5, k, 1, 1))
        ^ np.uint8([0, 1, 2, 3, 1])[:, None, None, None]
    )
    kernels.append(build_kernel(SELECT, p, machine.core, Operands(activations, weights.copy(), np.zeros(5, np.int32))))
    assert SELECT.declines(p, machine.core) is None
    machine.check(kernels)


def test_the_bounds_are_the_last() -> None:
    assert 9 * MAX_SHORT_K < 2**16 <= 9 * (MAX_SHORT_K + 1) and 4 * MAX_SHORT_K < 2**15
    assert 3 * MAX_K < 2**16 <= 3 * (MAX_K + 1) and 8 * MOST_UNITS < 2**8 <= 8 * (MOST_UNITS + 1)
    longest = DotProblem(1, 1, 1, MAX_K, 1, Operand(2), Operand(2))
    assert SELECT.declines(replace(longest, channels=MAX_K + 1), A72) == (
        f"counts of {MAX_K + 1} products would overflow a 16-bit lane (at most {MAX_K})"
    )
    reason = "three counts make products of 2-bit codes, not W2A1"
    assert SELECT.declines(replace(longest, a=Operand(1)), A72) == reason
    assert SELECT.declines(longest, CORES["x86-64"]) == "x86-64 lacks asimd"
    assert "has SDOT" in str(SELECT.declines(longest, CORES["cortex-a76"]))
    assert "would wait" in str(SELECT.declines(longest, CORES["cortex-a53"]))


def test_bytes_are_widened_in_time() -> None:
    for units in range(1, 1400):
        size = chunk(units)
        assert 0 < size <= MOST_UNITS and -(-units // size) <= -(-units // MOST_UNITS) + 2


@pytest.mark.parametrize(
    "loop", [SelectRows(2, 4, 144, 36 * WEIGHTS, 18), SelectRows(5, 1, 70000, 32, 2), SelectRows(1, 8, 2, 99, 31)]
)
def test_the_loop_reads_each_operand_once(loop: SelectRows) -> None:
    lines = loop.instructions()
    if "1:" in lines:
        first, last = lines.index("1:"), lines.index("b.ne 1b")
        (rounds,) = (int(line.split("#")[1]) for line in lines[:first] if line.startswith("mov x8"))
        lines = lines[:first] + lines[first + 1 : last] * rounds + lines[last + 1 :]
    at: dict[str, tuple[str, int]] = {base: (base, 0) for base in ("x9", "x10")}
    size, read = 0, {"x9": [], "x10": []}
    for line in lines:
        if set_ := re.fullmatch(r"mov x17, #(\d+)", line):
            size = int(set_[1])
        elif set_ := re.fullmatch(r"movk x17, #(\d+), lsl #16", line):
            size += int(set_[1]) << 16
        elif move := re.fullmatch(r"add (x\d+), (x\d+), x17", line):
            at[move[1]] = (at[move[2]][0], at[move[2]][1] + size)
        elif load := re.search(r"\[(x\d+)(?:, #(-\d+))?\](?:, #(\d+))?$", line):
            base, place = at[load[1]]
            read[base].append(place + int(load[2] or 0))
            at[load[1]] = (base, place + int(load[3] or 0))
    units = range(loop.units)
    assert sorted(read["x9"]) == sorted(i * loop.stride + DEEP * u for i in range(2 * loop.pixels) for u in units)
    assert sorted(read["x10"]) == sorted(j * loop.block + WEIGHTS * u for j in range(loop.vectors) for u in units)
    assert sum(line.startswith("cnt") for line in lines) == loop.outputs * loop.units
    assert sum(line.startswith("add v") for line in lines) == loop.outputs * (loop.units - 1)
    assert max(int(register) for line in lines for register in re.findall(r"\b[vq](\d+)", line)) < 32


def test_blocks_that_fit_the_registers() -> None:
    fitting = [(mr, n) for mr, n in product(range(1, 9), repeat=2) if SelectRows(mr, n, 2, 32, 1).possible()]
    assert all(COUNTS * mr * n + 2 * mr + 4 <= 32 for mr, n in fitting)
    assert {(2, 4), (3, 2), (5, 1), (1, 8)} <= set(fitting) and (4, 2) not in fitting


@pytest.mark.parametrize(
    "p", [two_bits(FAMILIES["groups"][1]), two_bits(FAMILIES["kernels"][2]), replace(ONE, channels=9)]
)
def test_weights_come_back(p: DotProblem) -> None:
    operands = random_operands(replace(p, epilogue=None))
    constants = SELECT.constants(p, operands.weights, operands.weight_offset)
    np.testing.assert_array_equal(SELECT.unpack_weights(p, constants[0]), operands.weights)
    read = evaluate(operands.weights.shape, lambda at, o, c, y, x: SELECT.weight_at(p, at, o, c, y, x), constants[0])
    np.testing.assert_array_equal(read, operands.weights)


@pytest.mark.parametrize(
    ("core", "wanted"), [("cortex-a53", "mla_madd"), ("cortex-a72", "bit_select"), ("cortex-a76", "sdot")]
)
def test_it_is_chosen_where_it_is_fast(core: str, wanted: str) -> None:
    three = replace(ONE, kernel=(3, 3), padding=(1, 1, 1, 1), out_channels=256)
    assert select(ONE, CORES[core]).technique.name == wanted
    assert (select(three, CORES[core]).technique.name == "bit_select") == (core == "cortex-a72")
    assert select(ONE, host_core()).technique.name != "bit_select" or host_core().is_arm


def test_it_pays_as_much_as_it_says() -> None:
    p, taken = replace(ONE, height=4, width=14, out_channels=64), {}
    for name in ("bit_select", "bit_serial"):
        kernel = build_kernel(TECHNIQUES[name], p, A72)
        taken[name] = meter_kernel(
            kernel.function, [*kernel.arguments, np.zeros_like(kernel.expected)], A72.name
        ).cycles
    assert taken["bit_select"] < 0.85 * taken["bit_serial"]
    assert taken["bit_select"] == pytest.approx(SELECT.cycles(p, A72), rel=0.05)
