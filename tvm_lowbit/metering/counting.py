"""Running a `Job` under QEMU, which counts how often each block runs."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from schedules.cores import CoreSpec
from tvm_lowbit.boards.aarch64_runtime import runtime_root
from tvm_lowbit.boards.emulated import SYSROOT
from tvm_lowbit.metering.counts import Block, Call, Counts, Segment, Traffic
from tvm_lowbit.metering.exec_log import ITEMS, LogReader
from tvm_lowbit.metering.job import Job
from tvm_lowbit.metering.tools import PLUGIN_QEMU, find_plugin, plain_qemu, require_tools, runner

# The environment is part of what a program's addresses depend on; it is the same for every run.
_ENVIRONMENT = {"TVM_NUM_THREADS": "1", "LD_BIND_NOW": "1"}


def run_job(job: Job, core: CoreSpec, *, caches: bool = False, timeout: float = 600.0) -> Counts:
    """Run a job on the emulated core.

    Parameters
    ----------
    job : Job
        What to call.
    core : CoreSpec
        A core of Arm.
    caches : bool
        Whether to follow each access through the core's caches too, where QEMU takes plugins.
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
    plugin, counts = find_plugin(), Counts()
    program = ["-cpu", core.name, "-seed", "1", "-L", str(SYSROOT)]
    called = [str(runner()), str(runtime_root()), str(job.write())]
    with tempfile.TemporaryDirectory(prefix="tvm_lowbit-") as folder:
        out = Path(folder) / "counts"
        if plugin is None:
            os.mkfifo(out)
            with ThreadPoolExecutor(1) as pool:
                reading = pool.submit(_read_log, out, counts)
                command = [plain_qemu(), *program, "-d", ITEMS, "-D", str(out), *called]
                counts.failure = _run(command, timeout, counts)
                if not reading.done():
                    # An emulator that never opened its log leaves the reader waiting for someone who does.
                    os.close(os.open(out, os.O_RDWR | os.O_NONBLOCK))
                reading.result()
            return counts
        options = f"{plugin},out={out}"
        if caches:
            options += f",l1={core.l1.size}:{core.l1.ways},l2={core.l2.size}:{core.l2.ways}"
        counts.failure = _run([PLUGIN_QEMU, *program, "-plugin", options, *called], timeout, counts)
        if out.exists():
            with out.open() as lines:
                _read(lines, counts)
    return counts


def _read_log(path: Path, counts: Counts) -> None:
    with path.open(errors="replace") as lines:
        LogReader(counts).read(lines)


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
        elif kind == "W":
            segment.lines = int(rest[0])
        elif kind == "T" and len(rest) > 2:
            segment.blocks[int(rest[0])] = Block(int(rest[1], 16), tuple(int(word, 16) for word in rest[2:]))
