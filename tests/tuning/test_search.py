"""The search finds what brute force finds, in fewer trials; decides by records alone; never takes what is wrong."""

from __future__ import annotations

import pytest
from tuning.fake_board import FakeBoard, cycles_of

from schedules.cores import CORES
from tvm_lowbit.tuning.cost_model import CostModel
from tvm_lowbit.tuning.records import Candidate, Outcome, Record
from tvm_lowbit.tuning.search import record_of, search
from tvm_lowbit.tuning.space import Space, space_of

KEY = "n1h6w6c16o16 k3x3 s1x1 d1x1 p1,1,1,1 g1 a2 w2f to2/3"
CORE = CORES["cortex-a72"]
WHERE = {"core": CORE.name, "board": "fake", "clock": 1e9, "threads": 1, "date": "2026-01-01T00:00:00Z"}

pytestmark = pytest.mark.usefixtures("xgboost")


def searched(board: FakeBoard, records: list[Record], trials: int = 10**6, patience: int = 10**6, key: str = KEY):
    def measure(candidate: Candidate) -> Record:
        return record_of(candidate, board.measure(candidate), **WHERE)

    return search(space_of(key, CORE), CostModel(CORE), records, measure, trials, patience)


def test_space_has_every_technique_that_takes_the_problem_and_starts_with_what_build_takes() -> None:
    space = space_of(KEY, CORE)
    assert {candidate.technique for candidate in space.all} >= {"bit_serial", "winograd", "smlal"}
    assert not {"sdot", "ternary", "reference"} & {candidate.technique for candidate in space.all}
    assert space.first[0] == space.untuned and len(set(space.all)) == len(space.all)
    assert set(space.first) <= set(space.all)
    assert all("parallel" not in dict(candidate.knobs) for candidate in space.all)


def test_search_finds_what_brute_force_finds_in_a_tenth_of_the_trials() -> None:
    space, board = space_of(KEY, CORE), FakeBoard()
    best = min(map(cycles_of, space.all))
    found = searched(board, [], trials=len(space.all) // 10)
    assert len(board.measured) == len(set(board.measured)) == found.trials == len(space.all) // 10
    assert found.best is not None and found.best.cycles is not None and found.best.cycles <= best * 1.01
    assert found.untuned is not None and found.untuned.cycles == cycles_of(space.untuned)


def test_what_one_problem_taught_helps_with_the_next() -> None:
    other = KEY.replace("h6w6", "h7w7")
    best = min(map(cycles_of, space_of(other, CORE).all))
    board, records = FakeBoard(), []
    searched(board, records, trials=60)
    taught = searched(FakeBoard(), records, trials=12, key=other)
    assert taught.best is not None and taught.best.cycles is not None and taught.best.cycles <= best * 1.02


def test_search_stops_when_nothing_improves() -> None:
    board = FakeBoard()
    found = searched(board, [], patience=8)
    costs = [cycles_of(candidate) for candidate in board.measured]
    assert found.why == "no faster in 8 trials" and len(costs) < len(space_of(KEY, CORE).all)
    assert min(costs[:-8]) * 0.995 <= min(costs[-8:])


def test_search_of_a_small_space_measures_all_of_it() -> None:
    key = "n1h1w1c16o4 k1x1 s1x1 d1x1 p0,0,0,0 g1 a8 w8r sums"
    found = searched(FakeBoard(), [], key=key)
    assert found.why == "all candidates measured" and found.trials == len(space_of(key, CORE).all)


@pytest.mark.parametrize("cut", [1, 5, 17, 29])
def test_search_goes_on_as_if_it_had_not_been_ended(cut: int) -> None:
    whole, first, second = FakeBoard(), FakeBoard(), FakeBoard()
    searched(whole, [], trials=30)
    records: list[Record] = []
    searched(first, records, trials=cut)
    again = [Record.of_line(record.line()) for record in records]
    found = searched(second, again, trials=30)
    assert first.measured + second.measured == whole.measured and found.trials == 30


def test_wrong_and_failed_candidates_are_kept_and_never_taken() -> None:
    space = space_of(KEY, CORE)
    tempting = sorted(space.all, key=cycles_of)[:20]
    bad = {c: Outcome("wrong" if i % 2 else "failed", reason="a test") for i, c in enumerate(tempting)}
    board, records = FakeBoard(outcomes=bad), []
    found = searched(board, records, trials=len(space.all) // 4)
    met = [record for record in records if record.candidate in bad]
    assert {record.kind for record in met} <= {"wrong", "failed"} and met
    assert found.best is not None and found.best.kind == "ok" and found.best.candidate not in bad
    left = min(cycles_of(candidate) for candidate in space.all if candidate not in bad)
    assert found.best.cycles is not None and found.best.cycles <= left * 1.05


def test_where_nothing_is_right_nothing_is_found() -> None:
    space = space_of(KEY, CORE)
    bad = dict.fromkeys(space.all, Outcome("failed", reason="a test"))
    found = searched(FakeBoard(outcomes=bad), [], trials=9)
    assert found.best is None and found.untuned is None and found.trials == 9


def test_records_of_knobs_that_are_gone_count_for_nothing() -> None:
    gone = record_of(Candidate.of(KEY, "bit_serial", {"mr": 99}), Outcome("ok", 1.0), **WHERE)
    stranger = record_of(Candidate.of(KEY, "no_such", {"mr": 4}), Outcome("ok", 1.0), **WHERE)
    found = searched(FakeBoard(), [gone, stranger], trials=5)
    assert found.best is not None and found.best.cycles is not None and found.best.cycles > 1.0


def test_tuned_rows_are_tried_first(rows_folder) -> None:
    from tvm_lowbit.tuning.promote import promote

    known = Candidate.of(KEY, "bit_serial", {"mr": 6, "nr": 8, "tile": 4, "bytes": 0, "split": 0, "short": 1})
    assert known in space_of(KEY, CORE).all
    promote(rows_folder, CORE, KEY, [record_of(known, Outcome("ok", 7.0), **WHERE)])
    space: Space = space_of(KEY, CORE)
    assert known in space.first
