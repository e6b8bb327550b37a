"""The per-layer table: bits, technique and why, or why a layer stayed float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from relay_passes.integer_forms import REGISTERS
from tvm_lowbit.manifest import LayerRow


@dataclass(frozen=True)
class Report:
    """A row per layer; prints as a table."""

    rows: Sequence[LayerRow]

    @property
    def low_bit(self) -> list[LayerRow]:
        """Layers that run on integers by a technique's kernel."""
        return [row for row in self.rows if row.technique not in ("", REGISTERS)]

    @property
    def in_registers(self) -> list[LayerRow]:
        """Quantisers whose codes one kernel computes from integers in float registers: joins of two accumulators."""
        return [row for row in self.rows if row.technique == REGISTERS]

    @property
    def stays_float(self) -> list[LayerRow]:
        """Operators that stay float, each with its ``reason``."""
        return [row for row in self.rows if not row.technique]

    def table(self) -> Table:
        """The table, for a rich console."""
        table = Table(title="Layers", title_justify="left")
        for heading in ("layer", "operator", "bits", "technique", "bytes", "of fp32", "why"):
            number, short = heading in ("bytes", "of fp32"), heading not in ("layer", "why")
            table.add_column(heading, overflow="fold", no_wrap=short, justify="right" if number else "left")
        for row in self.rows:
            share = f"1/{row.float_bytes / row.bytes:.1f}" if row.bytes else ""
            size = f"{row.bytes:,}" if row.bytes else ""
            cells = (
                row.name,
                row.op.removeprefix("relax."),
                row.bits or "float",
                row.technique or "float",
                size,
                share,
            )
            # Text, not markup: a layer may be called anything.
            table.add_row(*map(Text, (*cells, row.why or row.reason)))
        return table

    def __str__(self) -> str:
        console = Console(width=140, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(self.table())
        return str(capture.get())
