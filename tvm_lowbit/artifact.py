"""``Artifact``: a compiled model, to run here or on a board, to look at, and to save."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schedules.cores import CORES, host_core, host_features
from schedules.errors import LowbitError
from tvm_lowbit.boards.local import LocalBoard
from tvm_lowbit.boards.session import Board
from tvm_lowbit.deploy import read_bundle, save_bundle
from tvm_lowbit.linker import find_linker, host_machine
from tvm_lowbit.manifest import Manifest
from tvm_lowbit.program import Program
from tvm_lowbit.quiet import without_scope_warnings
from tvm_lowbit.report import Report
from tvm_lowbit.result import Result


class Artifact:
    """What `build` and `load` return.

    Parameters
    ----------
    manifest : Manifest
        What the library takes, gives and is made of.
    executable : Any, optional
        TVM's executable, right after a build.
    library : Path, optional
        The linked shared library of a bundle whose digest has been checked.
    """

    def __init__(self, manifest: Manifest, executable: Any = None, library: Path | None = None) -> None:
        self.manifest = manifest
        self._executable, self._library = executable, library
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._program: Program | None = None

    @property
    def report(self) -> Report:
        """A row per layer: bits, technique, why; and what holds for the whole network."""
        m = self.manifest
        return Report(m.layers, m.assignment, m.memory, m.kernels)

    @property
    def is_host(self) -> bool:
        """Whether this process can run the library."""
        return self.manifest.mtriple.split("-")[0] == host_machine()

    def library(self) -> Path:
        """The linked library; linked at the first call, and gone with the artifact: `save` keeps it.

        Raises
        ------
        LowbitError
            If no linker for the target is installed.
        """
        if self._library is None:
            linker = find_linker(self.manifest.mtriple.split("-")[0])
            self._folder = tempfile.TemporaryDirectory(prefix="tvm_lowbit_")
            path = Path(self._folder.name) / "model.so"
            with without_scope_warnings():
                self._executable.export_library(str(path), fcompile=linker)
            self._library = path
        return self._library

    def run(
        self, inputs: Any, board: Board | None = None, each: Callable[[int, int], None] = lambda done, total: None
    ) -> Result:
        """Predict and explain.

        Parameters
        ----------
        inputs : array or mapping of str to array
            float32 ``(N, ...)``, N a multiple of the compiled batch.
        board : Board, optional
            Where to run; this process by default.
        each : callable, optional
            Called with items done and items in all.

        Raises
        ------
        LowbitError
            For wrong inputs, a board that is lost, or a library that this machine cannot run.
        """
        machine = self.manifest.mtriple.split("-")[0]
        if board is not None:
            if board.machine not in (None, machine):
                hint = "build it with that board's target"
                raise LowbitError(f"board {board.name}", f"a library for {board.machine}", f"one for {machine}", hint)
            with board.open() as session:
                return Program(session.load(self.library()), session, self.manifest)(inputs, each)
        if not self.is_host:
            raise LowbitError(
                "run",
                "a board that can run it",
                f"a library for {self.manifest.mtriple} on this machine",
                "pass board=tvm_lowbit.boards.EmulatedBoard() or RpcBoard(host, port)",
            )
        if self._program is None:
            self._check_core()
            session = LocalBoard().open()
            library = self._executable if self._executable is not None else session.load(self.library())
            self._program = Program(library, session, self.manifest)
        return self._program(inputs, each)

    def _check_core(self) -> None:
        """An instruction that this machine lacks would end the process."""
        m, here = self.manifest, host_core()
        features = m.features
        if features is None:
            features = tuple(CORES[m.core].features) if m.core in CORES else ()
        lacking = sorted(set(features) - host_features())
        if lacking:
            portable = {"kind": "llvm", "mtriple": here.mtriple, "mcpu": here.mcpu}
            raise LowbitError(
                "run",
                f"a library for {here.name}, as this machine is, or for an older core",
                f"one for {m.core} ({m.mcpu}), which uses {', '.join(lacking)}",
                f'build it again on this machine with target "host", or elsewhere with target={portable}',
            )

    def save(self, path: str | Path) -> Path:
        """Write a bundle: library, manifest, and what a board needs; see `deploy.save_bundle`."""
        return save_bundle(self.library(), self.manifest, Path(path))

    def __repr__(self) -> str:
        m = self.manifest
        low, other = len(self.report.low_bit), len(self.report.stays_float)
        return f"Artifact(board={m.board!r}, core={m.core!r}, {low} low-bit layers, {other} float)"


def load(path: str | Path, digest_of_manifest: str | None = None) -> Artifact:
    """The artefact of a bundle, once every file has been checked; see `deploy.read_bundle`."""
    manifest, library = read_bundle(path, digest_of_manifest)
    return Artifact(manifest, library=library)
