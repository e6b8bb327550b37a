"""How far a search is: a bar with the time left on a terminal, a line for each problem elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tvm_lowbit.progress import OnTerminal, Step, Tell, quiet

# Seconds of candidates that the time left is reckoned from.
_RECENT = 600.0


class TuneDisplay(OnTerminal):
    """Told a `Step` as each candidate begins: its problem as the layer, and how many are done of how many.

    Parameters
    ----------
    console : rich.console.Console
        Where to show them.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        text = TextColumn("{task.description}")
        columns = (text, BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, speed_estimate_period=_RECENT)
        self._task = self._bar.add_task("tune", total=None)
        self._last = ""

    def __call__(self, step: Step) -> None:
        """Show it."""
        if self.console.is_terminal:
            # What an early stop leaves out is taken off the total, so the time left counts what is still to do. Told to
            # `update`, a new total would make it forget how fast candidates were.
            (task,) = self._bar.tasks
            task.total = step.total or None
            self._bar.update(self._task, description=escape(f"{step.name}: {step.layer}"), completed=step.done)
        elif step.layer != self._last:
            self.console.print(step, markup=False, highlight=False)
        self._last = step.layer


@contextmanager
def told(progress: bool | Callable[[Step], None] | None) -> Iterator[Tell]:
    """What a search tells: a callback as it is, True a display, False nothing, None a display on a terminal only."""
    if callable(progress):
        yield progress
    elif progress is False or (progress is None and not sys.stderr.isatty()):
        yield quiet
    else:
        with TuneDisplay(Console(stderr=True)) as shown:
            yield shown
