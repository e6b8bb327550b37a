"""The per-layer table: bits, technique and why, or why a layer stayed float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from relay_passes.integer_forms import REGISTERS
from schedules.techniques.base import PARALLEL_MACS
from tvm_lowbit.manifest import AssignmentRow, KernelRow, LayerRow, MemoryRow


@dataclass(frozen=True)
class Report:
    """A row per layer; prints as a table, and what is said of the whole network below it.

    ``assignment``, ``memory`` and ``kernels`` are the manifest's; memory is known once the network is compiled.
    """

    rows: Sequence[LayerRow]
    assignment: AssignmentRow | None = None
    memory: MemoryRow | None = None
    kernels: Sequence[KernelRow] = ()

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
        for heading in ("layer", "operator", "bits", "technique", "layouts", "bytes", "of fp32", "why"):
            number, short = heading in ("bytes", "of fp32"), heading not in ("layer", "layouts", "why")
            table.add_column(heading, overflow="fold", no_wrap=short, justify="right" if number else "left")
        for row in self.rows:
            share = f"1/{row.float_bytes / row.bytes:.1f}" if row.bytes else ""
            size = f"{row.bytes:,}" if row.bytes else ""
            cells = (
                row.name,
                row.op.removeprefix("relax."),
                row.bits or "float",
                row.technique or "float",
                row.layouts,
                size,
                share,
            )
            # Text, not markup: a layer may be called anything.
            table.add_row(*map(Text, (*cells, row.why or row.reason)))
        return table

    def summary(self) -> str:
        """Lines on the network as a whole."""
        a, p, lines = self.assignment, self.memory, []
        if a is not None:
            less = (a.greedy - a.cycles) / 1e6
            lines.append(
                f"techniques and layouts: {a.cycles / 1e6:,.2f} million cycles estimated, of which kernels "
                f"{a.kernels / 1e6:,.2f}; {less:,.2f} million less than layer by layer"
                + ("" if a.exact else "; the network was too wide to try every assignment")
            )
        if p is not None:
            lines.append(
                f"memory: {p.weights:,} bytes of weights; {p.activations:,} of activations and work space; at most "
                f"{p.workspaces:,} that a thread has of its own, {p.each_thread:,} for each further one; {p.peak:,} at "
                "once on one thread, weights aside"
            )
        if self.kernels:
            split = sum(row.parallel for row in self.kernels)
            lines.append(
                f"threads: {split} of {len(self.kernels)} low-bit kernels, those of {PARALLEL_MACS:,} "
                "multiply-accumulates and more, are split over as many threads as the board has cores, or as "
                "TVM_NUM_THREADS says"
            )
        return "\n".join(lines)

    def __str__(self) -> str:
        console = Console(width=140, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(self.table())
        return str(capture.get()) + self.summary()
