"""A process that compiles and runs one kernel after another, so that one that crashes or hangs costs only itself.

LLVM ends the process on code that it cannot select, which no exception handler catches. The worker is asked over a
socket: what to do, then its arguments; it answers ``("done", value)`` or ``("error", exception's text or fields)``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe
from types import MappingProxyType
from typing import Any

import numpy.typing as npt

from schedules.errors import LowbitError

Array = npt.NDArray[Any]
# Importing TVM, the first time, on a slow disk.
STARTING = 120.0
# Between a command that should have ended by itself and the end of the process.
MARGIN = 30.0
_REPEATS, _LEAST_MS = 5, 20


class WorkerFailure(Exception):
    """The command did not end well: the worker has crashed, hung, or raised; the text says how."""


class Worker:
    """The other process, started when first asked and again after each crash.

    Parameters
    ----------
    threads : int
        How many TVM may use there.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the worker

    def ask(self, command: str, *arguments: Any, patience: float) -> Any:
        """The answer to a command.

        Raises
        ------
        WorkerFailure
            See there. The next command finds a new process where this one is gone.
        LowbitError
            If that is what the worker raised: no fault of the command's.
        """
        connection = self._start()
        try:
            connection.send((command, arguments))
            if not connection.poll(patience):
                self.close()
                raise WorkerFailure(f"no end within {patience:g} s")
            kind, value = connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerFailure(self._ending()) from error
        if kind == "lowbit":
            raise LowbitError(*value)
        if kind == "error":
            raise WorkerFailure(value)
        return value

    def close(self) -> None:
        """End the process, and what it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection:
        if self._connection is not None:
            return self._connection
        here, there = Pipe()
        with there:
            environment = {**os.environ, "TVM_NUM_THREADS": str(self._threads)}
            # What this process can import, that one can.
            environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
            self._said.seek(0)
            self._said.truncate()
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import main; main()", str(there.fileno())],
                pass_fds=[there.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                start_new_session=True,
            )
        self._connection = here
        try:
            ready = here.poll(STARTING) and here.recv() == "ready"
        except EOFError:
            ready = False
        if not ready:
            raise LowbitError("tune", "a worker process that starts", self._ending())
        return here

    def _ending(self) -> str:
        """How the process ended, and the last that it said."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout=MARGIN)
        except subprocess.TimeoutExpired:
            code = 0
        self._said.seek(0)
        lines = [line for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        self.close()
        how = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
        # LLVM's own words come first, traces after them.
        said = next((line for line in lines if "ERROR" in line), lines[-1] if lines else "nothing said")
        return f"the process ended with {how}: {said[:500]}"


def _meter(function: str, arguments: Sequence[Array], core: str, patience: float) -> tuple[Any, ...]:
    """Estimated cycles on the emulated core, what was written, and why there is neither."""
    from tvm.ir import load_json

    from tvm_lowbit.metering.kernels import meter_kernels

    (metered,) = meter_kernels([(load_json(function), arguments)], core, patience=patience)
    cycles = None if metered.estimate is None else metered.estimate.cycles
    return cycles, metered.output, metered.failure


def _time(function: str, arguments: Sequence[Array], core: str, patience: float) -> tuple[Any, ...]:
    """The same on this machine, seconds in the place of cycles: the least mean of several runs."""
    import tvm
    from tvm.ir import load_json

    from schedules.cores import find_core

    module = tvm.IRModule({"kernel": load_json(function).with_attr("global_symbol", "kernel")})
    kernel = tvm.compile(module, tvm.target.Target(find_core(core).target_dict()))
    tensors = [tvm.runtime.tensor(array) for array in arguments]
    kernel["kernel"](*tensors)
    output = tensors[-1].numpy()
    measured = kernel.mod.time_evaluator("kernel", tvm.cpu(0), repeat=_REPEATS, min_repeat_ms=_LEAST_MS)(*tensors)
    return min(measured.results), output, None


COMMANDS: Mapping[str, Callable[..., Any]] = MappingProxyType({"meter": _meter, "time": _time})


def main() -> None:
    """Answer commands until there is no one to ask."""
    import tvm_lowbit  # noqa: F401 - what takes seconds, before the first command's time counts

    connection: Connection = Connection(int(sys.argv[1]))
    connection.send("ready")
    while True:
        try:
            command, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = "done", COMMANDS[command](*arguments)
        except LowbitError as error:
            answer = "lowbit", (error.where, error.expected, error.got, error.hint)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            answer = "error", f"{type(error).__name__}: {lines[-1][:500]}"
        with contextlib.suppress(BrokenPipeError):
            connection.send(answer)
