"""The rows that are shipped can be read, and their keys are those that `build` looks for."""

from __future__ import annotations

from pathlib import Path

import pytest

import schedules
from schedules import tuned_rows
from schedules.cores import CORES
from schedules.problem_key import problem_key, problem_of
from schedules.techniques import TECHNIQUES

FILES = sorted((Path(schedules.__file__).parent / "tuned").glob("*.json"))


def test_there_are_rows_for_the_cores_of_the_boards() -> None:
    assert {"cortex-a53", "cortex-a72", "cortex-a76"} <= {path.stem for path in FILES} <= set(CORES)


def test_most_rows_name_techniques_that_there_are() -> None:
    rows = [row for path in FILES for entry in tuned_rows._read(path, 0).values() for row in entry.rows]
    assert sum(row.technique in TECHNIQUES for row in rows) > 0.8 * len(rows) > 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_rows_can_be_read_and_name_what_there_is(path: Path) -> None:
    entries = tuned_rows._read(path, 0)
    core = CORES[path.stem]
    assert len(entries) >= 10
    for key, entry in entries.items():
        problem = problem_of(key)
        assert problem_key(problem) == key
        assert entry.rows and {row.technique for row in entry.rows} <= entry.tried, key
        assert all(row.cycles <= tuned_rows.NEAR * entry.rows[0].cycles for row in entry.rows)
        for row in entry.rows:
            assert "emulated" in row.board  # no board was measured so far
            if row.technique in TECHNIQUES:
                assert TECHNIQUES[row.technique].declines(problem, core) is None, (key, row)
