"""What `meter_model` found: as a table, as JSON, and as a picture. Every figure is labelled an estimate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from schedules.cores import CORES, MISS_SOURCE
from tvm_lowbit.images import writing
from tvm_lowbit.metering.models import ModelEstimate, StepEstimate

LINE = 64
_HEADINGS = (
    *("layer", "bits", "technique", "cycles (estimate)", "MACs/cycle", "of limit"),
    *("kB loaded", "stored", "touched", "L1 misses", "L2 misses"),
)
_LEFT = 3
# Characters of a name that the table shows: TVM calls a kernel by all the operators in it.
_NAME = 44
_COLOURS = ("#3b6ea5", "#c9d6e4", "#f2a71b")
_INCHES_A_BAR, _DOTS_PER_INCH = 0.22, 150
_BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 6}
# Steps below this share of the whole are drawn as one bar.
_SMALL = 0.002


@dataclass(frozen=True)
class BenchReport:
    """An estimate and the board that it is for.

    Attributes
    ----------
    model, board : str
        What was compiled, for what.
    clock : float or None
        Hz of that board's cores.
    result : ModelEstimate
        The figures.
    """

    model: str
    board: str
    clock: float | None
    result: ModelEstimate

    @property
    def milliseconds(self) -> float | None:
        """Estimated time of a call at the board's clock, on one thread with warm caches."""
        return None if self.clock is None else 1e3 * self.result.total.cycles / self.clock

    @property
    def cycles_with_misses(self) -> float | None:
        """Estimated cycles plus a constant for each line that misses L1; None where either is not known."""
        traffic, miss = self.result.total.traffic, CORES[self.result.core].miss if self.result.core in CORES else None
        return None if traffic is None or miss is None else self.result.total.cycles + miss * traffic.l1_misses

    def table(self) -> Table:
        """A row per step, and the sum."""
        title = f"Estimate for {self.board} ({self.result.core}), one thread; no board was measured"
        table = Table(title=title, title_justify="left", show_footer=False)
        for place, heading in enumerate(_HEADINGS):
            justify: Any = "left" if place < _LEFT else "right"
            table.add_column(heading, justify=justify, overflow="ellipsis" if place < _LEFT else "fold", no_wrap=True)
        for step in self.result.steps:
            table.add_row(*map(Text, _cells(step)))
        table.add_section()
        table.add_row(*map(Text, _cells(self._sum())))
        return table

    def _sum(self) -> StepEstimate:
        """All steps as one; its limit is that of the low-bit layers, each by its technique."""
        return StepEstimate("all", "", "", "", self.low_bit_macs, None, self.result.total)

    @property
    def low_bit_macs(self) -> int:
        """Multiply-accumulates of all low-bit layers."""
        return sum(step.macs for step in self.result.steps)

    def summary(self) -> str:
        """The totals, in lines."""
        r = self.result
        time = "" if self.milliseconds is None else f", {self.milliseconds:,.1f} ms at {(self.clock or 0) / 1e9:g} GHz"
        lines = [
            f"estimate: {r.total.cycles / 1e6:,.2f} million cycles{time}, {r.total.instructions / 1e6:,.2f} million "
            "instructions; caches warm, misses not in the cycles",
            f"estimate: {r.total.throughput / 1e6:,.2f} million cycles were all latencies hidden",
            f"memory {r.memory:,} bytes (weights, activations and work space on the heap), library {r.library:,} bytes",
        ]
        t, moved = r.total.traffic, f"estimate: {r.total.loaded:,} bytes loaded, {r.total.stored:,} stored"
        missed = "" if t is None else f"missed: {t.l1_misses:,} in L1, {t.l2_misses:,} in L2 (LRU, no prefetcher)"
        lines.append(moved if t is None else f"{moved}; lines of {LINE} bytes {missed}; {t.lines * LINE:,} touched")
        if self.cycles_with_misses is not None:
            priced = f"{self.cycles_with_misses / 1e6:,.2f} million cycles with {CORES[r.core].miss:g} for each L1 miss"
            lines.append(f"estimate, weak: {priced} ({MISS_SOURCE})")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        r = self.result
        return {
            "label": "estimate",
            "how": "executed blocks counted under emulation and priced by a model of the core; no board was measured",
            "model": self.model,
            "board": self.board,
            "core": r.core,
            "clock_hz": self.clock,
            "threads": 1,
            "estimated_cycles": r.total.cycles,
            "estimated_cycles_without_latencies": r.total.throughput,
            "estimated_cycles_with_misses": self.cycles_with_misses,
            "cycles_with_misses_source": MISS_SOURCE,
            "estimated_milliseconds": self.milliseconds,
            "memory_bytes": r.memory,
            "library_bytes": r.library,
            "total": _figures(self._sum()),
            "steps": [_figures(step) for step in r.steps],
            "functions": dict(r.total.functions),
        }

    def write(self, folder: Path) -> list[Path]:
        """Write ``estimate.json`` and ``estimate.png``, making the folder.

        Raises
        ------
        LowbitError
            Where nothing can be written.
        """
        figures, picture = folder / "estimate.json", folder / "estimate.png"
        with writing(figures) as path:
            path.write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")
        with writing(picture) as path:
            self.draw().savefig(path, dpi=_DOTS_PER_INCH)
        return [figures, picture]

    def draw(self) -> Figure:
        """A bar for each step: estimated cycles, and how much of them the technique's limit would leave."""
        bars = [step for step in self.result.steps if step.estimate.cycles >= _SMALL * self.result.total.cycles]
        rest = self.result.total.cycles - sum(step.estimate.cycles for step in bars)
        labels = [f"{step.name} {step.bits} {step.technique}".strip() for step in bars]
        cycles = [step.estimate.cycles / 1e6 for step in bars]
        if rest > 0:
            labels.append(f"{len(self.result.steps) - len(bars)} smaller steps")
            cycles.append(rest / 1e6)
        figure = Figure(figsize=(9, 1.6 + _INCHES_A_BAR * len(labels)), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(labels))
        axes.barh(places, cycles, color=[_COLOURS[0] if step.bits else _COLOURS[1] for step in bars] + [_COLOURS[1]])
        limits = [(place, step.limit / 1e6) for place, step in enumerate(bars) if step.limit is not None]
        axes.plot([x for _, x in limits], [y for y, _ in limits], "|", color=_COLOURS[2], ms=9, mew=2)
        for place, step in enumerate(bars):
            if step.share is not None:
                axes.annotate(f"{step.share:.0%}", (cycles[place], place), (3, 0), **_BESIDE)
        axes.set_yticks(places, labels, fontsize=7)
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.set_xlabel("million cycles (estimate; orange: limit of the technique's arithmetic; %: share of its speed)")
        total = f"{self.result.total.cycles / 1e6:,.1f} million cycles"
        axes.set_title(f"{self.model} on {self.board}: {total}, an estimate", loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        return figure


def _cells(step: StepEstimate) -> Sequence[str]:
    e = step.estimate
    t = e.traffic
    return (
        _shortened(step.name),
        step.bits,
        step.technique,
        f"{e.cycles:,.0f}",
        f"{step.macs_per_cycle:.2f}" if step.macs else "",
        "" if step.share is None else f"{step.share:.0%}",
        f"{e.loaded / 1e3:,.0f}",
        f"{e.stored / 1e3:,.0f}",
        "" if t is None else f"{t.lines * LINE / 1e3:,.0f}",
        "" if t is None else f"{t.l1_misses:,}",
        "" if t is None else f"{t.l2_misses:,}",
    )


def _shortened(name: str) -> str:
    """Both ends of a long name: a layer's place in the network, and its operator or what a kernel ends with."""
    if len(name) <= _NAME:
        return name
    half = (_NAME - 1) // 2
    return f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[half + 1 - _NAME :]}"


def _figures(step: StepEstimate) -> dict[str, Any]:
    e = step.estimate
    return {
        "layer": step.name,
        "kernel": step.symbol,
        "bits": step.bits,
        "technique": step.technique,
        "macs": step.macs,
        "estimated_cycles": e.cycles,
        "estimated_cycles_without_latencies": e.throughput,
        "macs_per_cycle": step.macs_per_cycle,
        "limit_cycles": step.limit,
        "share_of_limit": step.share,
        "instructions": e.instructions,
        "bytes_loaded": e.loaded,
        "bytes_stored": e.stored,
        "caches": None if e.traffic is None else asdict(e.traffic),
    }
