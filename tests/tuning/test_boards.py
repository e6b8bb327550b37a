"""Boards that run candidates: what is right, wrong, crashes or hangs is told apart, on emulated Arm and here."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from emulator import require
from metering.small_kernels import calling

import tvm_lowbit
from schedules.errors import LowbitError
from schedules.problem_key import problem_of
from schedules.techniques import TECHNIQUES
from tvm_lowbit.metering import tools
from tvm_lowbit.metering.layers import Candidate as Layer
from tvm_lowbit.metering.layers import meter_layers
from tvm_lowbit.tuning import boards
from tvm_lowbit.tuning.boards import EmulatedTuning, LocalTuning, operands
from tvm_lowbit.tuning.records import Candidate, Log
from tvm_lowbit.tuning.worker import Worker, WorkerFailure

KEY = "n1h4w4c16o8 k3x3 s1x1 d1x1 p1,1,1,1 g1 a2 w2f to2/3"
GOOD = Candidate.of(KEY, "smlal", {"mr": 3, "nr": 8})
# What tests replace the kernel of.
SPOILT = Candidate.of(KEY, "portable", {})


@pytest.fixture(scope="module")
def emulated():
    require(tools.missing())
    board = EmulatedTuning("rpi4")
    yield board
    board.close()


@pytest.fixture(scope="module")
def local():
    board = LocalTuning(patience=20)
    yield board
    board.close()


def test_emulated_board_gives_the_cycles_of_the_meter(emulated: EmulatedTuning) -> None:
    first, second = emulated.measure(GOOD), emulated.measure(GOOD)
    assert first == second and first.kind == "ok"
    (layer,) = meter_layers([Layer(problem_of(KEY), "smlal", {"mr": 3, "nr": 8})], "cortex-a72")
    assert layer.exact and layer.estimate is not None and first.cycles == layer.estimate.cycles
    assert emulated.measure(Candidate.of(KEY, "smlal", {"mr": 2, "nr": 4})).cycles != first.cycles


def test_local_board_gives_the_time(local: LocalTuning) -> None:
    local.check()
    outcome = local.measure(GOOD)
    assert outcome.kind == "ok" and outcome.cycles is not None
    assert 1e-7 < outcome.cycles / local.clock < 1e-2


@pytest.mark.parametrize(("told", "clock"), [(None, 1e9), ((900.0, 0.0), 1e9), ((900.0, 1500.0), 1.5e9)])
def test_the_clock_of_this_machine_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch, told, clock: float) -> None:
    frequency = None if told is None else SimpleNamespace(current=told[0], max=told[1])
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(cpu_freq=lambda: frequency))
    assert LocalTuning().clock == clock
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert LocalTuning().clock == 1e9


def test_a_kernel_that_computes_something_else_is_wrong(local: LocalTuning, monkeypatch: pytest.MonkeyPatch) -> None:
    build = TECHNIQUES["portable"].build

    def other(problem):
        import dataclasses

        return build(
            dataclasses.replace(problem, w=dataclasses.replace(problem.w, multiplier=2)), {"parallel": 0}, None
        )

    assert local.measure(SPOILT).kind == "ok"
    monkeypatch.setattr(type(TECHNIQUES["portable"]), "build", lambda self, problem, knobs, core: other(problem))
    outcome = local.measure(SPOILT)
    assert outcome.kind == "wrong" and outcome.cycles is None
    assert f"of {operands(KEY).expected.size} results differ from the reference" in outcome.reason


def test_knobs_that_cannot_be_built_fail(local: LocalTuning) -> None:
    outcome = local.measure(Candidate.of(KEY, "bit_serial", {"nr": 0}))
    assert outcome.kind == "failed" and "ZeroDivisionError" in outcome.reason


def test_a_kernel_that_crashes_costs_only_itself(local: LocalTuning, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(type(TECHNIQUES["portable"]), "build", lambda *_: calling("abort"))
        patched.setattr(boards.MadeUp, "arguments", lambda *_: [np.zeros(16, np.uint8)] * 2)
        outcome = local.measure(SPOILT)
    assert outcome.kind == "failed" and "signal 6" in outcome.reason
    assert local.measure(GOOD).kind == "ok"


def test_code_that_llvm_cannot_write_costs_only_itself(emulated: EmulatedTuning) -> None:
    """LLVM ends the process where a core lacks an instruction."""
    outcome = emulated.measure(Candidate.of(KEY, "sdot", {}))
    assert outcome.kind == "failed" and "signal 6" in outcome.reason
    assert emulated.measure(GOOD).kind == "ok"


def test_a_kernel_that_hangs_is_stopped(local, monkeypatch) -> None:
    assert local.measure(GOOD).kind == "ok"
    with monkeypatch.context() as patched:
        patched.setattr(boards, "MARGIN", 1.0)
        patched.setattr(local, "patience", 0.5)
        patched.setattr(type(TECHNIQUES["portable"]), "build", lambda *_: calling("pause"))
        patched.setattr(boards.MadeUp, "arguments", lambda *_: [np.zeros(16, np.uint8)] * 2)
        outcome = local.measure(SPOILT)
    assert outcome.kind == "failed" and "no end within 2 s" in outcome.reason
    assert local.measure(GOOD).kind == "ok"


def test_what_is_not_installed_is_no_fault_of_the_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    require(tools.missing())
    board = EmulatedTuning("rpi4")
    monkeypatch.setenv("PATH", "/nonexistent")
    try:
        with pytest.raises(LowbitError, match="qemu-aarch64"):
            board.check()
    finally:
        board.close()


def test_a_worker_that_is_killed_is_started_again() -> None:
    worker = Worker()
    try:
        with pytest.raises(WorkerFailure, match="KeyError"):
            worker.ask("no such command", patience=60)
        assert worker._process is not None
        first = worker._process.pid
        os.kill(first, signal.SIGKILL)
        with pytest.raises(WorkerFailure, match=r"signal 9"):
            worker.ask("time", "", [], "x86-64", 1.0, patience=60)
        with pytest.raises(WorkerFailure, match="KeyError"):
            worker.ask("no such command", patience=60)
        assert worker._process is not None and worker._process.pid != first
    finally:
        worker.close()
    assert worker._process is None


@pytest.mark.usefixtures("xgboost")
def test_a_tiny_network_is_tuned_on_the_emulated_board(run, model: Path, tmp_path: Path, rows_folder: Path) -> None:
    """By the command: figures, records, rows, and a build that takes them and computes the same."""
    require(tools.missing())
    command = ("tune", model, "--board", "rpi4", "--emulated", "--trials", "5", "--log-dir", tmp_path)
    said = run(*command).output
    for word in ("Tuned on rpi4, emulated", "untuned", "million estimated cycles", "5 trials", str(rows_folder)):
        assert word in said, word
    log = Log(tmp_path / "cortex-a72" / "rpi4-emulated.jsonl")
    records, warnings = log.read()
    assert not warnings and {record.kind for record in records} == {"ok"}
    assert {(r.core, r.board, r.clock, r.threads) for r in records} == {("cortex-a72", "rpi4, emulated", 1.8e9, 1)}
    assert run(*command).output == said and log.read()[0] == records
    rows = json.loads((rows_folder / "cortex-a72.json").read_text())["problems"]
    tuned = tvm_lowbit.inspect(model, "rpi4")
    assert all("tuned on rpi4, emulated" in row.why for row in tuned.low_bit) and len(rows) == len(tuned.low_bit)
    assert "tuned" in run("inspect", model, "--target", "rpi4").output


def test_command_refuses_a_board_that_is_not_here(run, model: Path) -> None:
    assert "--emulated" in run("tune", model, "--board", "rpi4", code=2).stderr
