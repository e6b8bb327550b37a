"""What reaches the screen: progress, tables, and text that a terminal must not obey."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.markup import escape


@contextmanager
def progress(what: str, lines: bool = False) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """A spinner for a terminal, to be told the step and what of it; elsewhere ``lines``: steps on stderr."""
    console, current = Console(), what
    with console.status(what) as status:

        def step(name: str) -> None:
            nonlocal current
            current = f"{what}: {name}"
            status.update(escape(current))
            if lines and not console.is_terminal:
                click.echo(f"{name} ...", err=True)

        yield step, lambda text: status.update(escape(f"{current}: {text}"))


def show(*tables: Any, width: int = 140) -> None:
    """Print tables of rich, or text; into a file or pipe as wide as said, by default as those of `str(report)`."""
    console = Console(width=None if Console().is_terminal or "COLUMNS" in os.environ else width)
    for table in tables:
        console.print(table)


def plain(text: str) -> str:
    """Without control characters, which names in a model may hold and a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
