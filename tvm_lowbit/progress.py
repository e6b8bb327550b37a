"""How far a build is: `Step` for callbacks, `Display` for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tvm_lowbit.pipeline import PHASES

if TYPE_CHECKING:
    from typing_extensions import Self

# What a build does, in order; `Artifact.save` links.
STEPS = ("import", *(phase.name for phase in PHASES), "fuse", "code")


class Step(str):
    """A step of a build as it begins, or a layer that it has come to; as text ``lower: conv1 (3 of 21)``.

    Attributes
    ----------
    name : str
        One of `STEPS`.
    layer : str
        The layer's name, or empty.
    done, total : int
        This layer's number and how many there are; 0 without a layer.
    """

    name: str
    layer: str
    done: int
    total: int

    def __new__(cls, name: str, layer: str = "", done: int = 0, total: int = 0) -> Step:
        """The text, with its parts beside it."""
        text = f"{name}: {layer} ({done} of {total})" if layer else name
        made = super().__new__(cls, text)
        made.name, made.layer, made.done, made.total = name, layer, done, total
        return made


Tell = Callable[[Step], None]


def quiet(step: str) -> None:
    """Say nothing."""


class OnTerminal:
    """A bar that is there while the context is entered, on a terminal; a subclass sets ``console`` and ``_bar``."""

    console: Console
    _bar: Progress

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.console.is_terminal:
            self._bar.stop()


class Display(OnTerminal):
    """Steps and layers on a console: a bar that moves on a terminal, a line for each step elsewhere.

    Parameters
    ----------
    console : rich.console.Console
        Where to show them.
    what : str
        Stands in front of every step.
    """

    def __init__(self, console: Console, what: str = "build") -> None:
        self.console, self.what = console, what
        text = TextColumn("{task.description}")
        columns = (SpinnerColumn(), text, BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task(what, total=None)

    def __call__(self, step: str) -> None:
        """Show a step, or a layer of it; steps that are not of a build have no layers."""
        layer, done, total = getattr(step, "layer", ""), getattr(step, "done", 0), getattr(step, "total", 0)
        name = getattr(step, "name", step)
        if self.console.is_terminal:
            text = f"{self.what}: {name} {_printable(layer)}".rstrip()
            self._bar.update(self._task, description=escape(text), completed=done, total=total or None)
        elif not layer:
            self.console.print(f"{self.what}: {name}", markup=False, highlight=False)


@contextmanager
def display(what: str = "build", asked: bool | None = None) -> Iterator[Callable[[str], None]]:
    """A display on stderr to be told the steps of a build.

    Parameters
    ----------
    what : str
        Stands in front of every step.
    asked : bool, optional
        True shows even where stderr is no terminal, False nothing; by default it shows on a terminal only.
    """
    if asked is False or (asked is None and not sys.stderr.isatty()):
        yield quiet
        return
    # A descriptor of its own: while TVM links, `quiet.without_scope_warnings` holds stderr back.
    try:
        stream = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding or "utf-8")
    except OSError:  # stderr is replaced by something that is no file
        with Display(Console(stderr=True), what) as shown:
            yield shown
        return
    with stream, Display(Console(file=stream), what) as shown:
        yield shown


@contextmanager
def told(progress: bool | Callable[[str], None]) -> Iterator[Tell]:
    """What `build` tells its steps to: a callback as it is, True a display that was asked for, False nothing."""
    if callable(progress):
        yield progress
    else:
        with display(asked=progress) as tell:
            yield tell


def _printable(text: str) -> str:
    """Without control characters, which names in a model may hold."""
    return "".join(c for c in text if c.isprintable())
