"""Every technique equals the definition bit for bit, on this machine and on emulated Arm cores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from kernel_runner import GENERAL, Machine, build_kernel, check_technique, constant_operands, placed

from schedules.cores import CORES
from schedules.dot_problem import INT32_MAX, DotProblem, Operand
from schedules.techniques import TECHNIQUES
from schedules.techniques.bit_serial import MAX_STEPS, BitSerial

Machines = Callable[[str], Machine]
WIDTHS = range(1, 9)
GRID_CORES = ("host", "cortex-a72")
SAMPLE_CORES = ("cortex-a53", "cortex-a76")

PLAIN = Operand(2)
BIPOLAR = Operand(1, 2, -1)
# One code stands for 0, and it is neither the first nor the last.
ZERO_POINT = Operand(3, 1, -3)
PER_CHANNEL = Operand(3, 1, 0, 9)

# Codes of which none stands for 0: what a padded position adds must be taken back.
ABOVE, BELOW, ODD = Operand(2, 1, 5), Operand(3, 1, -20), Operand(2, 2, -3)

FAMILIES: Mapping[str, tuple[DotProblem, ...]] = {
    "kernels": (
        DotProblem(1, 4, 5, 13, 7, PLAIN, PLAIN),
        DotProblem(1, 5, 7, 19, 6, PLAIN, PLAIN, (3, 3)),
        DotProblem(1, 6, 6, 33, 4, PLAIN, PLAIN, (5, 5)),
        DotProblem(1, 3, 9, 5, 9, PLAIN, PLAIN, (1, 7)),
        DotProblem(1, 8, 3, 1, 1, PLAIN, PLAIN, (4, 2)),
    ),
    "strides": (
        DotProblem(1, 9, 11, 17, 5, PLAIN, PLAIN, (3, 3), (2, 2)),
        DotProblem(2, 7, 13, 8, 5, PLAIN, PLAIN, (1, 1), (3, 2)),
        DotProblem(1, 6, 10, 9, 5, PLAIN, PLAIN, (2, 3), (1, 4)),
    ),
    "dilation": (
        DotProblem(1, 9, 10, 12, 5, PLAIN, PLAIN, (3, 3), dilation=(2, 3)),
        DotProblem(1, 7, 9, 11, 3, ZERO_POINT, PLAIN, (3, 2), (2, 1), (3, 4), (2, 3, 1, 0)),
    ),
    "padding": (
        DotProblem(1, 5, 5, 10, 5, PLAIN, PLAIN, (3, 3), padding=(1, 1, 1, 1)),
        DotProblem(1, 4, 6, 11, 5, ZERO_POINT, PER_CHANNEL, (3, 3), padding=(2, 0, 1, 3)),
        DotProblem(2, 3, 4, 16, 4, ZERO_POINT, BIPOLAR, (3, 3), (2, 2), padding=(0, 1, 2, 0)),
        DotProblem(1, 2, 2, 24, 3, Operand(2, 2, -2), PER_CHANNEL, (5, 5), padding=(2, 2, 2, 2)),
        # Whole output pixels, not only borders, lie in the padding.
        DotProblem(1, 1, 1, 9, 2, Operand(8, 1, -255), PER_CHANNEL, padding=(2, 1, 0, 3)),
    ),
    "padding without a code": (
        DotProblem(1, 5, 5, 10, 5, BIPOLAR, BIPOLAR, (3, 3), padding=(1, 1, 1, 1)),
        DotProblem(2, 4, 6, 11, 5, ABOVE, PER_CHANNEL, (3, 3), padding=(2, 0, 1, 3)),
        DotProblem(1, 7, 6, 9, 4, BIPOLAR, PER_CHANNEL, (3, 3), (2, 2), padding=(0, 1, 2, 0)),
        DotProblem(1, 9, 7, 12, 3, BELOW, PLAIN, (3, 2), (2, 1), (3, 4), (2, 3, 1, 0)),
        DotProblem(1, 4, 5, 27, 15, ODD, PER_CHANNEL, (3, 3), padding=(1, 1, 1, 1), groups=3),
        # Depthwise.
        DotProblem(1, 5, 7, 10, 10, BIPOLAR, PER_CHANNEL, (5, 3), padding=(2, 1, 2, 1), groups=10),
        # No row or column sees all taps, and whole output pixels lie in the padding.
        DotProblem(1, 2, 3, 24, 3, BIPOLAR, BIPOLAR, (5, 7), padding=(3, 4, 4, 3)),
        DotProblem(1, 1, 1, 9, 2, ABOVE, PER_CHANNEL, padding=(2, 1, 0, 3)),
        # Taps on both sides of the image and none inside it.
        DotProblem(1, 2, 9, 5, 2, BELOW, PER_CHANNEL, (2, 2), (1, 2), (5, 3), (4, 2, 4, 0)),
        DotProblem(1, 8, 6, 8, 4, BIPOLAR, PER_CHANNEL, (3, 3), padding=(1, 1, 1, 1)),
        DotProblem(1, 1, 12, 17, 4, Operand(8, 1, -256), Operand(8, 1, 0, 255), (1, 4), (1, 3), padding=(0, 3, 0, 3)),
    ),
    "cropping": (
        DotProblem(1, 6, 7, 9, 4, ZERO_POINT, PER_CHANNEL, (3, 3), (1, 2), padding=(-1, -2, -1, 0)),
        DotProblem(1, 6, 7, 9, 4, PLAIN, PLAIN, (2, 2), padding=(1, -1, -2, 1)),
        DotProblem(2, 6, 5, 9, 4, BIPOLAR, PER_CHANNEL, (2, 3), padding=(-2, 1, 1, -1)),
    ),
    "groups": (
        DotProblem(1, 4, 5, 20, 12, PLAIN, PER_CHANNEL, (3, 2), (2, 1), groups=4),
        DotProblem(1, 4, 5, 27, 15, ZERO_POINT, PLAIN, (3, 3), padding=(1, 1, 1, 1), groups=3),
        # Depthwise, and depthwise with two outputs to each channel.
        DotProblem(1, 5, 7, 10, 10, ZERO_POINT, PER_CHANNEL, (3, 3), padding=(1, 1, 1, 1), groups=10),
        DotProblem(2, 4, 5, 3, 6, PLAIN, PLAIN, (3, 3), groups=3),
    ),
    "operands": (
        DotProblem(3, 2, 3, 21, 5, BIPOLAR, BIPOLAR),
        DotProblem(2, 3, 5, 14, 6, Operand(3, 2, -7), Operand(2, 2, 0, 3), (2, 2)),
        DotProblem(1, 3, 5, 9, 5, Operand(4, 1, 11), Operand(5, 1, 0, 31), (2, 2)),
        DotProblem(1, 2, 7, 18, 5, Operand(8, 2, -255), Operand(8, 2, 0, 255), (1, 3)),
        DotProblem(1, 2, 5, 6, 4, Operand(1), PER_CHANNEL),
        DotProblem(1, 2, 5, 70, 5, Operand(2), Operand(1, 2, -1, uniform=True), (2, 2)),
        DotProblem(1, 3, 5, 19, 5, Operand(1, 2, -1), Operand(1, 2, -1, uniform=True), (3, 3), padding=(1, 1, 1, 1)),
        DotProblem(1, 2, 5, 21, 5, Operand(4, 1, -3), Operand(3, 1, -4, uniform=True), (2, 1)),
    ),
    "dense": (
        DotProblem(1, 1, 1, 100, 10, PLAIN, PLAIN),
        DotProblem(1, 1, 7, 257, 9, ZERO_POINT, PER_CHANNEL),
        DotProblem(5, 1, 1, 640, 4, BIPOLAR, BIPOLAR),
        DotProblem(1, 1, 3, 1, 1, PLAIN, PLAIN),
    ),
}


def pair(a_bits: int, w_bits: int) -> DotProblem:
    """A padded 1x3 convolution with a zero point in the middle, per-channel offsets, two whole steps and a tail."""
    a, w = Operand(a_bits, 1, -(1 << (a_bits - 1))), Operand(w_bits, 1, 0, 1 << (w_bits - 1))
    # A block of kernels is left over at the end of the row or of the channels; both at once take long to compile.
    width, out_channels = (2, 5) if (a_bits + w_bits) % 2 else (5, 2)
    return DotProblem(1, 1, width, 100, out_channels, a, w, (1, 3), padding=(1, 1, 0, 1))


@pytest.mark.parametrize("a_bits", WIDTHS)
@pytest.mark.parametrize(("core", "technique"), placed(GRID_CORES))
def test_every_pair_of_widths(core: str, a_bits: int, technique: str, machines: Machines) -> None:
    check_technique(technique, [pair(a_bits, w_bits) for w_bits in WIDTHS], machines(core))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("core", "technique"), placed(GRID_CORES))
def test_every_geometry(core: str, family: str, technique: str, machines: Machines) -> None:
    check_technique(technique, FAMILIES[family], machines(core))


@pytest.mark.parametrize(("core", "technique"), placed(SAMPLE_CORES))
def test_a_sample_on_other_cores(core: str, technique: str, machines: Machines) -> None:
    geometries = [problems[-2] for problems in FAMILIES.values()]
    check_technique(technique, [*geometries, pair(1, 1), pair(3, 2), pair(8, 8)], machines(core))


@pytest.mark.parametrize(("core", "technique"), placed([*GRID_CORES, "cortex-a53"]))
def test_rows_in_parallel(core: str, technique: str, machines: Machines) -> None:
    machine = machines(core)
    problems = [FAMILIES["padding"][2], FAMILIES["groups"][1]]
    row = TECHNIQUES[technique]
    machine.check([build_kernel(row, problem, machine.core, knobs={"parallel": 1}) for problem in problems])


@pytest.mark.parametrize("core", GRID_CORES)
def test_every_block_of_bit_serial(core: str, machines: Machines) -> None:
    machine, problem = machines(core), FAMILIES["groups"][1]
    names = ("mr", "nr", "tile", "bytes", "short")
    blocks = [
        dict(zip(names, knobs, strict=True))
        for knobs in ((1, 4, 5, 0, 0), (3, 8, 4, 0, 0), (2, 4, 5, 16, 0), (5, 4, 3, 8, 0))
    ]
    machine.check([build_kernel(BitSerial(), problem, machine.core, knobs=block) for block in blocks])


# Byte lanes that are widened once, after each pair of planes, and every 31 steps; the last step is half a one.
BYTES = tuple(
    replace(FAMILIES["groups"][0], channels=4 * channels, a=Operand(a), w=Operand(w), groups=4)
    for a, w, channels in ((1, 1, 200), (1, 2, 72), (2, 2, 8), (2, 2, 200), (1, 1, 1400), (2, 1, 700))
)


@pytest.mark.parametrize("core", GRID_CORES)
@pytest.mark.parametrize("width", [8, 16])
def test_sums_in_bytes(core: str, width: int, machines: Machines) -> None:
    machine = machines(core)
    full = [(p, constant_operands(p, p.a.max_code, p.w.max_code, 0)) for p in BYTES]
    kernels = [build_kernel(BitSerial(), p, machine.core, o, {"bytes": width, "short": 0}) for p, o in full]
    machine.check(
        kernels + [build_kernel(BitSerial(), p, machine.core, None, {"bytes": width, "short": 0}) for p in BYTES]
    )


def largest(problem: DotProblem) -> DotProblem:
    """The problem with as many channels as the accumulator can take."""
    return replace(problem, channels=INT32_MAX // (problem.a.bound * problem.w.bound))


FULL = (
    # Unsigned codes of 8 bits: 33025 products.
    (largest(DotProblem(1, 1, 1, 1, 2, Operand(8), Operand(8))), (255, 255, 0)),
    # The most negative sums: codes with a zero point at either end, offsets at their bound.
    (largest(DotProblem(1, 1, 1, 1, 2, Operand(8), Operand(8, 1, 0, 255))), (255, 0, -255)),
    (largest(DotProblem(1, 1, 1, 1, 2, Operand(8), Operand(8, 1, 0, 255))), (255, 255, 255)),
    (largest(DotProblem(1, 1, 1, 1, 2, Operand(8, 1, -255), Operand(8, 1, 0, 255))), (0, 255, 255)),
    (largest(DotProblem(1, 1, 1, 1, 2, Operand(8, 1, 255), Operand(8, 1, 0, 255))), (255, 255, 255)),
    (largest(DotProblem(1, 1, 1, 1, 2, Operand(8, 2, -255), Operand(8, 2, 0, 255))), (255, 255, -255)),
    (largest(DotProblem(1, 1, 1, 1, 2, Operand(8, 2, 255), Operand(8, 2, 0, 255))), (255, 255, 255)),
)


@pytest.mark.parametrize(("core", "technique"), placed(GRID_CORES))
def test_operands_that_fill_the_accumulator(core: str, technique: str, machines: Machines) -> None:
    machine = machines(core)
    row = TECHNIQUES[technique]
    kernels = []
    for problem, codes in FULL:
        # Some techniques correct in three terms, each of which may be as large as the sum.
        third = replace(problem, channels=problem.channels // 3)
        taken = next((p for p in (problem, third) if row.declines(p, machine.core) is None), None)
        if taken is not None:
            kernels.append(build_kernel(row, taken, machine.core, constant_operands(taken, *codes)))
    assert kernels
    machine.check(kernels)


@pytest.mark.parametrize("technique", GENERAL)
def test_one_more_product_is_declined(technique: str) -> None:
    core = CORES["cortex-a76"]  # It has all features.
    assert FULL[0][0].k == 33025
    for problem, _ in FULL:
        assert problem.declines() is None
        one_more = replace(problem, channels=problem.channels + 1)
        reason = TECHNIQUES[technique].declines(one_more, core)
        assert reason is not None
        assert "the accumulator would need 33 bits" in reason


LONGEST = DotProblem(1, 1, 1, MAX_STEPS * 16 * 8, 1, Operand(1), Operand(1))


@pytest.mark.parametrize("core", [*GRID_CORES, *SAMPLE_CORES])
def test_the_longest_sum_of_bit_serial(core: str, machines: Machines) -> None:
    machine = machines(core)
    assert BitSerial().declines(LONGEST, machine.core) is None
    machine.check([build_kernel(BitSerial(), LONGEST, machine.core, constant_operands(LONGEST, 1, 1, 0))])


def test_one_more_step_is_declined(machines: Machines) -> None:
    core = machines("host").core
    one_more = replace(LONGEST, channels=LONGEST.channels + 1)
    assert BitSerial().declines(one_more, core) == (
        f"{MAX_STEPS + 1} steps of 128 bits would overflow a 16-bit lane (at most {MAX_STEPS})"
    )
    # Every lane of the longest sum is as full as it can be.
    assert MAX_STEPS * 16 < 2**16 <= (MAX_STEPS + 1) * 16
