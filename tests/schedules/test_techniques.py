"""The table of techniques, the choice among them, their weight packing, and the instructions bit_serial becomes."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import tvm
from kernel_runner import GENERAL, evaluate, placed, random_operands

from schedules.cores import CORES
from schedules.dot_problem import INT32_MAX, DotProblem, Operand
from schedules.errors import LowbitError
from schedules.techniques import TECHNIQUES, Technique, register, select
from schedules.techniques.bit_serial import MAX_STEPS, BitSerial
from schedules.techniques.portable import Portable
from schedules.techniques.reference import Reference

A72 = CORES["cortex-a72"]
CONV = DotProblem(1, 4, 5, 22, 6, Operand(3), Operand(5, 1, 0, 3), (3, 2), groups=2)
DENSE = DotProblem(1, 1, 1, 37, 10, Operand(2), Operand(2, 2, 0, 3))
DEPTHWISE = DotProblem(1, 5, 5, 9, 9, Operand(8), Operand(8), (3, 3), groups=9)
TOO_LONG = DotProblem(1, 1, 1, (MAX_STEPS + 1) * 128, 1, Operand(1), Operand(1))


class NeedsDotProduct(Portable):
    """A technique for cores with UDOT."""

    name = "needs_dot_product"
    needs = frozenset({"asimd", "dotprod"})


def test_a_second_registration_is_refused() -> None:
    before = dict(TECHNIQUES)
    for technique in before.values():
        with pytest.raises(ValueError, match=f"technique '{technique.name}' is registered already"):
            register(technique)
    assert dict(TECHNIQUES) == before
    with pytest.raises(TypeError):
        TECHNIQUES["mine"] = Portable()  # type: ignore[index] - that it cannot be is the test


def test_missing_instructions_are_named() -> None:
    technique = NeedsDotProduct()
    assert technique.declines(DENSE, A72) == "cortex-a72 lacks dotprod"
    assert technique.declines(DENSE, CORES["x86-64"]) == "x86-64 lacks asimd, dotprod"
    assert technique.declines(DENSE, CORES["cortex-a76"]) is None


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_technique_declines_what_the_problem_declines(name: str) -> None:
    too_large = DotProblem(1, 1, 1, INT32_MAX // 255**2 + 1, 1, Operand(8), Operand(8))
    reason = TECHNIQUES[name].declines(too_large, CORES["cortex-a76"])
    assert reason is not None
    assert "the accumulator would need" in reason


@pytest.mark.parametrize("core", CORES)
def test_the_cheapest_is_taken_and_why_names_the_estimates(core: str) -> None:
    for problem in (CONV, DENSE, DEPTHWISE):
        choice = select(problem, CORES[core])
        estimates = {
            name: technique.cycles(problem, CORES[core])
            for name, technique in TECHNIQUES.items()
            if technique.declines(problem, CORES[core]) is None
        }
        assert estimates[choice.technique.name] == min(estimates.values())
        assert choice.why.startswith("estimated cycles: ")
        for name, estimate in estimates.items():
            assert (f"{name} {estimate:,.0f}" in choice.why) == (estimate != float("inf"))


def test_bit_serial_is_estimated_cheaper_for_few_bits_only() -> None:
    one_bit = DotProblem(1, 14, 14, 256, 256, Operand(1), Operand(1), (3, 3))
    eight_bits = replace(one_bit, a=Operand(8), w=Operand(8))
    assert BitSerial().cycles(one_bit, A72) < Portable().cycles(one_bit, A72)
    assert BitSerial().cycles(eight_bits, A72) > Portable().cycles(eight_bits, A72)


def test_an_estimate_by_hand() -> None:
    # 4 outputs, 2 x 3 planes, 2 steps. A step: 3.5 instructions at 1.5 a cycle; the flush: UADALP and AND, 4 / 3; 4
    # instructions for each output; and 3 planes of 32 bytes to copy, each 16 bytes a load and a store.
    problem = DotProblem(1, 1, 1, 256, 4, Operand(3), Operand(2))
    each = 6 * (2 * 3.5 / 1.5 + 2 / 1.5) + 4 / 1.5
    assert BitSerial().cycles(problem, A72) == pytest.approx(4 * each + 6 * 2 / 1.5)
    # 256 products for each of the 4 outputs, of which one vector of 16 holds all; the loads and stores share no pipe:
    # widening takes 6 cycles, multiplying 8, 19 instructions at 1.5 a cycle 12.67.
    assert Portable().cycles(problem, A72) == pytest.approx(256 * 19 / 1.5)


def test_a_decline_is_reported() -> None:
    choice = select(TOO_LONG, A72)
    reason = f"{MAX_STEPS + 1} steps of 128 bits would overflow a 16-bit lane (at most {MAX_STEPS})"
    assert choice.technique.name != "bit_serial"
    assert f"bit_serial declines: {reason}" in choice.why


@pytest.mark.parametrize(("core", "name"), placed(CORES))
def test_the_technique_asked_for_is_taken(core: str, name: str) -> None:
    assert TECHNIQUES[name].declines(CONV, CORES[core]) is None
    choice = select(CONV, CORES[core], name)
    assert choice.technique is TECHNIQUES[name]
    assert choice.why == "asked for"


def test_the_technique_asked_for_may_decline() -> None:
    choice = select(TOO_LONG, A72, "bit_serial")
    assert choice.technique.name == select(TOO_LONG, A72).technique.name
    assert "bit_serial declines" in choice.why


def test_an_unknown_technique_is_named() -> None:
    with pytest.raises(LowbitError, match=r"technique: expected one of bit_serial, .*got 'fastest'"):
        select(DENSE, A72, "fastest")


def test_select_does_without() -> None:
    best = select(CONV, A72).technique.name
    choice = select(CONV, A72, without=[best])
    assert choice.technique.name != best and f"{best} declines: asked to do without" in choice.why


@pytest.mark.parametrize("core", CORES)
def test_the_reference_is_never_taken_unasked(core: str) -> None:
    for problem in (CONV, DENSE, DEPTHWISE, TOO_LONG):
        for a_bits in range(1, 9):
            choice = select(replace(problem, a=Operand(a_bits)), CORES[core])
            assert not isinstance(choice.technique, Reference)
            assert "reference" not in choice.why


@pytest.fixture(params=GENERAL)
def technique(request: pytest.FixtureRequest) -> Technique:
    """Each row of the table."""
    return TECHNIQUES[request.param]


@pytest.mark.parametrize("problem", [CONV, DENSE, DEPTHWISE], ids=["conv", "dense", "depthwise"])
def test_weights_come_back_from_the_constant(problem: DotProblem, technique: Technique) -> None:
    operands = random_operands(problem)
    constants = technique.constants(problem, operands.weights, operands.weight_offset)
    unpacked = technique.unpack_weights(problem, constants[0])
    assert unpacked.dtype == np.uint8
    np.testing.assert_array_equal(unpacked, operands.weights)


@pytest.mark.parametrize("problem", [CONV, DENSE, DEPTHWISE], ids=["conv", "dense", "depthwise"])
def test_one_weight_is_read_from_the_constant(problem: DotProblem, technique: Technique) -> None:
    operands = random_operands(problem)
    constant = technique.constants(problem, operands.weights, operands.weight_offset)[0]
    read = evaluate(
        operands.weights.shape, lambda at, o, c, y, x: technique.weight_at(problem, at, o, c, y, x), constant
    )
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, operands.weights)


def loops(assembly: str) -> list[list[str]]:
    """Bodies of the innermost loops: from a label to the jump back to it, with no other such jump between."""
    lines = [line.split("//")[0].strip() for line in assembly.splitlines()]
    labels: dict[str, int] = {}
    bodies: list[list[str]] = []
    innermost = 0
    for at, line in enumerate(lines):
        if re.fullmatch(r"\.LBB\w+:", line):
            labels[line[:-1]] = at
        jump = re.match(r"(?:b\.\w+|b|cbn?z|tbn?z)\s.*?(\.LBB\w+)$", line)
        if jump and labels.get(jump[1], -1) >= innermost:
            bodies.append([text for text in lines[labels[jump[1]] + 1 : at + 1] if text and text[0] != "."])
            innermost = at + 1
    return bodies


def test_the_inner_loop_is_and_cnt_uadalp() -> None:
    # Long enough that the loop over K stays one.
    problem = DotProblem(1, 1, 4, 128 * 64, 4, Operand(2), Operand(2))
    technique = BitSerial()
    function = technique.build(problem, technique.knobs(problem, A72), A72).with_attr("global_symbol", "kernel")
    compiled = tvm.compile(tvm.IRModule({"kernel": function}), tvm.target.Target(A72.target_dict()))
    assembly = compiled.mod.inspect_source("asm")
    assert not re.search(r"\b[us]dot\b", assembly), "Armv8.0 has no dot products"
    inner = [body for body in loops(assembly) if any(line.startswith("uadalp") for line in body)]
    # LLVM may write the loop more than once, for each pair of planes, and unroll it.
    assert inner
    patterns = (r"and\s+v\d+\.16b", r"cnt\s+v\d+\.16b", r"uadalp\s+v\d+\.8h, v\d+\.16b")
    for body in inner:
        counts = [sum(bool(re.match(pattern, line)) for line in body) for pattern in patterns]
        assert len(set(counts)) == 1, "an instruction that belongs to the step is missing, or one was added to it"
        assert counts[0] % 16 == 0, "a block is 4 x 4 outputs"
        assert not [line for line in body if re.match(r"(uaddlp|saddlp|ushr|ushll|addv|bl)\s", line)]
