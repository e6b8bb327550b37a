"""How far a campaign has come: a JSON file below its folder, from which it goes on where it was ended."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 100


class State:
    """What is done of the mutants ``first`` to ``first + count`` of a seed.

    Parameters
    ----------
    folder : Path
        Where ``progress.json`` is written, or read if it is of the same seed and first mutant.
    """

    def __init__(self, folder: Path, seed: int, first: int, count: int) -> None:
        self.path = folder / "progress.json"
        self.seed, self.first, self.count = seed, first, count
        self.counts: Counter[str] = Counter()
        self.findings: list[str] = []
        if self.path.is_file():
            held = json.loads(self.path.read_text())
            if (held["seed"], held["first"]) == (seed, first):
                self.counts, self.findings = Counter(held["counts"]), held["findings"]

    @property
    def done(self) -> int:
        """How many mutants have been judged."""
        return self.counts.total()

    @property
    def left(self) -> range:
        """Indices of the mutants to come."""
        return range(self.first + self.done, self.first + self.count)

    def text(self) -> str:
        """The counts of outcomes."""
        return ", ".join(f"{kind} {n}" for kind, n in self.counts.most_common())

    def save(self) -> None:
        """Write the file anew, never half."""
        row: dict[str, Any] = {"seed": self.seed, "first": self.first, "count": self.count, "done": self.done}
        row |= {"counts": dict(self.counts), "findings": self.findings}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(row, indent=1) + "\n")
        os.replace(beside, self.path)


class Display:
    """A bar on a terminal; elsewhere a line every `EVERY` mutants."""

    def __init__(self, state: State) -> None:
        self._state, self._console = state, Console()
        columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(state.text(), total=state.count, completed=state.done)

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """One more mutant is done."""
        state = self._state
        self._bar.update(self._task, completed=state.done, description=state.text())
        if not self._console.is_terminal and state.done % EVERY == 0:
            self.say(f"{state.done} of {state.count}: {state.text()}")

    def say(self, text: str) -> None:
        """Print a line, at once even into a file."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()
