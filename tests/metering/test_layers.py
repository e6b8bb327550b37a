"""Techniques metered on problems: results are checked, whatever the estimate."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from emulator import require
from kernels import compare

from schedules.dot_problem import DotProblem, Operand, Thresholds
from schedules.errors import LowbitError
from schedules.layout import Layout
from schedules.techniques import TECHNIQUES
from schedules.techniques.portable import Portable
from tvm_lowbit.metering import estimate, layers, tools
from tvm_lowbit.metering.layers import Candidate, meter_layers
from tvm_lowbit.metering.price import price


@pytest.fixture(autouse=True)
def _emulator():
    require(tools.missing())


def problem(**changes) -> DotProblem:
    plain = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
    return DotProblem(1, 6, 6, 32, 16, Operand(2), Operand(2, offset_bound=2), **{**plain, **changes})


def test_candidates_are_right_and_have_a_speed():
    side = Thresholds(2, 3, side_bits=2, out=Layout("planes", 2), side=Layout("planes", 2))
    problems = [problem(), problem(stride=(2, 2)), problem(epilogue=side), problem(epilogue=Thresholds(2, 3, falls=2))]
    candidates = [Candidate(p, name) for p in problems for name in ("portable", "bit_serial")]
    for row in meter_layers(candidates, "cortex-a53"):
        assert row.failure is None and row.exact, row.candidate
        assert 0 < row.macs_per_cycle < 128


class Wrong(Portable):
    """Forgets that weights have a sign."""

    def constants(self, problem, weights, weight_offset):
        return super().constants(problem, weights, abs(weight_offset))


def test_a_wrong_kernel_is_told(monkeypatch):
    monkeypatch.setattr(layers, "TECHNIQUES", {**TECHNIQUES, "wrong": Wrong()})
    wrong, right = meter_layers([Candidate(problem(), "wrong"), Candidate(problem(), "portable")], "cortex-a72")
    assert right.exact and not wrong.exact and wrong.estimate is not None


def test_what_declines_is_refused():
    with pytest.raises(LowbitError, match="magic"):
        meter_layers([Candidate(problem(), "magic")], "cortex-a72")
    huge = DotProblem(1, 1, 1, 1 << 20, 1, Operand(8), Operand(8))  # sums beyond int32
    with pytest.raises(LowbitError, match="a problem that portable takes"):
        meter_layers([Candidate(huge, "portable")], "cortex-a72")


def test_codes_guessed_by_lines_take_fewer_cycles_than_those_searched():
    many = replace(problem(), a=Operand(8), w=Operand(8, offset=-128, uniform=True, span=(1, 255)))
    guessed, searched = (replace(many, epilogue=Thresholds(8, 255, lines=lines)) for lines in (True, False))
    rows = meter_layers([Candidate(p, "smlal") for p in (guessed, searched)], "cortex-a72")
    assert all(row.exact for row in rows)
    assert rows[0].estimate.cycles < 0.9 * rows[1].estimate.cycles


def test_the_script_for_authors_prints_a_line_for_each_layer():
    command = [sys.executable, "-m", "tvm_lowbit.metering", "--core", "cortex-a76", "--bits", "W1A2", "--blocks", "1"]
    command += ["--layer", "16x4", "32x3", "--technique", "bit_serial", "--epilogue"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.count("MACs/cycle (") == 2 and "W1A2 average" in said and "busy:" in said
    assert said.startswith("estimates for cortex-a76")


def test_the_script_for_authors_does_without_techniques():
    command = [sys.executable, "-m", "tvm_lowbit.metering", "--core", "cortex-a76", "--layer", "32x4"]
    said = subprocess.run([*command, "--without", "winograd", "winograd_sdot"], capture_output=True, text=True)
    assert said.returncode == 0 and "winograd" not in said.stdout, said
    refused = subprocess.run([*command, "--without", *TECHNIQUES], capture_output=True, text=True)
    assert refused.returncode == 2 and "winograd declines: asked to do without" in refused.stderr


def test_comparison_with_another_estimator(monkeypatch):
    """One that asks for twice what we ask for is said to."""
    monkeypatch.setattr(compare, "LAYERS", ((16, 4),))
    monkeypatch.setattr(estimate, "HOTTEST", sys.maxsize)

    def doubled(kind):
        def model(blocks, core):
            found = {words: price(tuple(int(word, 16) for word in words), core) for _, _, words in blocks.values()}
            return {words: 2 * getattr(cost, kind) for words, cost in found.items()}, None

        return model

    meter = SimpleNamespace(MODELS={"silicon": doubled("throughput"), "latency": doubled("cycles")})
    (row,) = compare.metered("cortex-a72", "W2A2")
    ratios, record = compare.compared(meter, row, "cortex-a72")
    assert ratios == {"units": pytest.approx(0.5, rel=0.02), "cycles": pytest.approx(0.5, rel=0.02)}
    assert record["channels"] == 16 and record["share"] >= compare.SHARE and record["blocks"]
