"""``Record``: one measured candidate, a line of JSON; ``Log``: the file that they are appended to, never rewritten."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path

import schedules
from schedules.errors import LowbitError
from schedules.problem_key import problem_of

KINDS = ("ok", "wrong", "failed")
# Sources of `schedules` that only say what to build.
_NO_KERNELS = frozenset({"knob_space.py", "limits.py", "problem_key.py", "tuned_rows.py"})


@dataclass(frozen=True)
class Candidate:
    """A technique with its knobs, for the problem of a key."""

    problem: str
    technique: str
    knobs: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, problem: str, technique: str, knobs: Mapping[str, int]) -> Candidate:
        """With the knobs in order, so that equal ones are equal."""
        return cls(problem, technique, tuple(sorted(knobs.items())))


@dataclass(frozen=True)
class Outcome:
    """What became of a candidate: ``ok`` with its cycles, ``wrong`` or ``failed`` with a reason."""

    kind: str
    cycles: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS or (self.kind == "ok") != (self.cycles is not None):
            raise ValueError(f"ok has cycles, {' and '.join(KINDS[1:])} have none: {self}")
        if self.cycles is not None and not (math.isfinite(self.cycles) and self.cycles > 0):
            raise ValueError(f"cycles must be positive: {self}")


@dataclass(frozen=True)
class Record:
    """One line of a log.

    Attributes
    ----------
    problem : str
        `schedules.problem_key.problem_key`.
    core, board : str
        What was measured for, and where: an emulated board's figures are estimates.
    clock : float
        Hz, 0 where unknown; ``seconds`` times it are ``cycles``.
    threads : int
        How many the kernel could use.
    date : str
        UTC, to the second.
    technique, knobs
        The candidate.
    kind, cycles, reason
        See `Outcome`.
    versions : mapping of str to str
        Of what made the kernel; see `versions`.
    """

    problem: str
    core: str
    board: str
    clock: float
    threads: int
    date: str
    technique: str
    knobs: Mapping[str, int]
    kind: str
    cycles: float | None
    reason: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Outcome(self.kind, self.cycles, self.reason)
        problem_of(self.problem)

    @property
    def candidate(self) -> Candidate:
        """What was measured."""
        return Candidate.of(self.problem, self.technique, self.knobs)

    def line(self) -> str:
        """As JSON, without a line break."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def of_line(cls, line: str) -> Record:
        """The record of a line.

        Raises
        ------
        ValueError
            If the line is none.
        """
        found = json.loads(line)
        names = {row.name for row in fields(cls)}
        if not isinstance(found, dict) or not set(found) <= names:
            raise ValueError(f"not an object of {', '.join(sorted(names))}")
        try:
            knobs = {str(name): int(value) for name, value in found.pop("knobs").items()}
            return cls(knobs=knobs, **found)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


class Log:
    """A file of records. What is written is on the disk before `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[list[Record], list[str]]:
        """All records in order; and a warning, with its number, for each line that is none, which is passed over.

        A process that was killed while it wrote leaves half a line, and others may have gone on behind it.

        Raises
        ------
        LowbitError
            If the file is there and cannot be read.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return [], []
        except OSError as error:
            raise self._unusable(error) from error
        records: list[Record] = []
        warnings: list[str] = []
        lines = content.decode(errors="replace").split("\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                records.append(Record.of_line(line))
            except ValueError as error:
                what = "the last line was cut short" if number == len(lines) else f"passed over: {error}"
                warnings.append(f"{self.path}:{number}: {what}")
        return records, warnings

    def append(self, record: Record) -> None:
        """Add a line, whole or not at all where the machine stays up.

        Raises
        ------
        LowbitError
            If the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                text = record.line() + "\n"
                size = os.fstat(file).st_size
                if size and os.pread(file, 1, size - 1) != b"\n":
                    text = "\n" + text  # half a line stays what it is
                # One call, so that lines of two processes do not mix.
                os.write(file, text.encode())
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise self._unusable(error) from error

    @staticmethod
    def _unusable(error: OSError) -> LowbitError:
        hint = "name a folder that can be written: --log-dir"
        return LowbitError("tuning log", "a file that can be read and appended to", str(error), hint)


@cache
def versions() -> dict[str, str]:
    """What a kernel's code depends on: packages, and a digest of the sources of `schedules` that write kernels."""
    digest = hashlib.sha256()
    for path in sorted(Path(schedules.__file__).parent.rglob("*.py")):
        if path.name not in _NO_KERNELS:
            digest.update(path.name.encode() + path.read_bytes())
    packages = {name: importlib.metadata.version(name) for name in ("tvm_lowbit", "apache-tvm")}
    return packages | {"schedules": digest.hexdigest()[:12]}
