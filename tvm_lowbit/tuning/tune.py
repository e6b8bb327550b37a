"""``tune``: measure techniques and knobs for every layer of a model, keep all figures, and promote the best."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from schedules.errors import LowbitError
from tvm_lowbit.progress import Step
from tvm_lowbit.tuning.boards import TuningBoard, board_of
from tvm_lowbit.tuning.cost_model import CostModel, require_xgboost
from tvm_lowbit.tuning.problems import problems_of
from tvm_lowbit.tuning.progress import told
from tvm_lowbit.tuning.promote import log_folder, promote, rows_folder
from tvm_lowbit.tuning.records import Candidate, Log, Record, versions
from tvm_lowbit.tuning.report import TuneReport, TuneRow
from tvm_lowbit.tuning.search import record_of, search
from tvm_lowbit.tuning.space import space_of

TRIALS, PATIENCE = 64, 16


def tune(
    model: Any,
    board: str | TuningBoard = "host",
    trials: int = TRIALS,
    *,
    emulated: bool = False,
    patience: int = PATIENCE,
    example_inputs: tuple[Any, ...] | None = None,
    batch: int = 1,
    exclude: Sequence[str] = (),
    log_dir: str | Path | None = None,
    progress: bool | Callable[[Step], None] | None = False,
) -> TuneReport:
    """Search the fastest technique and knobs for each distinct layer of a model; `build` takes what is found.

    Every candidate is held against the reference before its time counts, and appended to the log as it is measured:
    ended in any way, even killed, a search loses at most the candidate that was being measured, and the same call goes
    on where it was.

    Parameters
    ----------
    model : path, onnx.ModelProto, torch.export.ExportedProgram, torch.nn.Module or tvm.IRModule
        As `build` takes it.
    board : str or TuningBoard
        ``"host"``: this machine, by wall time. A row of `BOARDS` with ``emulated``: estimated cycles.
    trials : int
        Candidates measured for a problem at most, those of earlier runs included.
    emulated : bool
        Whether the board is emulated.
    patience : int
        The search of a problem ends after so many candidates in turn that were no faster.
    example_inputs, batch, exclude
        As for `build`.
    log_dir : path, optional
        Folder of the logs; by default ``tuning_logs`` of the working directory if it is there, else the user's. The
        tuned rows go with them: into ``schedules/tuned`` of a checkout, else into `schedules.tuned_rows.user_folder`.
    progress : bool, callable or None
        True shows a bar with the time left, None does so on a terminal only; a callable is told each `progress.Step`.

    Returns
    -------
    TuneReport

    Raises
    ------
    LowbitError
        If the model, the board or the log cannot be used, xgboost is not installed, or the board is lost on the way.
    """
    if trials < 1 or patience < 1:
        raise LowbitError("tune", "at least one trial, and patience for one", f"{trials} and {patience}")
    require_xgboost()
    place = board_of(board, emulated)
    try:
        place.check()
        folder = log_folder(None if log_dir is None else Path(log_dir))
        names = (exclude,) if isinstance(exclude, str) else exclude
        problems = problems_of(model, place.core, example_inputs, batch, names)
        session = Session(place, Log(folder / place.core.name / f"{file_name(place.name)}.jsonl"))
        with told(progress) as tell:
            rows = session.run(problems, trials, patience, rows_folder(folder), tell)
        tuned = rows_folder(folder) / f"{place.core.name}.json"
        return TuneReport(place.name, rows, session.warnings, session.log.path, tuned)
    finally:
        place.close()


class Session:
    """A board, its log, and what of the log still holds: records of the same code on the same board."""

    def __init__(self, board: TuningBoard, log: Log) -> None:
        self.board, self.log = board, log
        self.where: dict[str, Any] = {
            "core": board.core.name,
            "board": board.name,
            "clock": board.clock,
            "threads": board.threads,
            "versions": versions(),
        }
        records, self.warnings = log.read()
        self.records = [r for r in records if all(getattr(r, name) == value for name, value in self.where.items())]

    def run(
        self,
        problems: Mapping[str, tuple[str, ...]],
        trials: int,
        patience: int,
        rows: Path,
        tell: Callable[[Step], None],
    ) -> list[TuneRow]:
        """Search one problem after another, and promote after each."""
        model = CostModel(self.board.core)
        most = {key: min(trials, len(space_of(key, self.board.core).all)) for key in problems}
        done = 0
        found: list[TuneRow] = []
        for key, layers in problems.items():
            rest = sum(most[other] for other in list(problems)[len(found) :])

            def each(count: int, key: str = key, done: int = done, rest: int = rest) -> None:
                tell(Step("tune", key, done + count, done + rest))

            # Made now: what was found for problems before this one may be tried first.
            space = space_of(key, self.board.core, {record.candidate for record in self.records})
            result = search(space, model, self.records, self.measure, trials, patience, each)
            done += result.trials
            if result.best is not None:
                promote(rows, self.board.core, key, self.records)
            found.append(TuneRow(key, tuple(layers), result))
        return found

    def measure(self, candidate: Candidate) -> Record:
        """Measure and write down; a failure counts only where the board is still there."""
        try:
            outcome = self.board.measure(candidate)
            if outcome.kind == "failed":
                self.board.check()
        except LowbitError as error:
            got = f"lost while it measured {candidate.technique} for {candidate.problem} ({error.where}: {error.got})"
            hint = f"what was measured is in {self.log.path}: the same command goes on from there"
            hint = f"{hint}. {error.hint}" if error.hint else hint
            raise LowbitError(f"board {self.board.name}", "one that answers to the end", got, hint) from error
        date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        record = record_of(candidate, outcome, date=date, **self.where)
        self.log.append(record)
        return record


def file_name(board: str) -> str:
    """Of a board's log."""
    return "".join(c if c.isalnum() else "-" for c in board).replace("--", "-").lower()
