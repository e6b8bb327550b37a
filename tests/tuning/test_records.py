"""The log: what is written is read again; lines that are none are passed over and told."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from schedules.errors import LowbitError
from tvm_lowbit.tuning.records import Log, Outcome, Record, versions

RECORD = Record(
    problem="n1h6w6c16o16 k3x3 s1x1 d1x1 p1,1,1,1 g1 a2 w2f to2/3",
    core="cortex-a72",
    board="rpi4, emulated",
    clock=1.8e9,
    threads=1,
    date="2026-01-01T00:00:00Z",
    technique="bit_serial",
    knobs={"mr": 4, "nr": 8},
    kind="ok",
    cycles=1234.5,
    versions={"tvm_lowbit": "0"},
)
WRONG = dataclasses.replace(RECORD, kind="wrong", cycles=None, reason='3 of 9 results differ\nfrom "x" \u2028')


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    log = Log(tmp_path / "new" / "log.jsonl")
    assert log.read() == ([], [])
    for record in (RECORD, WRONG):
        log.append(record)
    assert log.read() == ([RECORD, WRONG], [])
    assert log.path.read_text().count("\n") == 2


def test_a_line_that_was_cut_short_is_told_and_passed_over(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.append(RECORD)
    whole = log.path.read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 2):
        log.path.write_bytes(whole + whole[:cut])
        assert log.read() == ([RECORD], [f"{log.path}:2: the last line was cut short"])
        log.append(WRONG)
        records, (warning,) = log.read()
        assert records == [RECORD, WRONG] and warning.startswith(f"{log.path}:2: passed over: ")
        assert log.path.read_bytes().startswith(whole + whole[:cut] + b"\n")


def test_only_the_line_break_is_missing(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.path.write_text(RECORD.line())
    log.append(WRONG)
    assert log.read() == ([RECORD, WRONG], [])


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[1]",
        "{}",
        "\x00\xff",
        RECORD.line().replace('"ok"', '"maybe"'),
        RECORD.line().replace("1234.5", "null"),
        RECORD.line().replace("1234.5", "NaN"),
        RECORD.line().replace("1234.5", "-1"),
        RECORD.line().replace("n1h6", "m1h6"),
        RECORD.line().replace('"knobs":{"mr":4,"nr":8}', '"knobs":{"mr":"x"}'),
        RECORD.line().replace('"knobs":{"mr":4,"nr":8}', '"knobs":7'),
        RECORD.line().replace('"threads"', '"treads"'),
        WRONG.line().replace('"cycles":null', '"cycles":5'),
    ],
)
def test_a_line_in_the_middle_that_is_no_record_is_told_with_its_number(tmp_path: Path, line: str) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.path.write_bytes(f"{RECORD.line()}\n{line}\n\n{WRONG.line()}\n".encode("latin-1", "replace"))
    records, (warning,) = log.read()
    assert [record.kind for record in records] == ["ok", "wrong"] and f"{log.path}:2: passed over" in warning


def test_a_log_that_cannot_be_written_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LowbitError, match=r"(?s)tuning log: .*--log-dir"):
        Log(tmp_path / "file" / "log.jsonl").append(RECORD)


def test_a_record_is_on_the_disk_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    log = Log(tmp_path / "log.jsonl")
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(log.path.read_bytes()))
    log.append(RECORD)
    assert synced == [f"{RECORD.line()}\n".encode()]


@pytest.mark.parametrize(("kind", "cycles"), [("ok", None), ("wrong", 1.0), ("fine", 1.0), ("ok", float("inf"))])
def test_outcomes_check_themselves(kind: str, cycles: float | None) -> None:
    with pytest.raises(ValueError):
        Outcome(kind, cycles)


def test_versions_name_the_code() -> None:
    assert set(versions()) == {"tvm_lowbit", "apache-tvm", "schedules"} and all(versions().values())
