"""What a run under the emulator counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tvm_lowbit.boards.emulated import SYSROOT
from tvm_lowbit.metering.elf import Symbols, read_symbols

OUTSIDE = -1


@dataclass(frozen=True)
class Block:
    """Instructions that run one after another, at their address in the emulated process."""

    address: int
    words: tuple[int, ...]


@dataclass(frozen=True)
class Traffic:
    """What was read and written: accesses, bytes, lines that missed each cache, and lines touched at all."""

    loads: int = 0
    stores: int = 0
    loaded: int = 0
    stored: int = 0
    l1_misses: int = 0
    l2_misses: int = 0
    lines: int = 0


@dataclass
class Call:
    """Blocks that ran during one call of a kernel (an index; `OUTSIDE`: between the kernels)."""

    kernel: int
    counts: dict[int, int] = field(default_factory=dict)
    traffic: Traffic | None = None


@dataclass
class Segment:
    """One measured call.

    Attributes
    ----------
    calls : list of Call
        What it consisted of, in order.
    blocks : dict of int to Block
        By the number that counts refer to.
    lines : int or None
        Distinct lines of 64 bytes that were touched, where caches were followed.
    """

    calls: list[Call] = field(default_factory=list)
    blocks: dict[int, Block] = field(default_factory=dict)
    lines: int | None = None


@dataclass
class Counts:
    """What one run counted.

    Attributes
    ----------
    segments : dict of int to Segment
        Those that ended.
    bases : dict of str to int
        Where libraries were mapped, by path.
    heap : int
        Bytes of the heap that the job had taken at its end, less those at its beginning.
    apart : list of str or None
        For each process apart, how it failed.
    failure : str or None
        How the run ended before its end.
    """

    segments: dict[int, Segment] = field(default_factory=dict)
    bases: dict[str, int] = field(default_factory=dict)
    heap: int = 0
    apart: list[str | None] = field(default_factory=list)
    failure: str | None = None
    _symbols: dict[str, Symbols] = field(default_factory=dict)

    def function_at(self, address: int) -> tuple[Path, str]:
        """Library and function that an address belongs to."""
        base, path = max(((b, p) for p, b in self.bases.items() if b <= address), default=(0, ""))
        if path not in self._symbols:
            there = next((p for p in (Path(f"{SYSROOT}{path}"), Path(path)) if path and p.is_file()), None)
            self._symbols[path] = read_symbols(there) if there else Symbols((), ())
        name = self._symbols[path].name_at(address - base) or hex(address - base)
        return Path(path or "runner"), name


def total(calls: Iterable[Call]) -> Mapping[int, int]:
    """How often each block ran in all of these calls."""
    sums: dict[int, int] = {}
    for call in calls:
        for block, count in call.counts.items():
            sums[block] = sums.get(block, 0) + count
    return sums
