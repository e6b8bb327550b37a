"""A board emulated by qemu's user mode: Arm code, this machine's kernel, no image to boot."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schedules.errors import LowbitError
from tvm_lowbit.boards.aarch64_runtime import has_runtime, install_command, runtime_root
from tvm_lowbit.boards.board_compiler import can_compile, compile_server
from tvm_lowbit.boards.remote_session import RemoteSession

QEMU = "qemu-aarch64-static"
SYSROOT = Path("/usr/aarch64-linux-gnu")


def absent(needed: Mapping[str, bool]) -> str | None:
    """What of some tools, and of what every emulated program runs on, is not there, and the command that brings it.

    Parameters
    ----------
    needed : mapping of str to bool
        Further pieces, and whether each is there.

    Returns
    -------
    str or None
        None if all is there.
    """
    there = {
        **needed,
        f"{SYSROOT}/lib (libc6-arm64-cross)": (SYSROOT / "lib/ld-linux-aarch64.so.1").exists(),
        f"{SYSROOT}/lib/libstdc++.so.6": (SYSROOT / "lib/libstdc++.so.6").exists(),
        "TVM's aarch64 runtime": has_runtime(),
    }
    pieces = [piece for piece, is_there in there.items() if not is_there]
    return f"missing {', '.join(pieces)}; install with: {install_command()}" if pieces else None


LOOPBACK = "127.0.0.1"


# What a server that is not stuck needs by far to end its session's process; until then nothing is killed.
_GRACE = 2.0


def _stop(process: subprocess.Popen[str], folder: tempfile.TemporaryDirectory[str]) -> None:
    assert process.stdin is not None and process.stdout is not None
    try:
        # At the end of its input the server ends its session's process, waits for it, and ends: no zombie is left to
        # an init that, in a container, may not collect it.
        process.stdin.close()
        process.wait(_GRACE)
    except (OSError, subprocess.TimeoutExpired):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the server and the processes it forked
        process.wait()
    process.stdout.close()
    folder.cleanup()


class EmulatedSession(RemoteSession):
    """A session whose end is the end of the emulator.

    Parameters
    ----------
    name : str
        The board, as errors name it.
    rpc : Any
        TVM's RPC session.
    process : subprocess.Popen
        The emulator.
    folder : tempfile.TemporaryDirectory
        Where the emulator keeps its files.
    """

    def __init__(
        self, name: str, rpc: Any, process: subprocess.Popen[str], folder: tempfile.TemporaryDirectory[str]
    ) -> None:
        super().__init__(name, rpc, "did the kernel use an instruction the emulated core lacks, or run out of memory?")
        self.process = process
        # Also runs when the session is forgotten, and at interpreter exit.
        self._stop = weakref.finalize(self, _stop, process, folder)

    def close(self) -> None:
        """Close the connection and end the emulator."""
        super().close()
        self._stop()


@dataclass(frozen=True)
class EmulatedBoard:
    """A board that needs no board. What it computes is right; how long it takes says nothing.

    Parameters
    ----------
    cpu : str
        As ``qemu-aarch64-static -cpu help`` lists them: cortex-a53, cortex-a72, cortex-a76, ...
    call_timeout : float
        Seconds to wait for each answer.
    startup_timeout : float
        Seconds to wait for the emulator to start.
    """

    cpu: str = "cortex-a72"
    call_timeout: float = 300.0
    startup_timeout: float = 30.0

    @property
    def name(self) -> str:
        """Return what messages call the board.

        Returns
        -------
        str
            Its core, marked as emulated.
        """
        return f"emulated {self.cpu}"

    @property
    def machine(self) -> str | None:
        """Return the architecture of its libraries; see `Board.machine`."""
        return "aarch64"

    @staticmethod
    def missing() -> str | None:
        """Return what has to be installed first, and the command that does it.

        Returns
        -------
        str or None
            None if all is there.
        """
        there = {
            QEMU: shutil.which(QEMU) is not None,
            "the board server or a C compiler for aarch64": can_compile(),
        }
        return absent(there)

    def open(self) -> EmulatedSession:
        """Start the emulator and connect to it.

        Returns
        -------
        EmulatedSession
            To be closed; ends with this process otherwise.

        Raises
        ------
        LowbitError
            When something is missing or the server does not start.
        """
        missing = self.missing()
        if missing is not None:
            raise LowbitError(f"board {self.name}", "an emulator", missing, install_command())
        from tvm_lowbit.boards.connection import connect

        # Other users of this machine reach its loopback too, and a server runs what it is sent: hence a key, and not
        # among the arguments, which they can read.
        key = secrets.token_hex(8)
        command = self._command()
        folder = tempfile.TemporaryDirectory(prefix="tvm_lowbit-", ignore_cleanup_errors=True)
        log = Path(folder.name) / "log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # the server ends when this does, so not even a killed Python leaves it behind
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
                env={**os.environ, "TVM_LOWBIT_BOARD_KEY": key, "TMPDIR": folder.name},
            )
        try:
            port = self._port(process, log)
            patience = self.startup_timeout
            rpc = connect(LOOPBACK, port, key, connect_timeout=patience, call_timeout=self.call_timeout)
            return EmulatedSession(self.name, rpc, process, folder)
        except BaseException as error:  # an interrupt too must not leave the emulator running
            _stop(process, folder)
            if isinstance(error, LowbitError) or not isinstance(error, OSError | RuntimeError):
                raise
            raise LowbitError(f"board {self.name}", "an RPC server that answers", str(error), QEMU) from error

    def _command(self) -> list[str]:
        emulator = [QEMU, "-cpu", self.cpu, "-L", str(SYSROOT)]
        return [*emulator, str(compile_server()), "--libs", str(runtime_root()), "--host", LOOPBACK, "--until-eof"]

    def _port(self, process: subprocess.Popen[str], log: Path) -> int:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], self.startup_timeout)
        line = process.stdout.readline() if ready else ""
        if line.strip().isdigit():
            return int(line)
        said = log.read_text(errors="replace").strip()[-1000:]
        got = f"{'nothing from it' if ready else f'nothing within {self.startup_timeout:g} s'}: {said}"
        raise LowbitError(f"board {self.name}", "the port of its server", got, f"is it in `{QEMU} -cpu help`?")
