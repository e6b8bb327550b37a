"""`tune` from end to end with a board that reckons: what is kept, what is promoted, and how it goes on when ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tuning.fake_board import FakeBoard

import tvm_lowbit
from schedules import tuned_rows
from schedules.cores import CORES
from schedules.problem_key import problem_of
from schedules.techniques import TECHNIQUES
from tvm_lowbit import LowbitError, tune
from tvm_lowbit.progress import Step
from tvm_lowbit.tuning import promote
from tvm_lowbit.tuning.records import Candidate, Log, Outcome
from tvm_lowbit.tuning.refresh import refresh
from tvm_lowbit.tuning.space import space_of

pytestmark = pytest.mark.usefixtures("xgboost")


def log_of(folder: Path) -> Log:
    return Log(folder / "cortex-a72" / "fake.jsonl")


def test_layers_are_tuned_recorded_and_promoted(model: Path, tmp_path: Path, rows_folder: Path) -> None:
    board = FakeBoard()
    report = tune(model, board, trials=20, log_dir=tmp_path)
    assert board.closed and [row.layers for row in report.rows] == [("conv",), ("dense",)]
    records, warnings = log_of(tmp_path).read()
    assert [record.candidate for record in records] == board.measured and not warnings
    assert report.log == log_of(tmp_path).path and report.tuned == rows_folder / "cortex-a72.json"
    rows = json.loads(report.tuned.read_text())["problems"]
    assert set(rows) == {row.problem for row in report.rows}
    for row in report.rows:
        first = rows[row.problem]["rows"][0]
        assert row.found.best is not None and row.gain is not None and row.gain >= 1
        assert (first["technique"], first["knobs"]) == (row.found.best.technique, dict(row.found.best.knobs))
        assert first["cycles"] == min(r.cycles for r in records if r.problem == row.problem)
        techniques = [entry["technique"] for entry in rows[row.problem]["rows"]]
        assert len(set(techniques)) == len(techniques) and set(techniques) <= set(rows[row.problem]["tried"])


def test_build_takes_what_was_found(model: Path, tmp_path: Path) -> None:
    report = tune(model, FakeBoard(), trials=12, log_dir=tmp_path)
    layers = {row.name: row for row in tvm_lowbit.inspect(model, "rpi4").rows}
    for row in report.rows:
        best, layer = row.found.best, layers[row.layers[0]]
        assert best is not None and layer.technique == best.technique
        assert "tuned on fake" in layer.why and all(f"{k}={v}" in layer.why for k, v in best.knobs.items())
    assert "tuned" not in "".join(row.why for row in tvm_lowbit.inspect(model, "rpi5").rows)


def test_second_call_measures_nothing(model: Path, tmp_path: Path) -> None:
    first = tune(model, FakeBoard(), trials=9, log_dir=tmp_path)
    # What was promoted in between is tried first: it is known.
    board = FakeBoard()
    second = tune(model, board, trials=9, log_dir=tmp_path)
    assert board.measured == [] and [r.found.best for r in first.rows] == [r.found.best for r in second.rows]


@pytest.mark.parametrize("field", ["versions", "board", "clock"])
def test_figures_of_other_code_or_another_board_do_not_count(model: Path, tmp_path: Path, field: str) -> None:
    tune(model, FakeBoard(), trials=5, log_dir=tmp_path)
    log = log_of(tmp_path)
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    other = {"versions": {"schedules": "other"}, "board": "another", "clock": 2e9}
    log.path.write_text("".join(json.dumps({**line, field: other[field], "cycles": 1.0}) + "\n" for line in lines))
    report = tune(model, FakeBoard(), trials=5, log_dir=tmp_path)
    assert all(row.found.best is not None and row.found.best.cycles > 1 for row in report.rows)
    assert len(log.read()[0]) == 2 * len(lines)


def test_wrong_kernels_are_recorded_and_never_promoted(model: Path, tmp_path: Path) -> None:
    keys = [row.problem for row in tune(model, FakeBoard(), trials=1, log_dir=tmp_path / "a").rows]
    core = FakeBoard().core
    bad = {c: Outcome("wrong", reason="a test") for key in keys for c in space_of(key, core).all}
    report = tune(model, FakeBoard(outcomes=bad), trials=4, log_dir=tmp_path / "b")
    assert all(row.found.best is None for row in report.rows)
    assert {record.kind for record in log_of(tmp_path / "b").read()[0]} == {"wrong"}
    assert "none was right" in [str(cell) for cell in report.table().columns[2].cells]


def test_a_board_that_dies_loses_nothing(model: Path, tmp_path: Path, rows_folder: Path) -> None:
    whole = FakeBoard()
    tune(model, whole, trials=10, log_dir=tmp_path / "whole")
    shutil.rmtree(rows_folder)  # rows of another log would be tried first
    board = FakeBoard(dies_at=7)
    with pytest.raises(LowbitError) as raised:
        tune(model, board, trials=10, log_dir=tmp_path)
    said = str(raised.value)
    assert "board fake" in said and "the wire: silence" in said and str(log_of(tmp_path).path) in said
    assert board.closed and len(log_of(tmp_path).read()[0]) == 7
    rest = FakeBoard()
    tune(model, rest, trials=10, log_dir=tmp_path)
    assert board.measured + rest.measured == whole.measured


def test_a_failure_counts_only_where_the_board_is_still_there(model: Path, tmp_path: Path) -> None:
    class Fails(FakeBoard):
        def measure(self, candidate):
            super().measure(candidate)
            return Outcome("failed", reason="a test")

        def check(self):
            if self.measured:
                raise LowbitError("the wire", "an answer", "silence")

    with pytest.raises(LowbitError, match="one that answers to the end"):
        tune(model, Fails(), trials=3, log_dir=tmp_path)
    assert log_of(tmp_path).read()[0] == []


def test_killed_at_any_moment_it_goes_on(model: Path, tmp_path: Path, rows_folder: Path) -> None:
    """Killed twice by SIGKILL, it measures nothing twice and ends where it would have ended."""
    whole = FakeBoard()
    tune(model, whole, trials=30, patience=30, log_dir=tmp_path / "whole")
    shutil.rmtree(rows_folder)
    log = log_of(tmp_path)
    lines = 0
    # The killed ones promote to the folder of this test, as `os.environ` says.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(2):
        command = [sys.executable, "-m", "tuning.fake_board", str(model), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                if log.path.exists() and log.path.read_text().count("\n") >= lines + 5:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.01)
        assert process.returncode == -signal.SIGKILL
        records, _ = log.read()
        assert [record.candidate for record in records] == whole.measured[: len(records)]
        assert len(records) >= lines + 5
        lines = len(records)
    rest = FakeBoard()
    report = tune(model, rest, trials=30, patience=30, log_dir=tmp_path)
    assert whole.measured[lines:] == rest.measured and rest.measured
    assert len(log.read()[0]) == len(whole.measured) and not report.warnings


def test_half_a_line_is_told(model: Path, tmp_path: Path) -> None:
    tune(model, FakeBoard(), trials=4, log_dir=tmp_path)
    log = log_of(tmp_path)
    log.path.write_text(log.path.read_text()[:-20])
    board = FakeBoard()
    report = tune(model, board, trials=4, log_dir=tmp_path)
    assert len(board.measured) == 1 and "cut short" in report.warnings[0]


def test_progress_counts_to_the_end(model: Path, tmp_path: Path) -> None:
    told: list[Step] = []
    report = tune(model, FakeBoard(), trials=40, patience=6, log_dir=tmp_path, progress=told.append)
    assert {step.layer for step in told} == {row.problem for row in report.rows}
    assert [step.done for step in told] == sorted(step.done for step in told)
    trials = sum(row.found.trials for row in report.rows)
    assert told[-1].done == trials and told[0].total > trials


def test_without_xgboost_the_error_names_the_extra(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(LowbitError, match=r"(?s)xgboost.*tvm_lowbit\[tune\]"):
        tune(model, FakeBoard())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"board": "rpi9"}, "one of .*rpi4.*host"),
        ({"board": "rpi4"}, "emulated=True"),
        ({"board": "host", "emulated": True}, "one of arm_cpu, rpi3"),
        ({"trials": 0}, "at least one trial"),
        ({"patience": 0}, "at least one trial"),
    ],
)
def test_what_cannot_be_is_refused(model: Path, arguments: dict, said: str) -> None:
    with pytest.raises(LowbitError, match=said):
        tune(model, **arguments)


def test_a_read_only_place_asks_for_another(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LowbitError, match="--log-dir"):
        tune(model, FakeBoard(), trials=2, log_dir=tmp_path / "file")


def test_logs_of_a_checkout_give_shipped_rows(tmp_path: Path, rows_folder: Path, monkeypatch) -> None:
    shipped = tuned_rows.SHIPPED
    checkout = shipped.parents[1]
    (checkout / "tuning_logs").mkdir(parents=True)
    monkeypatch.chdir(checkout)
    assert promote.rows_folder(promote.log_folder(None)) == shipped
    assert promote.rows_folder(promote.log_folder(tmp_path / "else")) == rows_folder
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert promote.log_folder(None).name == "tuning_logs" and promote.log_folder(None).is_absolute()
    assert promote.rows_folder(promote.log_folder(None)) == rows_folder


def test_promoting_keeps_other_problems_and_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    core = FakeBoard().core
    tall, wide = (f"n1h{h}w{w}c16o16 k1x1 s1x1 d1x1 p0,0,0,0 g1 a2 w2f sums" for h, w in ((2, 1), (1, 2)))
    for key in (tall, wide):
        candidate = space_of(key, core).untuned
        path = promote.promote(tmp_path, core, key, [_record(candidate, 5.0), _record(candidate, 4.0)])
    assert path is not None and set(json.loads(path.read_text())["problems"]) == {tall, wide}
    assert [row.cycles for row in tuned_rows._read(path, 0)[wide].rows] == [4.0]
    path.write_text("{")
    with pytest.raises(LowbitError, match="a file of tuned rows that can be written"):
        promote.promote(tmp_path, core, tall, [_record(space_of(tall, core).untuned, 3.0)])
    assert path.read_text() == "{" and problem_of(tall).macs == 512


def _record(candidate, cycles: float):
    from tvm_lowbit.tuning.search import record_of

    where = {"core": "cortex-a72", "board": "fake", "clock": 1e9, "threads": 1, "date": "2026-01-01T00:00:00Z"}
    return record_of(candidate, Outcome("ok", cycles), **where)


def test_rows_of_kernels_that_changed_are_measured_again(model: Path, tmp_path: Path, rows_folder: Path) -> None:
    with pytest.raises(LowbitError, match=r"refresh: expected tuned rows in .*json, got no such file"):
        refresh(FakeBoard(), log_dir=tmp_path)
    found = tune(model, FakeBoard(), trials=12, log_dir=tmp_path).tuned
    content = json.loads(found.read_text())
    assert refresh(FakeBoard(), log_dir=tmp_path) == 0, "none has changed"
    key = next(iter(content["problems"]))
    first = dict(content["problems"][key]["rows"][0])
    content["problems"][key]["rows"][0] |= {"kernel": "0" * 16, "cycles": 1.0}
    found.write_text(json.dumps(content))
    said: list[str] = []
    board = FakeBoard()
    assert refresh(board, log_dir=tmp_path, tell=said.append) == 1 and board.closed
    assert [c.technique for c in board.measured] == [first["technique"]]
    assert json.loads(found.read_text())["problems"][key]["rows"][0] == first
    assert any(f"{key} {first['technique']}: 1 cycles, now {first['cycles']:,.0f}" in line for line in said)
    records, _ = log_of(tmp_path).read()
    assert records[-1].candidate == board.measured[0]


def test_a_kernel_that_is_wrong_now_loses_its_row(model: Path, tmp_path: Path, rows_folder: Path) -> None:
    found = tune(model, FakeBoard(), trials=12, log_dir=tmp_path).tuned
    content = json.loads(found.read_text())
    key, entry = next(iter(content["problems"].items()))
    (row, *_), tried = entry["rows"], entry["tried"]
    other = next(name for name in ("smlal", "portable") if name != row["technique"])
    own = TECHNIQUES[other].knobs(problem_of(key), CORES["cortex-a72"])
    knobs = {knob: value for knob, value in own.items() if knob != "parallel"}
    entry["rows"] = [row | {"kernel": "0" * 16}, {**row, "technique": other, "knobs": knobs, "kernel": "0" * 16}]
    found.write_text(json.dumps(content))
    wrong = {Candidate.of(key, row["technique"], row["knobs"]): Outcome("wrong", reason="a test")}
    assert refresh(FakeBoard(outcomes=wrong), log_dir=tmp_path) == 2
    after = json.loads(found.read_text())["problems"][key]
    assert [left["technique"] for left in after["rows"]] == [other]
    assert set(tried) - set(after["tried"]) == {row["technique"]}


def test_knobs_that_are_gone_give_way_to_the_techniques_own(model: Path, tmp_path: Path, rows_folder: Path) -> None:
    found = tune(model, FakeBoard(), trials=12, log_dir=tmp_path).tuned
    content = json.loads(found.read_text())
    first, last = content["problems"]
    content["problems"][first]["rows"] = content["problems"][first]["rows"][:1]
    content["problems"][first]["rows"][0]["knobs"]["mr"] = 99
    content["problems"][last]["rows"] = [content["problems"][last]["rows"][0] | {"technique": "gone"}]
    found.write_text(json.dumps(content))
    board = FakeBoard()
    assert refresh(board, log_dir=tmp_path) == 2 and len(board.measured) == 1
    after = json.loads(found.read_text())["problems"]
    assert set(after) == {first} and after[first]["rows"][0]["knobs"]["mr"] != 99
