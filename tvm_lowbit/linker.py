"""Linking TVM's object files into a shared library, without needing a compiler for the target.

Everything TVM hands over was already compiled by LLVM, so any linker that reads the target's ELF objects will do. The
libraries are linked without the C library (``-nostdlib``): what they use of libc and libm is in the process that loads
them, and so no sysroot is needed.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from schedules.errors import LowbitError

ALIASES = {"arm64": "aarch64", "amd64": "x86_64"}
# An executable stack is what GNU ld assumes of objects that do not say; TVM's constants object does not.
_LD = ("-shared", "-s", "-z", "noexecstack")
_CC = ("-shared", "-s", "-nostdlib", "-Wl,-z,noexecstack")
_STDERR_TAIL = 2000


def host_machine() -> str:
    """Return this machine's name as a target triple spells it: ``x86_64``, ``aarch64``."""
    machine = platform.machine().lower()
    return ALIASES.get(machine, machine)


def _program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is not None


def _module(name: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(name) is not None


@dataclass(frozen=True)
class Linker:
    """A row of `LINKERS`; also the ``fcompile`` that ``export_library`` calls.

    Parameters
    ----------
    name : str
        What a user calls it.
    probe : Callable[[], bool]
        Whether it is installed here.
    command : tuple[str, ...]
        Program and flags; output and objects follow.
    links : str
        The machine whose objects it reads: a name, ``host`` or ``any``.
    machine : str
        The machine it was chosen for; filled in by `find_linker`.
    """

    name: str
    probe: Callable[[], bool]
    command: tuple[str, ...]
    links: str
    machine: str = ""

    # Names that export_library looks up on its fcompile.
    output_format: ClassVar[str] = "so"

    def get_target_triple(self) -> str:
        """Return the triple of what it links; TVM asks when no module names one.

        Returns
        -------
        str
            For example ``aarch64-linux-gnu``.
        """
        return f"{self.machine or host_machine()}-linux-gnu"

    def reads(self, machine: str) -> bool:
        """Tell whether it links objects of a machine.

        Parameters
        ----------
        machine : str
            As `host_machine` spells it.

        Returns
        -------
        bool
            Whether it does.
        """
        return self.links in ("any", machine) or (self.links == "host" and machine == host_machine())

    def __call__(
        self,
        output: str | os.PathLike[str],
        objects: str | Sequence[str],
        options: Sequence[str] = (),
        **_ignored: object,
    ) -> None:
        """Link objects into a shared library.

        Parameters
        ----------
        output : str or os.PathLike
            The library to write.
        objects : str or sequence of str
            The object files.
        options : sequence of str, optional
            Further linker options.
        **_ignored : object
            What else TVM passes to a compiler.

        Raises
        ------
        LowbitError
            When the linker fails, with what it wrote.
        """
        files = [objects] if isinstance(objects, str) else list(objects)
        command = [*self.command, "-o", os.fspath(output), *files, *options]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise LowbitError(f"linker {self.name}", "a program that starts", str(error), _HINT) from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[-_STDERR_TAIL:]
            raise LowbitError(
                f"linker {self.name}",
                f"{len(files)} {self.machine or host_machine()} object files linked into {Path(output).name}",
                f"exit code {done.returncode}: {said}",
                f"is the model compiled for {self.get_target_triple()}? Other linkers: tvm_lowbit.linker.LINKERS",
            )


# In order of preference: the system's own first, as that is what its libraries were linked with.
LINKERS: tuple[Linker, ...] = (
    Linker("cc", _program("cc"), ("cc", *_CC), "host"),
    Linker("c++", _program("c++"), ("c++", *_CC), "host"),
    Linker("aarch64-linux-gnu-gcc", _program("aarch64-linux-gnu-gcc"), ("aarch64-linux-gnu-gcc", *_CC), "aarch64"),
    Linker("aarch64-linux-gnu-ld", _program("aarch64-linux-gnu-ld"), ("aarch64-linux-gnu-ld", *_LD), "aarch64"),
    Linker("ld", _program("ld"), ("ld", *_LD), "host"),
    Linker("ld.lld", _program("ld.lld"), ("ld.lld", *_LD), "any"),
    Linker("ziglang", _module("ziglang"), (sys.executable, "-m", "ziglang", "ld.lld", *_LD), "any"),
)

_HINT = (
    "apt-get install gcc-aarch64-linux-gnu (Debian, Ubuntu; lld links for every machine), "
    "or pip install 'tvm-lowbit[cross]'"
)


def available_linkers(machine: str = "aarch64") -> list[Linker]:
    """List the installed linkers for a machine, preferred first.

    Parameters
    ----------
    machine : str
        The machine the objects are for.

    Returns
    -------
    list[Linker]
        Empty if there is none.
    """
    machine = ALIASES.get(machine, machine)
    return [
        Linker(row.name, row.probe, row.command, row.links, machine)
        for row in LINKERS
        if row.reads(machine) and row.probe()
    ]


def find_linker(machine: str = "aarch64") -> Linker:
    """Choose the linker for a machine.

    Parameters
    ----------
    machine : str
        The machine the objects are for; `host_machine` for this one.

    Returns
    -------
    Linker
        To be passed as ``export_library(path, fcompile=...)``.

    Raises
    ------
    LowbitError
        When none is installed.
    """
    for linker in available_linkers(machine):
        return linker
    names = ", ".join(row.name for row in LINKERS if row.reads(ALIASES.get(machine, machine)))
    raise LowbitError("linker", f"one of {names} for {machine}", "none of them installed", _HINT)
