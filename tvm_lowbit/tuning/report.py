"""What a tuning run found, problem by problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from tvm_lowbit.tuning.search import Found


@dataclass(frozen=True)
class TuneRow:
    """One problem: its key, the layers that it stands for, and how its search ended."""

    problem: str
    layers: tuple[str, ...]
    found: Found

    @property
    def gain(self) -> float | None:
        """How many times faster than untuned; None where either is not known."""
        best, untuned = self.found.best, self.found.untuned
        if best is None or untuned is None or best.cycles is None or untuned.cycles is None:
            return None
        return untuned.cycles / best.cycles


@dataclass(frozen=True)
class TuneReport:
    """All problems of a model on a board.

    Attributes
    ----------
    board : str
        Figures of an emulated one are estimates.
    rows : sequence of TuneRow
        Those that cost most first.
    warnings : sequence of str
        Lines of the log that were passed over.
    log, tuned : Path
        The files of records and of tuned rows.
    """

    board: str
    rows: Sequence[TuneRow]
    warnings: Sequence[str]
    log: Path
    tuned: Path

    def table(self) -> Table:
        """The table, for a rich console."""
        table = Table(title=f"Tuned on {self.board}", title_justify="left")
        for heading in ("problem", "layers", "technique", "knobs", "kcycles", "untuned", "gain", "trials", "ended"):
            right = heading in ("layers", "kcycles", "untuned", "gain", "trials")
            table.add_column(heading, overflow="fold", justify="right" if right else "left")
        for row in self.rows:
            best, untuned = row.found.best, row.found.untuned
            knobs = "" if best is None else " ".join(f"{name}={value}" for name, value in sorted(best.knobs.items()))
            cells = (
                row.problem,
                str(len(row.layers)),
                "none was right" if best is None else best.technique,
                knobs,
                *("" if one is None or one.cycles is None else f"{one.cycles / 1e3:,.1f}" for one in (best, untuned)),
                "" if row.gain is None else f"{row.gain:.2f}",
                str(row.found.trials),
                row.found.why,
            )
            table.add_row(*map(Text, cells))
        return table

    def summary(self) -> str:
        """Sums over the layers whose both figures are known, and where all is written."""
        best = untuned = 0.0
        for row in self.rows:
            if row.gain is not None:
                assert row.found.best is not None and row.found.untuned is not None
                best += len(row.layers) * (row.found.best.cycles or 0.0)
                untuned += len(row.layers) * (row.found.untuned.cycles or 0.0)
        word = "estimated " if "emulated" in self.board else ""
        gain = f" ({untuned / best:.2f} times as fast)" if best else ""
        sums = f"sum of the layers: {best / 1e6:.3f} million {word}cycles, untuned {untuned / 1e6:.3f}{gain}"
        return f"{sums}\nrecords: {self.log}\ntuned rows: {self.tuned}"
