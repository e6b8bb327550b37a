"""The emulated board computes what NumPy does, and its end is never a hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from board_samples import ARM, LENGTH, axpy, export
from emulator import require, require_emulator

from schedules.errors import LowbitError
from tvm_lowbit.boards import aarch64_runtime
from tvm_lowbit.boards.emulated import EmulatedBoard, EmulatedSession
from tvm_lowbit.linker import LINKERS, available_linkers, find_linker


def run_axpy(session: EmulatedSession, library: Path) -> np.ndarray:
    """Load, call and fetch; inputs 0..23 and 1000."""
    function = session.load(library)["axpy"]
    a, b = np.arange(LENGTH, dtype="int32"), np.full(LENGTH, 1000, "int32")
    out = session.tensor(np.zeros(LENGTH, "int32"))
    function(session.tensor(a), session.tensor(b), out)
    return out.numpy()


# LLVM's lld is the same program on its own and inside ziglang, which the test extra brings.
@pytest.mark.parametrize("name", [r.name for r in LINKERS if r.links in ("aarch64", "any") and r.name != "ld.lld"])
def test_every_linker_makes_a_library_that_runs(name: str, emulated_board: EmulatedSession, tmp_path: Path) -> None:
    found = {linker.name: linker for linker in available_linkers("aarch64")}
    require(None if name in found else f"{name}: sh tvm_lowbit/boards/install_emulator.sh, or pip install ziglang")
    library = export(axpy(3), ARM, tmp_path / "axpy.so", found[name])
    np.testing.assert_array_equal(run_axpy(emulated_board, library), np.arange(LENGTH) * 3 + 1000)


def test_a_second_library_of_the_same_name_replaces_the_first(emulated_board: EmulatedSession, tmp_path: Path) -> None:
    for scale in (5, 7):
        library = export(axpy(scale), ARM, tmp_path / "axpy.so", find_linker())
        np.testing.assert_array_equal(run_axpy(emulated_board, library), np.arange(LENGTH) * scale + 1000)


def test_a_refused_library_leaves_the_session_usable(emulated_board: EmulatedSession, tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_bytes(b"not an ELF file")
    with pytest.raises(LowbitError, match=r"loading broken\.so"):
        emulated_board.load(tmp_path / "broken.so")
    library = export(axpy(2), ARM, tmp_path / "axpy.so", find_linker())
    np.testing.assert_array_equal(run_axpy(emulated_board, library), np.arange(LENGTH) * 2 + 1000)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_lost_emulator_is_an_error_and_no_hang(sent: signal.Signals, tmp_path: Path) -> None:
    require_emulator()
    library = export(axpy(3), ARM, tmp_path / "axpy.so", find_linker())
    began = time.monotonic()
    with (
        pytest.raises(LowbitError, match=r"no answer|lost connection"),
        EmulatedBoard(call_timeout=1).open() as session,
    ):
        function = session.load(library)["axpy"]
        a = session.tensor(np.zeros(LENGTH, "int32"))
        os.killpg(session.process.pid, sent)
        function(a, a, a)
    assert time.monotonic() - began < 10
    assert session.process.returncode is not None
    with pytest.raises(LowbitError, match="a closed one"):
        session.load(library)


def test_nothing_is_left_when_python_ends_without_closing(tmp_path: Path) -> None:
    require_emulator()
    script = """
        from tvm_lowbit.boards import EmulatedBoard
        session = EmulatedBoard().open()
        print(session.process.pid, flush=True)
    """
    ends = ("", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    commands = [[sys.executable, "-c", textwrap.dedent(script) + end] for end in ends]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path)}
    started = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) for line in commands]
    for process, end in zip(started, ends, strict=True):
        pid = int(process.communicate(timeout=60)[0])
        deadline = time.monotonic() + 10
        while _runs(pid):
            assert time.monotonic() < deadline, f"process {pid} survived: {end or 'normal exit'}"
            time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        # A zombie whose new parent does not collect it has ended, and is not ours any more.
        return " Z " not in Path(f"/proc/{pid}/stat").read_text().split(")")[-1][:3]
    except FileNotFoundError:
        return False


def test_missing_pieces_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TVM_LOWBIT_CACHE", str(tmp_path))
    missing = EmulatedBoard.missing()
    assert missing is not None
    assert "qemu-aarch64-static" in missing
    assert "TVM's aarch64 runtime" in missing
    assert missing.endswith("tvm_lowbit/boards/install_emulator.sh")
    with pytest.raises(LowbitError, match=r"install_emulator\.sh"):
        EmulatedBoard().open()
    with pytest.raises(LowbitError, match="none there"):
        aarch64_runtime.runtime_root()
    assert not any(tmp_path.iterdir()), "nothing may be fetched by asking"


def test_an_unknown_core_is_named() -> None:
    require_emulator()
    with pytest.raises(LowbitError, match="cpu help"):
        EmulatedBoard("cortex-a0").open()
