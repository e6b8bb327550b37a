"""``winograd_mla``: every shape a 3x3 convolution can have, sums at the ends of their range, and what it declines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from kernel_runner import Machine, build_kernel, constant_operands, evaluate, random_operands

from schedules.cores import CORES
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.layout import Layout
from schedules.techniques.winograd_mla import WinogradMla, centre, fits, middle, parts_of

Machines = Callable[[str], Machine]
MACHINES = ("host", "cortex-a53")
MLA = WinogradMla()
A53 = CORES["cortex-a53"]


def signed(bits: int) -> Operand:
    """Weights of a signed quantiser."""
    return Operand(bits, 1, -1 << (bits - 1), uniform=True)


BASE = DotProblem(1, 8, 9, 16, 16, Operand(2), signed(2), (3, 3), padding=(1, 1, 1, 1))
SHAPES = (
    BASE,
    replace(BASE, height=7, width=5, channels=13, out_channels=5),
    replace(BASE, batch=2, height=4, width=3, channels=35, out_channels=19, padding=(0, 0, 0, 0)),
    replace(BASE, height=4, width=9, channels=32, padding=(2, 0, 1, 3), a=Operand(3, 1, -3)),
    replace(BASE, height=1, width=1, channels=17, out_channels=1),
    replace(BASE, height=13, width=14, out_channels=12, a=Operand(3, 2, -7), w=Operand(2, 2, -3, uniform=True)),
    replace(BASE, height=6, width=5, padding=(0, -1, 0, 1)),
    replace(BASE, a=Operand(1, 2, -1), w=Operand(1, 2, -1, uniform=True), channels=20),
    # Codes and weights whose transforms along a dimension leave a byte.
    replace(BASE, a=Operand(6), w=Operand(1, 2, -1, uniform=True), channels=8),
    replace(BASE, a=Operand(1), w=signed(6), channels=6),
    # 65 tiles do not fit a run: the last overlaps.
    replace(BASE, height=3, width=260, channels=3),
)
EPILOGUES = (
    replace(BASE, epilogue=Thresholds(2, 3, out=Layout("planes", 2))),
    replace(BASE, height=5, width=7, out_channels=24, epilogue=Thresholds(4, 15)),
    replace(BASE, height=5, out_channels=9, epilogue=Thresholds(2, 3, 2, side=Layout("planes", 2))),
    replace(BASE, a=Operand(4), w=signed(4), channels=21),
    replace(BASE, a=Operand(3, 1, -4), w=signed(3), channels=128, epilogue=Thresholds(3, 5, out=Layout("planes", 3))),
)


@pytest.mark.parametrize("core", MACHINES)
def test_every_shape(core: str, machines: Machines) -> None:
    machine = machines(core)
    machine.check([build_kernel(MLA, problem, machine.core) for problem in (*SHAPES, *EPILOGUES)])


def test_other_knobs(machines: Machines) -> None:
    machine = machines("cortex-a53")
    problems = (SHAPES[1], SHAPES[3], EPILOGUES[-1])
    knobs = ({"side": 2}, {"ordered": 0})
    machine.check([build_kernel(MLA, problem, machine.core, knobs=some) for problem in problems for some in knobs])


@pytest.mark.parametrize("core", MACHINES)
def test_sums_at_the_ends_of_their_range(core: str, machines: Machines) -> None:
    machine, kernels = machines(core), []
    # As many channels as a chunk takes, and one more; and several chunks.
    for a_bits, w_bits, channels in ((2, 2, 303), (2, 2, 304), (3, 3, 65), (3, 3, 66), (4, 4, 61)):
        problem = replace(BASE, height=4, width=4, a=Operand(a_bits), w=signed(w_bits), channels=channels)
        for a in (0, problem.a.max_code):
            for w in (0, problem.w.max_code):
                operands = constant_operands(problem, a, w, problem.w.offset)
                odd = np.indices(operands.activations.shape)[1:3].sum(axis=0) % 2 == 1
                other = replace(operands, activations=np.where(odd, a, problem.a.max_code - a).astype(np.uint8))
                kernels += [build_kernel(MLA, problem, machine.core, o) for o in (operands, other)]
    machine.check(kernels)


@pytest.mark.parametrize("bits", [(1, 1), (2, 2), (3, 3), (2, 4), (4, 4)])
@pytest.mark.parametrize("channels", [3, 64, 100, 512])
@pytest.mark.parametrize("known", [False, True])
def test_sums_are_known_from_16_bits(bits: tuple[int, int], channels: int, known: bool) -> None:
    problem = replace(BASE, height=3, width=3, a=Operand(bits[0]), w=signed(bits[1]), channels=channels)
    weights = random_operands(problem).weights
    if known:
        problem = problem.knowing(weights, np.full(problem.out_channels, problem.w.offset, np.int32))
    parts = parts_of(problem)
    least, most = -centre(problem), problem.a.max_code - centre(problem)
    values = weights.astype(np.int64) + problem.w.offset
    ends = np.stack([least * values, most * values])
    if not known:
        # The worst that there may be.
        corners = [code * w for code in (least, most) for w in problem.w.values]
        ends[0], ends[1] = min(corners), max(corners)
    firsts = range(0, parts.channels, parts.length)
    for each in (ends.min(axis=0).sum(axis=(2, 3)), ends.max(axis=0).sum(axis=(2, 3))):
        of_chunk = [each[:, first : first + parts.length].sum(axis=1) - middle(problem, parts) for first in firsts]
        # A quarter of a signed number of 16 bits; a group's sum fits such a number.
        assert all((chunk >= -(1 << 13)).all() and (chunk < 1 << 13).all() for chunk in of_chunk)
        for group in range(parts.groups):
            total = sum(of_chunk[group * parts.together : (group + 1) * parts.together])
            assert (total >= -(1 << 15)).all() and (total < 1 << 15).all()
    longer = parts.length + 4
    assert parts.count == 1 or -(-parts.channels // longer) == parts.count or not fits(problem, longer)


def test_known_weights_make_chunks_longer() -> None:
    problem = replace(BASE, a=Operand(4), w=signed(4), channels=64)
    assert (parts_of(problem).length, parts_of(problem).count) == (12, 6)
    weights = random_operands(problem).weights
    known = problem.knowing(weights, np.full(problem.out_channels, -8, np.int32))
    assert parts_of(known).length >= 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stride": (2, 2)}, "only for 3x3 convolutions of stride 1"),
        ({"kernel": (1, 1)}, "only for 3x3 convolutions of stride 1"),
        ({"groups": 2}, "without dilation or groups"),
        ({"w": Operand(2, 1, 0, 2)}, "the output channels' weights have different offsets"),
        ({"w": Operand(8, 1, 0, uniform=True)}, "weights lie in [0, 255], outside a signed byte"),
        ({"a": Operand(8), "w": signed(5)}, "sums of 4 channels may take more than 16384 values"),
    ],
)
def test_what_does_not_fit_is_declined(change: dict[str, object], words: str) -> None:
    assert MLA.declines(BASE, A53) is None
    reason = MLA.declines(replace(BASE, **change), A53)  # type: ignore[arg-type] - a mapping of fields
    assert reason is not None
    assert words in reason


def test_packed_weights_come_back() -> None:
    problem = replace(BASE, channels=19, out_channels=11, w=signed(3))
    operands = random_operands(problem)
    constant = MLA.constants(problem, operands.weights, operands.weight_offset)[0]
    np.testing.assert_array_equal(MLA.unpack_weights(problem, constant), operands.weights)
    read = evaluate(operands.weights.shape, lambda at, o, c, y, x: MLA.weight_at(problem, at, o, c, y, x), constant)
    np.testing.assert_array_equal(read, operands.weights)


@pytest.mark.parametrize("core", MACHINES)
def test_known_weights_at_their_extreme(core: str, machines: Machines) -> None:
    """Each weight as it is, and the activations that make a channel's sum least or most."""
    machine, kernels = machines(core), []
    for channels in (64, 100):
        problem = replace(BASE, height=3, width=3, padding=(0, 0, 0, 0), a=Operand(4), w=signed(4), channels=channels)
        operands = random_operands(problem)
        known = problem.knowing(operands.weights, operands.weight_offset)
        for channel in (0, 5):
            for least in (False, True):
                codes = np.where((operands.weights[channel] > 8) != least, 15, 0).astype(np.uint8)
                extreme = replace(operands, activations=codes.transpose(1, 2, 0)[None])
                kernels.append(build_kernel(MLA, known, machine.core, extreme))
    machine.check(kernels)


@pytest.mark.parametrize("core", MACHINES)
def test_runs_in_parallel(core: str, machines: Machines) -> None:
    machine = machines(core)
    problem = replace(BASE, height=13, width=18, batch=2, channels=24, out_channels=40)
    machine.check([build_kernel(MLA, problem, machine.core, knobs={"parallel": 1, "tile": tile}) for tile in (5, 20)])
