"""A board that is this process."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm

from schedules.errors import LowbitError
from tvm_lowbit.boards.session import Session
from tvm_lowbit.linker import host_machine
from tvm_lowbit.quiet import without_scope_warnings


class LocalSession(Session):
    """Libraries in this process."""

    def __init__(self) -> None:
        super().__init__("local", tvm.cpu(0))
        self._folder = tempfile.TemporaryDirectory(prefix="tvm_lowbit-")
        self._count = itertools.count()

    def load(self, path: Path) -> Any:
        """Load a library into this process; see `Session.load`.

        Parameters
        ----------
        path : Path
            A library linked for this machine.

        Returns
        -------
        Any
            The TVM module.

        Raises
        ------
        LowbitError
            When it cannot be loaded.
        """
        # The loader knows a library by its path: a second version at the same path would be the first one again.
        copy = Path(self._folder.name) / f"{next(self._count)}-{Path(path).name}"
        try:
            shutil.copyfile(path, copy)
            with without_scope_warnings():
                return tvm.runtime.load_module(str(copy))
        except (OSError, RuntimeError, ValueError) as error:
            hint = "is the library linked for this machine, and not for the board?"
            raise LowbitError(f"loading {path}", "a shared library for this machine", str(error), hint) from error

    def function(self, name: str) -> Any:
        """Look up a global function; see `Session.function`.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        Any
            The function.
        """
        return tvm.get_global_func(name)

    def close(self) -> None:
        """Remove the copies; the loaded libraries stay in memory for as long as they are used."""
        self._folder.cleanup()


@dataclass(frozen=True)
class LocalBoard:
    """The machine this process runs on."""

    name: str = "local"

    @property
    def machine(self) -> str | None:
        """Return the architecture of its libraries; see `Board.machine`."""
        return host_machine()

    def missing(self) -> str | None:
        """Return what has to be installed.

        Returns
        -------
        str or None
            Nothing: always None.
        """
        return None

    def open(self) -> LocalSession:
        """Open a session.

        Returns
        -------
        LocalSession
            To be closed.
        """
        return LocalSession()
