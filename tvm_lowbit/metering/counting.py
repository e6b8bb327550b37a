"""Running a `Job` under QEMU and reading how often each block ran."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from schedules.cores import CoreSpec
from schedules.errors import LowbitError
from tvm_lowbit.boards.aarch64_runtime import runtime_root
from tvm_lowbit.boards.emulated import SYSROOT
from tvm_lowbit.metering.elf import Symbols, read_symbols
from tvm_lowbit.metering.job import Job
from tvm_lowbit.metering.tools import PLUGIN_QEMU, plugin, require_tools, runner

# The environment is part of what a program's addresses depend on; it is the same for every run.
_ENVIRONMENT = {"TVM_NUM_THREADS": "1", "LD_BIND_NOW": "1"}
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
    """

    calls: list[Call] = field(default_factory=list)
    blocks: dict[int, Block] = field(default_factory=dict)


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


def run_job(job: Job, core: CoreSpec, *, caches: bool = False, timeout: float = 600.0) -> Counts:
    """Run a job on the emulated core.

    Parameters
    ----------
    job : Job
        What to call.
    core : CoreSpec
        A core of Arm.
    caches : bool
        Whether to follow each access through the core's caches too; takes about twice as long.
    timeout : float
        Seconds after which the emulator is stopped.

    Returns
    -------
    Counts
        What was counted until the run ended, with the reason if it ended early.

    Raises
    ------
    LowbitError
        When something is not installed.
    """
    require_tools()
    loaded = plugin()
    with tempfile.TemporaryDirectory(prefix="tvm_lowbit-") as folder:
        out = Path(folder) / "counts"
        command = ["-cpu", core.name, "-seed", "1", "-L", str(SYSROOT)]
        if loaded is None:
            raise LowbitError("metering", "qemu with plugins", "none")
        options = f"{loaded},out={out}"
        if caches:
            options += f",l1={core.l1.size}:{core.l1.ways},l2={core.l2.size}:{core.l2.ways}"
        command = [PLUGIN_QEMU, *command, "-plugin", options]
        command += [str(runner()), str(runtime_root()), str(job.write())]
        counts = Counts()
        counts.failure = _run(command, timeout, counts)
        if out.exists():
            with out.open() as lines:
                _read(lines, counts)
    return counts


def _run(command: Sequence[str], timeout: float, counts: Counts) -> str | None:
    """Run the emulator; why it ended early, or None."""
    environment = {name: os.environ[name] for name in ("PATH",) if name in os.environ} | _ENVIRONMENT
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no end within {timeout:g} s"
    said = done.stderr.decode(errors="replace").strip()[-1000:]
    for line in done.stdout.decode(errors="replace").splitlines():
        word, *rest = line.split(" ")
        if word == "base":
            counts.bases[" ".join(rest[:-1])] = int(rest[-1], 16)
        elif word == "heap":
            counts.heap = int(rest[0])
        elif word == "apart":
            counts.apart.append(_ending(int(rest[1]), said))
    return None if done.returncode == 0 else f"exit code {done.returncode}: {said}"


def _ending(status: int, said: str) -> str | None:
    """What waitpid's status says; None for a good end."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "no end within its time" if number == signal.SIGALRM else f"signal {number} ({signal.strsignal(number)})"
    code = os.waitstatus_to_exitcode(status)
    return None if code == 0 else f"exit code {code}: {said}"


def _read(lines: Iterable[str], counts: Counts) -> None:
    """Read what count_blocks.c wrote; a segment that did not end is left out."""
    segment = Segment()
    for line in lines:
        kind, *rest = line.split() or [""]
        if kind == "B":
            segment = Segment()
        elif kind == "E":
            counts.segments[int(rest[0])] = segment
        elif kind == "K":
            segment.calls.append(Call(int(rest[0])))
        elif kind == "N":
            segment.calls[-1].counts[int(rest[0])] = int(rest[1])
        elif kind == "M":
            segment.calls[-1].traffic = Traffic(*map(int, rest))
        elif kind == "T" and len(rest) > 2:
            segment.blocks[int(rest[0])] = Block(int(rest[1], 16), tuple(int(word, 16) for word in rest[2:]))


def total(calls: Iterable[Call]) -> Mapping[int, int]:
    """How often each block ran in all of these calls."""
    sums: dict[int, int] = {}
    for call in calls:
        for block, count in call.counts.items():
            sums[block] = sums.get(block, 0) + count
    return sums
