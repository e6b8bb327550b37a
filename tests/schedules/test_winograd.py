"""``winograd``: every shape a 3x3 convolution can have, operands at their extreme, and what it declines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from kernel_runner import Machine, build_kernel, constant_operands, evaluate, random_operands

from schedules.cores import CORES
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.layout import Layout
from schedules.techniques.winograd import Winograd, WinogradSdot, fits16, flush_every

Machines = Callable[[str], Machine]
MACHINES = (("cortex-a53", Winograd()), ("cortex-a72", Winograd()), ("cortex-a76", WinogradSdot()))
A72 = CORES["cortex-a72"]


def signed(bits: int) -> Operand:
    """Weights of a signed quantiser."""
    return Operand(bits, 1, -1 << (bits - 1), uniform=True)


BASE = DotProblem(1, 6, 8, 16, 8, Operand(2), signed(2), (3, 3), padding=(1, 1, 1, 1))
SHAPES = (
    BASE,
    replace(BASE, height=7, width=5, channels=13, out_channels=5),
    replace(BASE, batch=2, height=3, width=3, channels=35, out_channels=11, padding=(0, 0, 0, 0)),
    replace(BASE, height=4, width=9, channels=32, padding=(2, 0, 1, 3), a=Operand(3, 1, -3)),
    replace(BASE, height=1, width=1, channels=17, out_channels=1),
    replace(BASE, height=13, width=14, out_channels=12, a=Operand(4, 2, -15), w=Operand(2, 2, -3, uniform=True)),
    replace(BASE, height=6, width=5, padding=(0, -1, 0, 1)),
    # 37 x 2 tiles have no divisor that is a run: the last run overlaps.
    replace(BASE, height=3, width=146, padding=(0, 1, 1, 1), channels=3),
    replace(BASE, a=Operand(1, 2, -1), w=Operand(1, 2, -1, uniform=True), channels=20),
    replace(BASE, a=Operand(6), w=signed(4), channels=144, out_channels=6),
)
EPILOGUES = (
    replace(BASE, epilogue=Thresholds(2, 3, out=Layout("planes", 2))),
    replace(BASE, height=5, width=7, out_channels=24, epilogue=Thresholds(4, 15)),
    replace(BASE, height=5, out_channels=9, epilogue=Thresholds(2, 3, 2, side=Layout("planes", 2))),
    replace(BASE, a=Operand(5, 1, -16), w=signed(4), channels=128, epilogue=Thresholds(3, 5, out=Layout("planes", 3))),
)


@pytest.mark.parametrize(("core", "technique"), MACHINES)
def test_every_shape(core: str, technique: Winograd, machines: Machines) -> None:
    machine = machines(core)
    machine.check([build_kernel(technique, problem, machine.core) for problem in (*SHAPES, *EPILOGUES)])


@pytest.mark.parametrize(("core", "technique"), MACHINES)
def test_operands_at_their_extreme(core: str, technique: Winograd, machines: Machines) -> None:
    machine, kernels = machines(core), []
    for a_bits, w_bits, channels in ((2, 2, 227), (2, 2, 228), (3, 3, 500), (4, 4, 112), (4, 4, 113), (6, 4, 130)):
        problem = replace(BASE, height=4, width=4, a=Operand(a_bits), w=signed(w_bits), channels=channels)
        for a in (0, problem.a.max_code):
            for w in (0, problem.w.max_code):
                operands = constant_operands(problem, a, w, problem.w.offset)
                # Checkerboards fill the positions that differences make.
                odd = np.indices(operands.activations.shape)[1:3].sum(axis=0) % 2 == 1
                other = replace(operands, activations=np.where(odd, a, problem.a.max_code - a).astype(np.uint8))
                kernels += [build_kernel(technique, problem, machine.core, o) for o in (operands, other)]
    machine.check(kernels)


def test_the_width_of_the_sums_follows_the_operands() -> None:
    assert fits16(replace(BASE, channels=227))
    assert not fits16(replace(BASE, channels=228))
    four = replace(BASE, a=Operand(4), w=signed(4))
    # 32 x 72 is the largest product; a lane takes two a step.
    assert flush_every(four) * 2 * 32 * 72 < 2**15 <= (flush_every(four) + 1) * 2 * 32 * 72


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stride": (2, 2)}, "only for 3x3 convolutions of stride 1"),
        ({"kernel": (1, 1)}, "only for 3x3 convolutions of stride 1"),
        ({"groups": 2}, "without dilation or groups"),
        ({"w": Operand(2, 1, 0, 2)}, "the output channels' weights have different offsets"),
        ({"w": signed(5)}, "transformed weights lie in [-144, 139], outside a signed byte"),
        ({"a": Operand(7)}, "transformed activations lie in [-256, 254], outside a signed byte"),
    ],
)
def test_what_does_not_fit_is_declined(change: dict[str, object], words: str) -> None:
    assert Winograd().declines(BASE, A72) is None
    reason = Winograd().declines(replace(BASE, **change), A72)  # type: ignore[arg-type] - a mapping of fields
    assert reason is not None
    assert words in reason


@pytest.mark.parametrize("technique", [Winograd(), WinogradSdot()])
def test_packed_weights_come_back(technique: Winograd) -> None:
    problem = replace(BASE, channels=19, out_channels=11, w=signed(4))
    operands = random_operands(problem)
    constant = technique.constants(problem, operands.weights, operands.weight_offset)[0]
    np.testing.assert_array_equal(technique.unpack_weights(problem, constant), operands.weights)
    read = evaluate(
        operands.weights.shape, lambda at, o, c, y, x: technique.weight_at(problem, at, o, c, y, x), constant
    )
    np.testing.assert_array_equal(read, operands.weights)


@pytest.mark.parametrize(("core", "technique"), [("host", Winograd()), *MACHINES])
def test_runs_in_parallel(core: str, technique: Winograd, machines: Machines) -> None:
    machine = machines(core)
    problem = replace(BASE, height=9, width=10, batch=2, channels=24)
    machine.check([build_kernel(technique, problem, machine.core, knobs={"parallel": 1, "tile": 5})])
