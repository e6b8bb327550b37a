"""Where candidates are measured: an emulated board that counts cycles, or this machine's clock."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, Protocol

import numpy as np

from schedules.cores import CORES, CoreSpec, host_core
from schedules.errors import LowbitError
from schedules.problem_key import problem_key, problem_of
from schedules.techniques import TECHNIQUES
from tvm_lowbit.boards.rows import BOARDS
from tvm_lowbit.metering.layers import MadeUp
from tvm_lowbit.tuning.records import Candidate, Outcome
from tvm_lowbit.tuning.worker import MARGIN, Worker, WorkerFailure

# Seconds for a candidate to run; as many again, and `MARGIN`, to compile.
PATIENCE = 60.0
# What any board computes: if it fails, the board is gone.
_PROBE = "n1h4w4c8o8 k1x1 s1x1 d1x1 p0,0,0,0 g1 a1 w1f to1/1"


class TuningBoard(Protocol):
    """What the search needs of a board.

    Attributes
    ----------
    name : str
        As records call it.
    core : CoreSpec
        What kernels are compiled for.
    clock : float
        Hz; cycles over it are seconds.
    threads : int
        How many a kernel may use.
    """

    name: str
    core: CoreSpec
    clock: float
    threads: int

    def measure(self, candidate: Candidate) -> Outcome:
        """Compile, run, hold against the reference."""

    def check(self) -> None:
        """Raise ``LowbitError`` if the board is gone."""

    def close(self) -> None:
        """Give it back."""


@lru_cache(maxsize=2)
def operands(key: str) -> MadeUp:
    """Operands and truth of a problem; kept while its candidates are measured."""
    return MadeUp.of(problem_of(key))


class _Board:
    """What both boards share: kernels are written here, compiled and run by a worker."""

    command: ClassVar[str]

    def __init__(self, name: str, core: CoreSpec, clock: float, threads: int, patience: float) -> None:
        self.name, self.core, self.clock, self.threads = name, core, clock, threads
        self.patience = patience
        self._worker = Worker(threads)

    def measure(self, candidate: Candidate) -> Outcome:
        """See `TuningBoard.measure`.

        Raises
        ------
        LowbitError
            If something that measuring needs is not installed.
        """
        from tvm.ir import save_json

        made, technique = operands(candidate.problem), TECHNIQUES[candidate.technique]
        knobs = {**technique.knobs(made.problem, self.core), **dict(candidate.knobs)}
        try:
            function = technique.build(made.problem, knobs, self.core)
            arguments = made.arguments(technique)
        except Exception as error:  # whatever a technique does with knobs it cannot take
            return Outcome("failed", reason=f"{type(error).__name__}: {error}"[:500])
        wait = 2 * self.patience + MARGIN
        try:
            asked = (save_json(function), arguments, self.core.name, self.patience)
            cost, output, failure = self._worker.ask(self.command, *asked, patience=wait)
        except WorkerFailure as error:
            return Outcome("failed", reason=str(error))
        if cost is None:
            return Outcome("failed", reason=str(failure))
        if not np.array_equal(output, made.expected):
            wrong = int((np.asarray(output) != made.expected).sum())
            return Outcome("wrong", reason=f"{wrong} of {made.expected.size} results differ from the reference")
        return Outcome("ok", self._cycles(cost))

    def _cycles(self, cost: float) -> float:
        return cost

    def check(self) -> None:
        """Raise ``LowbitError`` if a kernel that always runs does not."""
        problem = problem_of(_PROBE)
        assert problem_key(problem) == _PROBE
        outcome = self.measure(Candidate.of(_PROBE, "portable", {}))
        if outcome.kind != "ok":
            raise LowbitError(f"board {self.name}", "one that still runs kernels", outcome.reason)

    def close(self) -> None:
        """End the worker."""
        self._worker.close()


class EmulatedTuning(_Board):
    """A board under emulation: estimated cycles of one thread, the same each time."""

    command = "meter"

    def __init__(self, row: str, patience: float = PATIENCE) -> None:
        board = BOARDS[row]
        assert board.core is not None
        super().__init__(f"{row}, emulated", CORES[board.core], board.clock or 0.0, 1, patience)


class LocalTuning(_Board):
    """The machine at hand: wall time, as cycles of its nominal clock."""

    command = "time"

    def __init__(self, threads: int = 1, patience: float = PATIENCE) -> None:
        super().__init__("host", host_core(), _clock(), threads, patience)

    def _cycles(self, cost: float) -> float:
        return cost * self.clock


def _clock() -> float:
    """Hz of this machine's processor at its fastest; a gigahertz where nothing tells, so that cycles are nanoseconds.

    Not what it runs at just now: that differs from call to call, and figures of another clock do not count.
    """
    try:
        psutil: Any = importlib.import_module("psutil")
    except ImportError:
        return 1e9
    told: Any = psutil.cpu_freq()
    return float(told.max * 1e6) if told is not None and told.max else 1e9


def board_of(board: str | TuningBoard, emulated: bool) -> TuningBoard:
    """The board that a user means.

    Raises
    ------
    LowbitError
        For a name that is none, or a board that is not here and is not to be emulated.
    """
    if not isinstance(board, str):
        return board
    arm: Mapping[str, str] = {row.name: row.core for row in BOARDS.values() if row.core is not None}
    if board == "host" and not emulated:
        return LocalTuning()
    if board in arm and emulated:
        from tvm_lowbit.metering.tools import require_tools

        require_tools()
        return EmulatedTuning(board)
    if board in arm:
        hint = "emulated=True, on the command line --emulated; or tune on the board itself with board 'host'"
        raise LowbitError("tune", "a board that is here", f"{board!r}", hint)
    expected = f"one of {', '.join(arm)}" if emulated else f"one of {', '.join(arm)}, host"
    raise LowbitError("tune", expected, repr(board))
