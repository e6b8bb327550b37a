"""``python -m tvm_lowbit.tuning.refresh``: measure tuned rows again whose kernels have changed since.

`build` leaves such rows out. Their knobs mostly serve the new kernel as well as the old one, so measuring them again is
the cheap part of a new search; what was tried is kept as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schedules import tuned_rows
from schedules.errors import LowbitError
from schedules.problem_key import problem_of
from schedules.techniques import TECHNIQUES
from tvm_lowbit.boards.rows import BOARDS
from tvm_lowbit.tuning.boards import TuningBoard, board_of
from tvm_lowbit.tuning.promote import log_folder, row_of, rows_folder, write
from tvm_lowbit.tuning.records import Candidate, Log
from tvm_lowbit.tuning.tune import Session, file_name


def refresh(
    board: str | TuningBoard,
    *,
    emulated: bool = False,
    log_dir: str | Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> int:
    """Measure the rows of a board's core whose kernels have changed; the file is written after each problem.

    Parameters
    ----------
    board, emulated, log_dir
        As for `tune`.
    tell : callable
        Told of each row.

    Returns
    -------
    int
        How many rows were measured again or taken out. One whose knobs are gone gets the technique's own; one that
        is declined or wrong now, or fails, is taken out, and its technique counts as never tried.

    Raises
    ------
    LowbitError
        If the board or the log cannot be used, the board is lost on the way, or its core has no rows.
    """
    place = board_of(board, emulated)
    try:
        place.check()
        folder, core = log_folder(None if log_dir is None else Path(log_dir)), place.core
        session = Session(place, Log(folder / core.name / f"{file_name(place.name)}.jsonl"))
        path = rows_folder(folder) / f"{core.name}.json"
        if not path.exists():
            hint = f"search first: tvm-lowbit tune MODEL --board {board if isinstance(board, str) else 'BOARD'}"
            raise LowbitError("refresh", f"tuned rows in {path}", "no such file", hint)
        content = json.loads(path.read_text())
        changed = 0
        for key, entry in list(content["problems"].items()):
            rows = [again if (again := _again(session, key, row)) is not None else row for row in entry["rows"]]
            if rows == entry["rows"]:
                continue
            changed += sum(row is not old for row, old in zip(rows, entry["rows"], strict=True))
            for row, old in zip(rows, entry["rows"], strict=True):
                now = f"{row['cycles']:,.0f}" if row else "none"
                tell(f"{key} {old['technique']}: {old['cycles']:,.0f} cycles, now {now}")
            lost = {old["technique"] for row, old in zip(rows, entry["rows"], strict=True) if not row}
            right = sorted((row for row in rows if row), key=lambda row: float(row["cycles"]))
            entry["rows"] = [row for row in right if row["cycles"] <= tuned_rows.NEAR * right[0]["cycles"]]
            entry["tried"] = sorted(set(entry["tried"]) - lost)
            if not right:
                del content["problems"][key]
            write(path, content)
        return changed
    finally:
        place.close()


def _again(session: Session, key: str, row: dict[str, Any]) -> dict[str, Any] | None:
    """The row as it is measured now, empty where the kernel is not right; None where it has not changed."""
    core, name, knobs, problem = session.board.core, row["technique"], row["knobs"], problem_of(key)
    if tuned_rows.unfit(name, {}, problem, core) is not None:
        return {}
    if tuned_rows.unfit(name, knobs, problem, core) is not None:
        knobs = {knob: value for knob, value in TECHNIQUES[name].knobs(problem, core).items() if knob != "parallel"}
    elif tuned_rows.fingerprint(key, name, knobs, core) == row["kernel"]:
        return None
    record = session.measure(Candidate.of(key, name, knobs))
    return {} if record.cycles is None else row_of(record, core)


def main() -> None:
    """Refresh the rows of emulated boards."""
    parser = argparse.ArgumentParser(prog="python -m tvm_lowbit.tuning.refresh", description=__doc__)
    parser.add_argument("boards", nargs="+", choices=[name for name, row in BOARDS.items() if row.clock])
    for board in parser.parse_args().boards:
        count = refresh(board, emulated=True, tell=lambda text: print(text, file=sys.stderr, flush=True))
        print(f"{board}: {count} rows measured again or taken out")


if __name__ == "__main__":
    main()
