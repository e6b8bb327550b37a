"""``Job``: what runner.c is to do, as the lines that it reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.errors import LowbitError

Array = npt.NDArray[Any]
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}  # of DLPack


class Job:
    """Lines for the runner, and the files that they name, in one folder.

    Parameters
    ----------
    folder : Path
        Where arguments are written and results are read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self._files = 0

    def load(self, library: Path, kernels: Sequence[str]) -> None:
        """Load a library; the calls of these functions of it are counted apart, by their place in the sequence."""
        self.lines.append(f"load {_path(library)}")
        self.lines += [f"entry {i} {symbol}" for i, symbol in enumerate(kernels)]

    def function(self, name: str, *, machine: bool = False) -> None:
        """What `call` calls: a function of the library, or one of TVM's virtual machine that runs it."""
        self.lines.append(f"{'machine' if machine else 'function'} {name}")

    def argument(self, array: Array) -> None:
        """Pass an array next."""
        path = self.folder / f"argument{self._files}"
        self._files += 1
        contiguous = np.ascontiguousarray(array)
        contiguous.tofile(path)
        shape = " ".join(map(str, array.shape))
        code, width = _CODES[array.dtype.kind], array.dtype.itemsize * 8
        self.lines.append(f"tensor {code} {width} {array.ndim} {shape} {path}".replace("  ", " "))

    def call(self, segment: int, *, warm: bool = True) -> None:
        """Call twice, and count the second call as this segment; the only one if it need not be ``warm``."""
        self.lines.append(f"{'call' if warm else 'once'} {segment}")

    def save(self, index: int) -> Path:
        """Where the bytes of an argument will be, as the calls left them."""
        path = self.folder / f"result{self._files}"
        self._files += 1
        self.lines.append(f"save {index} {path}")
        return path

    @contextmanager
    def apart(self, seconds: int) -> Iterator[None]:
        """Do what is added inside the block in a process of its own, as if nothing had gone before, or stop trying."""
        self.lines.append(f"fork {seconds}")
        yield
        self.lines.append("join")

    def write(self) -> Path:
        """The job as a file; the runner also tells where libraries were mapped."""
        path = self.folder / "job"
        path.write_text("\n".join([*self.lines, "bases"]) + "\n")
        return path


def _path(path: Path) -> str:
    text = str(path.resolve())
    if re.search(r"[\n,]", text):
        raise LowbitError("metering", "a path without commas and line breaks", repr(text))
    return text
