"""Whatever a technique's space allows gives an exact kernel: the ends of each knob, on operands that fill the sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest
from kernel_runner import Machine, build_kernel, constant_operands

from schedules.cores import CORES, CoreSpec
from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.knob_space import around, winograd_tiles
from schedules.techniques import TECHNIQUES, Technique

THREE = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
SIGNS = DotProblem(1, 3, 9, 17, 9, Operand(2), Operand(1, 2, -1, uniform=True), **THREE)
TWO_BITS = DotProblem(1, 3, 9, 17, 9, Operand(2), Operand(2, offset=-2, uniform=True), **THREE)
TERNARY = DotProblem(1, 3, 9, 17, 9, Operand(2), Operand(2, offset=-1, uniform=True, span=(0, 2)), **THREE)
EIGHT_BITS = DotProblem(1, 2, 9, 20, 9, Operand(8, offset=-128), Operand(8, offset=-128, uniform=True), (2, 1))
DEPTHWISE = DotProblem(1, 3, 9, 17, 17, Operand(2), Operand(2, offset=-2, uniform=True), groups=17, **THREE)
DENSE = DotProblem(1, 1, 1, 300, 9, Operand(2), Operand(2, offset=-2, uniform=True))
PROBLEMS = (DENSE, DEPTHWISE, SIGNS, TWO_BITS, TERNARY, EIGHT_BITS)


def ends(technique: Technique, problem: DotProblem, core: CoreSpec) -> Iterator[Mapping[str, int]]:
    """All knobs least, all most, and both in turns."""
    space = technique.space(problem, core)
    yield {knob: values[0] for knob, values in space.items()}
    yield {knob: values[-1] for knob, values in space.items()}
    yield {knob: values[-(i % 2)] for i, (knob, values) in enumerate(space.items())}


@pytest.mark.parametrize("core", ["host", "cortex-a53", "cortex-a76"])
@pytest.mark.parametrize("name", [name for name in TECHNIQUES if name not in ("reference", "portable")])
def test_kernels_are_exact_at_the_ends_of_their_knobs(core: str, name: str, machines: Callable[[str], Machine]) -> None:
    technique, machine = TECHNIQUES[name], machines(core)
    # The widest of them that the technique takes.
    taken = [p for p in PROBLEMS if technique.declines(p, machine.core) is None][-1:]
    if not taken:
        # Cores without its instructions, and those that it cannot help.
        helped = {"bit_madd": ["cortex-a53"], "bit_select": ["cortex-a72"], "mla_madd": ["cortex-a53"]}
        assert not technique.needs <= machine.core.features or core not in helped.get(name, [core])
        return
    (p,) = taken
    full = constant_operands(p, p.a.max_code, (p.w.span or (0, p.w.max_code))[0], p.w.offset)
    first, *others = ends(technique, p, machine.core)
    kernels = [build_kernel(technique, p, machine.core, full, knobs) for knobs in others]
    machine.check([*kernels, build_kernel(technique, replace(p, epilogue=Thresholds(2, 3)), machine.core, None, first)])


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", TECHNIQUES)
def test_what_a_technique_does_by_itself_is_in_its_space(core: str, name: str) -> None:
    technique = TECHNIQUES[name]
    wide = DotProblem(1, 56, 56, 64, 64, Operand(2), Operand(2, offset=-2, uniform=True), **THREE)
    dense = DotProblem(1, 1, 1, 512, 10, Operand(8), Operand(8, offset=-128, uniform=True, span=(1, 255)))
    for problem in (*PROBLEMS, wide, dense):
        if technique.declines(problem, CORES[core]) is None:
            own, space = technique.knobs(problem, CORES[core]), technique.space(problem, CORES[core])
            assert own.keys() == space.keys()
            for knob, values in space.items():
                assert own[knob] in values and list(values) == sorted(set(values))


def test_knobs_that_no_one_knows_keep_their_value() -> None:
    space = around({"mr": 5, "depth": 3, "tile": 8}, TWO_BITS, {"absent": (1, 2)})
    assert space == {"mr": (2, 3, 4, 5), "depth": (3,), "tile": (4, 8)}
    assert around({"mr": 1, "tile": 100}, TWO_BITS) == {"mr": (1,), "tile": (4, 8, 100)}
    assert around({"mr": 4, "nr": 4}, TWO_BITS, {"mr": (4, 9), "nr": (8,)}) == {"mr": (4, 9), "nr": (4, 8)}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (5, 9), (14, 14), (56, 56), (7, 300)])
def test_winograd_never_runs_more_tiles_than_there_are(height: int, width: int) -> None:
    problem = DotProblem(1, height, width, 16, 8, Operand(2), Operand(2), **THREE)
    tiles = winograd_tiles(problem)
    assert tiles and max(tiles) <= -(-height // 2) * -(-width // 2) and min(tiles) >= 1
